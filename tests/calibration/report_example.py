"""A made-up calibration with plausible numbers and everything that a report can show."""

import random
from dataclasses import replace

from stet.calibration.choosing import ThresholdPoint, Wish, choose, with_bounds
from stet.calibration.label_source import ANSWERS, LabelSource
from stet.calibration.quality import Quality
from stet.calibration.reliability import reliability
from stet.calibration.result import Calibration
from stet.calibration.samples import StepSample

POINTS = [
    ThresholdPoint(0.25, 200, 165, 0.21, 0.78, 16),
    ThresholdPoint(0.4, 200, 174, 0.26, 0.61, 7),
    ThresholdPoint(0.6, 200, 178, 0.33, 0.42, 2),
    ThresholdPoint(0.85, 200, 177, 0.41, 0.2, 0),
]


def example(goal: Wish | None = None, label_source: LabelSource = ANSWERS) -> Calibration:
    """A calibration for a bound of 10 %, or for something else."""
    wish = goal or Wish("risk", 0.1, 0.05)
    points = POINTS if wish.goal == "risk" else [replace(p, losses=None) for p in POINTS]
    if wish.goal == "risk":
        points = with_bounds(points, wish.value)
    chosen = choose(points, wish, label_source)
    generator = random.Random(5)
    scores = [generator.random() ** 0.5 for _ in range(400)]
    steps = [
        StepSample(f"p{i // 4}", i % 4, 9, {}, generator.random() < 0.6 + 0.4 * s, True)
        for i, s in enumerate(scores)
    ]
    return Calibration(
        policy="specguard",
        parameters={
            "signals": ["min_logprob", "max_entropy"],
            "weights": [0.7, 0.3],
            "threshold": chosen.threshold,
            "pair": "c0ffee",
        },
        wish=wish,
        label_source=label_source.name,
        chosen=chosen,
        points=points,
        references={
            "target": ThresholdPoint(0.0, 200, 176, 0.42, 0.0),
            "exact": ThresholdPoint(0.0, 200, 176, 0.27, 0.0),
        },
        qualities=[
            Quality("min_logprob", 0.91, 0.86, 0.95, 0.9),
            Quality("max_entropy", 0.12, 0.08, 0.17, 0.15),
            Quality("mean_logprob", 0.8, 0.72, 0.86, None),
            Quality("grounding", 0.31, 0.24, 0.4, 0.45),
        ],
        wrong_way=["grounding"],
        score=Quality("score", 0.92, 0.88, 0.95, 0.91),
        reliability=reliability(steps, scores),
        claim=f"Of new problems at most {wish.value:.1%} {label_source.risk}.",
        task={
            "name": "stories",
            "fitted_on": 100,
            "chosen_on": 200,
            "steps": 400,
            "saving": 8,
            "misleading": 60,
            "labels": "the target's greedy completion of the step gives the reference answer",
            "note": "Two small models.",
        },
        target={"name": "large", "parameters": 8_000_000},
        draft={"name": "small", "parameters": 770_000},
        seed=3,
        machine={"cpu": "a processor", "cores": 2},
        versions={"torch": "2.13"},
        command="stet calibrate --risk 0.1",
        date="2026-01-02T03:04:05+00:00",
    )
