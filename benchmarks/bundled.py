"""How good the bundled pair is, and how its two models differ.

Plain transformers models with greedy batched decoding in float32, so that the figures say what
the weights can do and not what this engine does with them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _record import write
from statsmodels.stats.proportion import proportion_confint
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))
from decode import Text, combined, greedy

from stet.bundled import DRAFT, FAMILIES, SPLITS, TARGET, Problem, generate, parse_answer
from stet.bundled.splits import OUT_OF_TEMPLATE

Z = 1.96
BLOCK = 5


@dataclass(frozen=True)
class Solved:
    """Problems with what one model, or a combination, wrote for them."""

    problems: list[Problem]
    texts: list[Text]
    right: list[bool]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.right) / len(self.right)


def wilson(right: int, count: int) -> list[float]:
    """The 95 % Wilson interval of a share."""
    low, high = proportion_confint(right, count, method="wilson")
    return [round(float(low), 4), round(float(high), 4)]


class Bench:
    """The two models and their tokenizer."""

    def __init__(self, target: Path, draft: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(target)
        self.target, self.draft = load(target), load(draft)
        self.end = self.tokenizer.eos_token_id

    def prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Token ids of the prompts."""
        return [self.tokenizer(p.prompt).input_ids for p in problems]

    def solved(self, problems: list[Problem], texts: list[Text]) -> Solved:
        """Grade what was written."""
        right = [
            t.ended and parse_answer(self.tokenizer.decode(t.ids)) == p.answer
            for t, p in zip(texts, problems, strict=True)
        ]
        return Solved(problems, texts, right)

    def solve(self, model: Any, problems: list[Problem]) -> Solved:
        """Let one model solve the problems."""
        return self.solved(problems, greedy(model, self.prompts(problems), self.end))

    def solve_by_mean(self, target: Any, problems: list[Problem]) -> Solved:
        """Decode greedily from the mean of both models' log-probs."""
        texts = combined([target, self.draft], self.prompts(problems), self.end, mean_log_prob)
        return self.solved(problems, texts)


def load(folder: Path) -> Any:
    """A model in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def mean_log_prob(logits: list[torch.Tensor]) -> torch.Tensor:
    """Mean of the models' log-probs, `[batch, vocabulary]`."""
    return torch.stack([x.log_softmax(-1) for x in logits]).mean(0)


def accuracy_rows(
    bench: Bench, most: int, others: int
) -> tuple[list[dict[str, Any]], Solved, Solved]:
    """Accuracy of both models on every split, and their answers on the test split."""
    rows: list[dict[str, Any]] = []
    test: dict[str, Solved] = {}
    for family in FAMILIES:
        for split in SPLITS:
            main_split = (family, split) == ("stories", "test")
            problems = generate(family, split, most if main_split else others, seed=11)
            for name, model in (("target", bench.target), ("draft", bench.draft)):
                solved = bench.solve(model, problems)
                if main_split:
                    test[name] = solved
                row = {
                    "family": family,
                    "split": split,
                    "model": name,
                    "problems": len(problems),
                    "accuracy": round(solved.accuracy, 4),
                    "interval": wilson(sum(solved.right), len(problems)),
                    "unfinished": sum(not t.ended for t in solved.texts),
                }
                if split == OUT_OF_TEMPLATE:
                    row["templates"] = by_template(solved)
                rows.append(row)
                print(row, flush=True)
    return rows, test["target"], test["draft"]


def by_template(solved: Solved) -> dict[str, list[int]]:
    """Right answers and problems of each template."""
    found: dict[str, list[int]] = {}
    for problem, right in zip(solved.problems, solved.right, strict=True):
        count = found.setdefault(problem.template, [0, 0])
        count[0] += right
        count[1] += 1
    return found


@torch.inference_mode()
def find_mismatches(bench: Bench, solved: Solved) -> tuple[list[tuple[int, int, int]], int]:
    """The mismatches along the target's own greedy text: the draft's first choice is another one.

    Returns:
        `(problem, position in the written text, the draft's token)` of each, and the number of
        tokens looked at, the end token included.
    """
    found: list[tuple[int, int, int]] = []
    count = 0
    for index, (problem, text) in enumerate(zip(solved.problems, solved.texts, strict=True)):
        prompt = bench.tokenizer(problem.prompt).input_ids
        written = text.ids + [bench.end] * text.ended
        logits = bench.draft(input_ids=torch.tensor([prompt + text.ids])).logits[0]
        choices = logits[len(prompt) - 1 :].argmax(-1).tolist()[: len(written)]
        count += len(written)
        for position, (mine, theirs) in enumerate(zip(written, choices, strict=True)):
            if mine != theirs:
                found.append((index, position, theirs))
    return found, count


def tie_row(
    bench: Bench, solved: Solved, found: list[tuple[int, int, int]], most: int
) -> dict[str, Any]:
    """Follow mismatches: the target goes on after the draft's token instead of its own."""
    chosen = random.Random(0).sample(found, min(most, len(found)))
    prefixes: list[list[int]] = []
    for index, position, token in chosen:
        prompt = bench.tokenizer(solved.problems[index].prompt).input_ids
        prefixes.append(
            prompt + solved.texts[index].ids[:position] + [token] * (token != bench.end)
        )
    texts = greedy(bench.target, prefixes, bench.end)
    outcomes = {"both right": 0, "both wrong": 0, "draft's better": 0, "target's better": 0}
    for (index, position, token), text in zip(chosen, texts, strict=True):
        ids = solved.texts[index].ids[:position]
        if token != bench.end:
            ids = [*ids, token, *text.ids]
        answer = parse_answer(bench.tokenizer.decode(ids))
        there = answer == solved.problems[index].answer
        here = solved.right[index]
        outcomes[
            ("both right" if there else "target's better")
            if here
            else ("draft's better" if there else "both wrong")
        ] += 1
    ties = outcomes["both right"] + outcomes["both wrong"]
    return {
        "what": "outcome of disagreements",
        "branches": len(chosen),
        "outcomes": outcomes,
        "tie_share": round(ties / len(chosen), 4),
        "interval": wilson(ties, len(chosen)),
    }


@torch.inference_mode()
def cost_row(bench: Bench, tokens: int, repeats: int = 60) -> dict[str, Any]:
    """Seconds of one forward pass over some tokens after 100 cached ones, batch 1, eager."""
    seconds: dict[str, list[float]] = {"target": [], "draft": []}
    context = torch.randint(2, 1000, (1, 100), generator=torch.Generator().manual_seed(0))
    models = {"target": bench.target, "draft": bench.draft}
    caches = {name: DynamicCache() for name in models}
    for name, model in models.items():
        model(input_ids=context, past_key_values=caches[name], use_cache=True)
    for repeat in range(repeats + 5):
        # In turns, so that what else the machine does hits both alike.
        for name, model in models.items():
            start = time.perf_counter()
            model(input_ids=context[:, :tokens], past_key_values=caches[name], use_cache=True)
            if repeat >= 5:
                seconds[name].append(time.perf_counter() - start)
            caches[name].crop(-tokens)
    ratios = [t / d for t, d in zip(seconds["target"], seconds["draft"], strict=True)]
    return {
        "what": f"forward pass over {tokens} token{'s' * (tokens > 1)}",
        "target_ms": round(1000 * statistics.median(seconds["target"]), 3),
        "draft_ms": round(1000 * statistics.median(seconds["draft"]), 3),
        "ratio": round(statistics.median(ratios), 2),
    }


def mean_row(bench: Bench, name: str, target: Any, problems: list[Problem]) -> dict[str, Any]:
    """The gain of decoding from the mean of both log-probs over the target alone."""
    alone, together = bench.solve(target, problems), bench.solve_by_mean(target, problems)
    better = sum(t and not a for a, t in zip(alone.right, together.right, strict=True))
    worse = sum(a and not t for a, t in zip(alone.right, together.right, strict=True))
    gain = (better - worse) / len(problems)
    error = ((better + worse) / len(problems) - gain**2) ** 0.5 / len(problems) ** 0.5
    return {
        "what": "mean of both log-probs",
        "target": name,
        "problems": len(problems),
        "target_accuracy": round(alone.accuracy, 4),
        "mean_accuracy": round(together.accuracy, 4),
        "gain": round(gain, 4),
        "gain_interval": [round(gain - Z * error, 4), round(gain + Z * error, 4)],
        "only_mean_right": better,
        "only_target_right": worse,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=1000, help="of the test split")
    parser.add_argument("--others", type=int, default=300, help="of each other split")
    parser.add_argument("--branches", type=int, default=600, help="mismatches to follow")
    parser.add_argument("--mean-problems", type=int, default=500)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--draft", type=Path, default=DRAFT)
    parser.add_argument(
        "--earlier",
        nargs="*",
        type=Path,
        default=[],
        help="the target at earlier points of its training, exported folders named by their share",
    )
    options = parser.parse_args()
    bench = Bench(options.target, options.draft)
    rows: list[dict[str, Any]] = []
    # First, before the machine is hot from the rest.
    costs = [cost_row(bench, tokens) for tokens in (1, BLOCK)]
    accuracies, target, draft = accuracy_rows(bench, options.problems, options.others)
    found, tokens = find_mismatches(bench, target)
    ties = tie_row(bench, target, found, options.branches)
    rows += [*accuracies, *costs, ties]
    print(costs, ties, len(found) / tokens, flush=True)
    some = target.problems[: options.mean_problems]
    for folder in (*options.earlier, options.target):
        name = "final" if folder == options.target else folder.name
        model = bench.target if folder == options.target else load(folder)
        rows.append(mean_row(bench, name, model, some))
        print(rows[-1], flush=True)
    wrong = [d for t, d in zip(target.right, draft.right, strict=True) if not t]
    kinds = {(r["family"], r["split"], r["model"]): r["accuracy"] for r in accuracies}
    figures: dict[str, float] = {
        "problems": len(target.problems),
        "target_accuracy": round(target.accuracy, 4),
        "draft_accuracy": round(draft.accuracy, 4),
        "accuracy_gap": round(target.accuracy - draft.accuracy, 4),
        "draft_right_target_wrong": round(sum(wrong) / len(target.right), 4),
        "draft_right_of_target_wrong": round(sum(wrong) / max(1, len(wrong)), 4),
        "disagreement_rate": round(len(found) / tokens, 4),
        "tie_share": ties["tie_share"],
        "cost_ratio": costs[0]["ratio"],
        "cost_ratio_block": costs[1]["ratio"],
        "mean_log_prob_gain": rows[-1]["gain"],
        "target_parameters": bench.target.num_parameters(),
        "draft_parameters": bench.draft.num_parameters(),
        "tokens_per_solution": round(tokens / len(target.problems), 1),
    }
    for (family, split, model), value in kinds.items():
        figures[f"{model}_accuracy_{family}_{split}"] = value
    note = (
        "Two small models trained on one synthetic distribution: this pair shows that the software "
        "works, not that a method helps your models."
    )
    lines = [len(p.steps) for p in target.problems]
    first = next(i for i, right in enumerate(target.right) if right and lines[i] == 4)
    solution = bench.tokenizer.decode(target.texts[first].ids)
    example = target.problems[first].prompt + solution
    print("written:", write("bundled", rows, figures, note=note, example=example))


if __name__ == "__main__":
    main()
