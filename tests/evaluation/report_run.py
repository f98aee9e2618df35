"""A made-up comparison run: eight policies, 300 questions, two seeds, no model."""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from stet.core.trace import BlockRecord, Counters, RequestTrace, Settings, TokenRecord
from stet.evaluation.records import (
    TRACES,
    Answer,
    PolicyEntry,
    QuestionEntry,
    Results,
    Run,
)

SEEDS = [1, 2]
HOSTILE = '<script>alert("from the model")</script>'


@dataclass(frozen=True)
class Kind:
    """How a policy of the example behaves."""

    label: str
    name: str
    parameters: dict
    lossless: bool
    accuracy: float
    agreement: float  # share of questions on which it follows the target
    speed: float
    accept: float | None  # how likely the next drafted token is accepted
    samples: int = 1


KINDS = [
    Kind("target", "target", {}, True, 0.823, 1.0, 1.0, None),
    Kind("draft", "draft", {}, False, 0.561, 0.55, 4.1, None),
    Kind("exact", "exact", {}, True, 0.823, 0.99, 1.62, 0.78),
    Kind("block", "block", {}, True, 0.825, 0.99, 1.71, 0.80),
    Kind("typical", "typical", {"epsilon": 0.3, "delta": 0.09}, False, 0.79, 0.9, 2.02, 0.88),
    Kind("ensemble", "ensemble", {"weight": 0.35}, False, 0.849, 0.9, 1.58, 0.77),
    Kind(
        "steps",
        "steps",
        {"threshold": 0.62, "candidates": 2, "grounding": 0.5},
        False,
        0.838,
        0.86,
        2.31,
        0.9,
    ),
    Kind("majority-5", "majority", {"samples": 5, "of": "draft"}, False, 0.702, 0.65, 0.9, None, 5),
]
NAMES = ["Ann", "Bo", "Chidi", "Dana", "Émile", "Farah"]
THINGS = ["pens", "apples", "stamps", "marbles", "tickets"]
LENGTH = 6


def question(index: int, generator: random.Random) -> tuple[QuestionEntry, list[str], int]:
    """A word problem, the lines of its solution, and the result."""
    name, thing = generator.choice(NAMES), generator.choice(THINGS)
    boxes, each, given = (
        generator.randint(3, 12),
        generator.randint(4, 25),
        generator.randint(2, 11),
    )
    total = boxes * each
    prompt = (
        f"{name} has {boxes} boxes of {each} {thing} and gives {given} {thing} away. "
        f"How many {thing} are left?"
    )
    lines = [
        f"{name} begins with {boxes} * {each} = {total} {thing}.",
        f"After giving {given} away there are {total} - {given} = {total - given} {thing}.",
        f"The answer is {total - given}.",
    ]
    entry = QuestionEntry(
        f"boxes-{index:03}", prompt, str(total - given), "two steps" if index % 3 else "with a trap"
    )
    return entry, lines, total - given


def pieces(text: str) -> list[str]:
    """Something like tokens: words with the space before them, numbers digit by digit."""
    found: list[str] = []
    for char in text:
        joins = found and not found[-1][-1].isdigit() and char.isalpha() and found[-1] != "\n"
        if joins and (found[-1][-1].isalpha() or found[-1] == " "):
            found[-1] += char
        else:
            found.append(char)
    return found


def trace(
    text: str, kind: Kind, generator: random.Random, prompt: str, finish: str = "stop"
) -> RequestTrace:
    """A trace that looks like one of this policy."""
    tokens: list[TokenRecord] = []
    blocks: list[BlockRecord] = []
    rest = [*pieces(text), "</s>"]
    while rest:
        accepted = 0
        if kind.accept is not None:
            while accepted < LENGTH and accepted < len(rest) and generator.random() < kind.accept:
                accepted += 1
        position, drafted, accepted_mismatches = len(tokens), [], []
        for index, piece in enumerate(rest[: accepted + 1]):
            draft = index < accepted or kind.label == "draft"
            p_target = round(generator.betavariate(6, 1), 4)
            reason = "accepted" if draft else "recovered" if accepted < LENGTH else "bonus"
            if draft and not kind.lossless and generator.random() < 0.04:
                p_target, reason = round(generator.uniform(0.05, 0.4), 4), "tolerated"
                accepted_mismatches.append(index)
            token = TokenRecord(
                sum(map(ord, piece)),
                piece,
                "draft" if draft else "target",
                reason,
                p_target,
                round(generator.betavariate(5, 1), 4) if kind.accept is not None else None,
            )
            tokens.append(token)
            drafted.append(token.id)
        if kind.accept is not None:
            blocks.append(BlockRecord(position, drafted, accepted, accepted_mismatches, None))
        rest = rest[accepted + 1 :]
    settings = Settings({"name": kind.name}, kind.lossless, {}, {}, {}, {}, "0.1.0")
    return RequestTrace(
        0, settings, prompt, 40, text, finish, 0.8 / kind.speed, tokens, blocks, Counters()
    )


def made_up(folder: Path) -> tuple[Results, dict[tuple[str, str, int], bool]]:
    """The run with its answers, and all grades; traces are written to the folder."""
    generator = random.Random(7)
    questions = [question(index, generator) for index in range(300)]
    hard = [generator.random() for _ in questions]
    answers: list[Answer] = []
    grades: dict[tuple[str, str, int], bool] = {}
    traces: list[tuple[Answer, Kind]] = []
    for seed in SEEDS:
        for kind in KINDS:
            for index, (entry, lines, result) in enumerate(questions):
                luck = hard[index] if generator.random() < kind.agreement else generator.random()
                if index == 0:
                    luck = 0.0 if kind.label in ("target", "exact", "block") else 0.999
                right = luck < kind.accuracy
                said = result if right else result + generator.choice([-10, -1, 1, 2, 10, 90])
                text = "\n\n".join(lines).replace(f" {result}", f" {said}")
                if index == 0 and not right:
                    text = text.replace("After", HOSTILE + " After")
                tokens = len(pieces(text)) + 1
                seconds = tokens * 0.011 / kind.speed * generator.uniform(0.85, 1.15)
                speculates = kind.accept is not None
                passes = tokens if not speculates else max(1, round(tokens / (1.9 * kind.speed)))
                answer = Answer(
                    kind.label,
                    entry.id,
                    seed,
                    text,
                    str(said),
                    right,
                    "stop",
                    None,
                    seconds,
                    index // 8,
                    seconds * 1.1,
                    8,
                    40,
                    Counters(tokens, target_passes=passes),
                    {},
                    kind.samples,
                    {str(said): 3, str(said + 7): 2} if kind.samples > 1 else {},
                )
                answers.append(answer)
                grades[answer.key] = right
                traces.append((answer, kind))
    changed = {
        (a.question, a.seed)
        for a, _ in traces
        if grades[a.key] != grades["target", a.question, a.seed]
    }
    prompts = {entry.id: entry.prompt for entry, _, _ in questions}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TRACES).open("w", encoding="utf-8") as file:
        for answer, kind in traces:
            differs = grades[answer.key] != grades["target", answer.question, answer.seed]
            of_target = kind.label == "target" and (answer.question, answer.seed) in changed
            if differs or of_target:
                told = random.Random(f"{answer.question} {answer.seed} {kind.label}")
                made = trace(answer.text, kind, told, prompts[answer.question])
                line = {
                    "policy": answer.policy,
                    "question": answer.question,
                    "seed": answer.seed,
                    "trace": asdict(made),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    run = Run(
        "word-problems",
        [entry for entry, _, _ in questions],
        [
            PolicyEntry(k.label, k.name, k.parameters, k.lossless, {"temperature": 0.8})
            if k.samples > 1
            else PolicyEntry(k.label, k.name, k.parameters, k.lossless)
            for k in KINDS
        ],
        "target",
        ["ensemble", "steps"],
        SEEDS,
        8,
        {"temperature": 0.0, "max_new_tokens": 256, "draft_length": LENGTH, "stop": ["Question:"]},
        {"name": "big-model", "revision": "1f0c2d3"},
        {"name": "small-model", "revision": "77ab01e"},
        True,
        {"name": "number", "tolerance": 1e-6},
        "Both models are small and of one data set: a laboratory, no evidence about large models.",
        {"processor": "a processor", "cores": 8, "device": "cpu", "dtype": "bfloat16"},
        {"stet": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.9"},
        "stet compare word-problems -p exact -p block -p typical:epsilon=0.3 -p ensemble "
        "-p steps --questions 300 --seeds 1,2 --batch 8 --out results/word-problems",
        "2026-01-05T09:30:00Z",
    )
    return Results(run, answers, folder), grades
