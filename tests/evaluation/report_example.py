"""The summary of the made-up run, with plausible numbers."""

import math
import random
from pathlib import Path

from evaluation.report_run import KINDS, LENGTH, SEEDS, Kind, made_up
from stet.evaluation.records import Answer, Results, Run
from stet.evaluation.summary import (
    Change,
    Estimate,
    PairedDifference,
    PolicySummary,
    SignalHistogram,
    Speed,
    Summary,
    Work,
)


def example(folder: Path) -> tuple[Results, Summary]:
    """The run with its answers, and its summary; traces are written to the folder."""
    results, grades = made_up(folder)
    return results, summary_of(results.run, results.answers, grades)


def summary_of(
    run: Run, answers: list[Answer], grades: dict[tuple[str, str, int], bool]
) -> Summary:
    """A summary with plausible intervals; what `analysis` computes properly."""
    generator = random.Random(11)
    policies = []
    for kind in KINDS:
        mine = [a for a in answers if a.policy == kind.label]
        changes = [
            Change(a.question, a.seed, grades[a.key])
            for a in mine
            if grades[a.key] != grades["target", a.question, a.seed]
        ]
        gained = [sum(c.gained for c in changes if c.seed == seed) for seed in SEEDS]
        lost = [sum(not c.gained for c in changes if c.seed == seed) for seed in SEEDS]
        reference = kind.label == "target"
        gain = (sum(gained) - sum(lost)) / len(mine)
        half = 1.96 * math.sqrt(len(changes)) / len(mine)
        same = kind.agreement - 0.02 if not reference else 1.0
        policies.append(
            PolicySummary(
                kind.label,
                kind.name,
                kind.parameters,
                kind.lossless,
                reference,
                kind.label in run.primary,
                len(mine),
                3 if kind.label == "steps" else 0,
                _near(sum(bool(a.right) for a in mine) / len(mine), 0.031),
                None
                if reference
                else PairedDifference(
                    Estimate(gain, gain - half, gain + half),
                    gained,
                    lost,
                    [0.0312, 0.2101],
                    0.0624 if kind.label == "steps" else 0.1 if kind.label == "ensemble" else None,
                    0.042 if changes else None,
                ),
                _near(same, 0.02) if not reference else Estimate(1.0),
                _near(min(1.0, same + 0.01), 0.02) if not reference else Estimate(1.0),
                _speed(kind, mine),
                _work(kind, mine),
                changes,
                _signals(generator) if kind.accept is not None and not kind.lossless else [],
                {
                    "two steps": _near(kind.accuracy + 0.02, 0.04),
                    "with a trap": _near(kind.accuracy - 0.05, 0.06),
                },
            )
        )
    return Summary(
        run.task,
        len(run.questions),
        run.seeds,
        run.batch,
        run.reference,
        "big-model",
        "small-model",
        policies,
        True,
        None,
        "Where the answers must be the target's own, use block: 1.71 times as fast "
        "[1.66, 1.76], accuracy unchanged. Where they need not be, steps is faster (2.31 times) "
        "and not measurably less accurate.",
        [
            run.note,
            "With 300 questions and two seeds, differences below 4.2 points cannot be told from "
            "chance.",
        ],
        run.machine,
        run.versions,
        run.command,
        run.date,
    )


def _near(value: float, half: float) -> Estimate:
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def _speed(kind: Kind, mine: list[Answer]) -> Speed:
    seconds = sorted(a.seconds for a in mine)
    mean = sum(seconds) / len(seconds)
    target = {"draft": 0.0, "majority-5": 0.0, "target": 0.97}.get(kind.label, 0.62)
    draft = {"draft": 0.96, "majority-5": 0.95, "target": 0.0}.get(kind.label, 0.31)
    tokens = sum(a.counters.emitted_tokens for a in mine)
    up = Estimate(kind.speed, kind.speed * 0.97, kind.speed * 1.03)
    through = Estimate(kind.speed * 0.86, kind.speed * 0.83, kind.speed * 0.89)
    one = Estimate(1.0)
    return Speed(
        mean,
        seconds[len(seconds) // 2],
        seconds[len(seconds) * 9 // 10],
        8 * tokens / sum(seconds),
        one if kind.label == "target" else up,
        one if kind.label == "target" else through,
        None,
        mean * target,
        mean * draft,
        mean * (1 - target - draft),
    )


def _work(kind: Kind, mine: list[Answer]) -> Work:
    tokens = sum(a.counters.emitted_tokens for a in mine) / len(mine)
    passes = sum(a.counters.target_passes for a in mine) / len(mine)
    if kind.label in ("draft", "majority-5"):
        return Work(tokens, 0, tokens, 0, 0, tokens, 0, None, None, [])
    if kind.accept is None:
        return Work(tokens, passes, 0, 1.0, tokens, 0, 0, None, 1.0, [])
    accepted = [kind.accept ** (i + 1) for i in range(LENGTH)]
    return Work(
        tokens,
        passes,
        passes * LENGTH,
        passes / tokens,
        passes,
        tokens - passes,
        passes * LENGTH,
        sum(accepted) / LENGTH,
        tokens / passes,
        accepted,
        0.0 if kind.lossless else 1.7,
    )


def _signals(generator: random.Random) -> list[SignalHistogram]:
    found = []
    for name, of, shift in (
        ("mean log-probability", "answers", 0.7),
        ("largest entropy", "answers", -0.5),
        ("grounding", "steps", 1.0),
    ):
        edges = [round(-3 + 0.5 * i, 2) for i in range(15)]
        right, wrong = [0] * 14, [0] * 14
        for counts, centre, n in ((right, 0.5 + shift / 2, 480), (wrong, 0.2 - shift / 2, 120)):
            for _ in range(n):
                counts[min(13, max(0, int((generator.gauss(centre, 1) + 3) / 0.5)))] += 1
        found.append(SignalHistogram(name, of, edges, right, wrong, 0.5 + 0.2 * shift))
    return found
