"""The control pairs' part of `evidence.json`, from the result files of their own benchmarks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import _record
from _evidence_parts import MARGIN, POWER, power
from _pairs import CONTROL_SEEDS

from stet.evaluation.statistics import mcnemar_p

Z = 1.959964
"""Of a normal interval with 95 %."""

BLOCKS = {"cospec": "test", "specguard": "greedy"}
"""For each method the part of its benchmark with all contenders."""

WANTED = {"cospec": 0.04, "specguard": 0.02}
"""The gains that were wanted here, in right answers per problem: four points, and 3.6 % of about
half."""

OTHERS = ("best_plain_rule", "cascades", "router")
"""What CoSpec is to be above."""


@dataclass(frozen=True)
class Control:
    """What there is of the control pair of a seed.

    Attributes:
        seed: of the generator and the pair.
        made: its record in `control.json`.
        cospec: figures of `cospec.json`.
        specguard: figures of `specguard_control-N.json`.
        rows: by method and label, the rows of its test.
        draft_only: share of mismatches at which only the draft's token leads to a right answer.
    """

    seed: int
    made: dict[str, Any]
    cospec: dict[str, float]
    specguard: dict[str, float]
    rows: dict[str, dict[str, dict[str, Any]]]
    draft_only: float | None

    @property
    def whole(self) -> bool:
        """Whether both methods were tested."""
        return "accuracy_cospec" in self.cospec and "accuracy_specguard" in self.specguard


def controls() -> list[Control]:
    """The control pairs that both methods were tested on."""
    made = {row["seed"]: row for row in _read("control").get("rows", [])}
    tokens = _read("cospec")
    found = [_control(seed, made, tokens) for seed in CONTROL_SEEDS if seed in made]
    return [control for control in found if control.whole]


def _control(seed: int, made: dict[int, Any], tokens: dict[str, Any]) -> Control:
    name = f"control-{seed}"
    steps = _read(f"specguard_{name}")
    prefix = f"{name}_"
    rows = {
        "cospec": {
            row["policy"]: row
            for row in tokens.get("rows", [])
            if row["pair"] == name and row["part"] == BLOCKS["cospec"]
        },
        "specguard": {
            row["policy"]: row
            for row in steps.get("rows", [])
            if row["part"] == BLOCKS["specguard"]
        },
    }
    cells = tokens.get("pairs", {}).get(name, {}).get("agreement", {}).get("cells")
    return Control(
        seed,
        made[seed],
        {
            key.removeprefix(prefix): value
            for key, value in tokens.get("figures", {}).items()
            if key.startswith(prefix)
        },
        steps.get("figures", {}),
        rows,
        None if cells is None else cells["draft only"] / sum(cells.values()),
    )


def _read(name: str) -> dict[str, Any]:
    path = _record.RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def figures_of(every: Sequence[Control]) -> dict[str, float]:
    """Means over the seeds, as far as all of them know a figure."""
    if not every:
        return {}

    def mean(of: Callable[[Control], float]) -> float | None:
        try:
            return sum(map(of, every)) / len(every)
        except (KeyError, TypeError):  # a part that was not run for some seed
            return None

    found: dict[str, float | None] = {
        "target": mean(lambda c: c.cospec["accuracy_target"]),
        "draft": mean(lambda c: c.cospec["accuracy_draft"]),
        "problems": sum(c.cospec["problems"] for c in every),
        "oracle_room_points": mean(lambda c: 100 * c.made["room"]["room"]),
        "draft_only_right_share": mean(lambda c: c.draft_only),  # type: ignore[arg-type, return-value]
        "cospec_tokens_per_pass": mean(lambda c: c.cospec["tokens_per_pass_cospec"]),
        "cospec_time_vs_faster": mean(
            lambda c: max(1.0, c.cospec["speedup_exact"]) / c.cospec["speedup_vs_target"]
        ),
        "specguard_relative_gain": mean(lambda c: c.specguard["relative_gain_over_exact"]),
        "specguard_time_vs_faster": mean(
            lambda c: max(
                c.specguard["latency_ratio_to_exact"], c.specguard["latency_ratio_to_target"]
            )
        ),
        "specguard_time_vs_rsd": mean(lambda c: c.specguard["latency_ratio_to_rsd_strict"]),
        "specguard_time_vs_rsd_as_published": mean(
            lambda c: c.specguard.get(
                "latency_ratio_to_rsd", c.specguard["latency_ratio_to_rsd_batch_16"]
            )
        ),
        "specguard_over_rsd_as_published_points": mean(
            lambda c: 100 * (c.specguard["accuracy_specguard"] - c.specguard["accuracy_rsd"])
        ),
        "oracle_agreement_non_tie": mean(lambda c: c.cospec["oracle_agreement_non_tie"]),
        "always_target_agreement_non_tie": mean(
            lambda c: c.cospec["always_target_agreement_non_tie"]
        ),
        "always_draft_agreement_non_tie": mean(
            lambda c: c.cospec["always_draft_agreement_non_tie"]
        ),
        "router_gain_points": mean(
            lambda c: c.cospec["gain_points"] - c.cospec["gain_over_router_points"]
        ),
        "best_plain_rule_gain_points": mean(
            lambda c: c.cospec["gain_points"] - c.cospec["gain_over_best_plain_rule_points"]
        ),
        "shuffled_gain_points": mean(
            lambda c: c.cospec["gain_points"] - c.cospec["gain_over_shuffled_points"]
        ),
    }
    for method, label in (("cospec", "cospec 0"), ("specguard", "specguard")):
        found |= _gain(every, method, label)
    found |= _over_warm_start(every) | _over_others(every)
    found["power"] = min(found["cospec_power"] or 0.0, found["specguard_power"] or 0.0)
    return {name: value for name, value in found.items() if value is not None}


def _gain(every: Sequence[Control], method: str, label: str) -> dict[str, float | None]:
    """A method's gain over its target: the mean of the seeds, and a test of all their problems."""
    rows = [c.rows[method][label] for c in every]
    key = "gain_over_reference" if method == "cospec" else "gain_over_exact"
    mean, low, high = pooled([row[key] for row in rows])
    gained, lost = (sum(row[name] for row in rows) for name in ("gained", "lost"))
    problems = int(sum(getattr(c, method)["problems"] for c in every))
    return {
        f"{method}_gain_points": 100 * mean,
        f"{method}_low": 100 * low,
        f"{method}_high": 100 * high,
        f"{method}_p": mcnemar_p(gained, lost),
        f"{method}_power": power(WANTED[method], (gained + lost) / problems, problems),
    }


def pooled(estimates: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    """The mean of independent estimates, with a normal interval."""
    count = len(estimates)
    mean = sum(e["value"] for e in estimates) / count
    error = math.hypot(*((e["high"] - e["low"]) / (2 * Z) for e in estimates)) / count
    return mean, mean - Z * error, mean + Z * error


def _interval(control: Control, name: str) -> dict[str, float]:
    keys = {"value": "", "low": "_low", "high": "_high"}
    return {key: control.cospec[f"gain_over_{name}_points{end}"] for key, end in keys.items()}


def _over_warm_start(every: Sequence[Control]) -> dict[str, float | None]:
    """What policy gradient adds to its warm start."""
    mean, low, high = pooled([_interval(c, "warm_start") for c in every])
    name = "policy_gradient_over_warm_start_points"
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _over_others(every: Sequence[Control]) -> dict[str, float | None]:
    """CoSpec's gain over that of the others that comes nearest to it."""
    means = [pooled([_interval(c, name) for c in every]) for name in OTHERS]
    mean, low, high = min(means, key=lambda found: found[1])
    return {
        "cospec_over_best_other_points": mean,
        "cospec_over_best_other_low": low,
        "cospec_over_best_other_high": high,
    }


def rows_of(every: Sequence[Control]) -> list[dict[str, Any]]:
    """A row for each contender of each seed."""
    rows: list[dict[str, Any]] = []
    for control in every:
        for method, own in control.rows.items():
            key = "gain_over_reference" if method == "cospec" else "gain_over_exact"
            for label, row in own.items():
                entry = {
                    "accuracy": row["accuracy"]["value"],
                    "accuracy_low": row["accuracy"]["low"],
                    "accuracy_high": row["accuracy"]["high"],
                }
                if row[key] is not None:
                    entry |= {
                        "points": round(100 * row[key]["value"], 4),
                        "low": round(100 * row[key]["low"], 4),
                        "high": round(100 * row[key]["high"], 4),
                        "p": row["p_values"][0] if row["p_values"] else None,
                    }
                told: dict[str, Any] = {
                    "pair": f"control-{control.seed}",
                    "kind": "tokens" if method == "cospec" else "steps",
                    "policy": label,
                    "all": entry,
                }
                if method == "cospec":
                    told["tokens_per_pass"] = row["tokens_per_pass"]
                else:
                    told["time_over_exact"] = round(1 / row["speed_over_exact"]["value"], 3)
                rows.append(told)
    return rows


def declared() -> dict[str, Any]:
    """What was declared of the control pairs before any arbiter was trained."""
    made = _read("control")
    return {
        "mix": made.get("mix"),
        "criteria": {row["seed"]: row["criteria"] for row in made.get("rows", [])},
        "wanted": WANTED,
        "margin": MARGIN,
        "least_power": POWER,
    }
