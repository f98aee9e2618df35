"""From the records of every pair to `evidence.json`, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _evidence_control
import _real
import numpy as np
from _evidence_parts import CLAIMED, MARGIN, POWER, RULES, Settings, power
from _record import write
from _shared_texts import read as read_texts

from stet.evaluation import records
from stet.evaluation.statistics import Resamples, gain, holm, mcnemar_p, share

Right = dict[str, dict[str, bool]]
"""By contender and question, whether the answer is right."""

COSPEC, SPECGUARD, RSD = "cospec", "specguard", "reward-guided"


@dataclass
class Evidence:
    """What is known of a pair.

    Attributes:
        right: by contender and question.
        group: of each question.
        room: what the oracle gains over the same search with other tokens, in right answers.
        draft_only: share of mismatches at which only the draft's token leads to a right answer.
        seconds: by contender, of single answers to the same problems.
        tokens_per_pass: by contender, of those.
        cut: by contender, the share of answers that were cut.
        noise: shares of grades and of texts that rounding alone changes.
        declared: what was declared beforehand.
    """

    right: Right
    group: dict[str, str] = field(default_factory=dict)
    room: float | None = None
    draft_only: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    tokens_per_pass: dict[str, float] = field(default_factory=dict)
    cut: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    declared: dict[str, Any] = field(default_factory=dict)


def report(settings: Settings) -> None:
    """Write the result file from what there is of every pair."""
    controls = _evidence_control.controls()
    figures = {
        f"control_{k}": rounded(k, v) for k, v in _evidence_control.figures_of(controls).items()
    }
    figures["seeds"] = len(controls)
    rows = _evidence_control.rows_of(controls)
    declared: dict[str, Any] = {"control": _evidence_control.declared()}
    for pair in _real.PAIRS:
        folder = settings.root / pair
        if not (folder / "test.jsonl").exists():
            continue
        found = of_real(folder, settings.seeds)
        figures |= {f"{pair}_{k}": rounded(k, v) for k, v in figures_of(found).items()}
        rows += rows_of(pair, found)
        declared[pair] = found.declared
    models = _real.NAMES
    print(write("evidence", rows, figures, models=models, margin=MARGIN, declared=declared))


def rounded(name: str, value: float) -> float:
    """A figure to four places; a p-value to three digits, for it may be very small."""
    return float(f"{value:.3g}") if name.endswith("_p") else round(value, 4)


def of_real(folder: Path, seeds: Sequence[int]) -> Evidence:
    """What there is of a real pair."""
    texts = read_texts(folder / "test.jsonl")
    right: Right = {}
    cut: dict[str, list[bool]] = {}
    for text in texts:
        name = COSPEC if text.policy == f"{COSPEC} {seeds[0]}" else text.policy
        right.setdefault(name, {})[text.question] = text.right
        cut.setdefault(name, []).append(text.cut)
    found = Evidence(right, cut={name: float(np.mean(own)) for name, own in cut.items()})
    if (folder / "steps" / records.ANSWERS).exists():
        _add_steps(found, records.read(folder / "steps"))
    if (folder / "tuned-target" / records.ANSWERS).exists():
        answers = records.read(folder / "tuned-target").answers
        found.right["target, tuned"] = {a.question: bool(a.right) for a in answers}
        found.cut["target, tuned"] = float(np.mean([a.finish_reason == "length" for a in answers]))
    if (folder / "latency" / records.ANSWERS).exists():
        _add_times(found, records.read(folder / "latency"))
    if (folder / "noise" / records.ANSWERS).exists():
        found.noise = _noise(records.read(folder / "noise"))
    if (path := folder / "oracle.json").exists():
        found.room = json.loads(path.read_text())["room"]
    if (path := folder / f"train-{seeds[0]}/training.json").exists():
        cells = json.loads(path.read_text())["cells"][0]
        found.draft_only = cells["draft only"] / sum(cells.values())
    if (path := folder / "declared.json").exists():
        found.declared = json.loads(path.read_text())
    return found


def _noise(results: records.Results) -> dict[str, float]:
    """The shares of grades and of texts in which the target's two ways differ."""
    found = {
        policy: {a.question: a for a in results.answers if a.policy == policy}
        for policy in ("target", "exact")
    }
    pairs = [
        (found["target"][q], found["exact"][q]) for q in found["target"] if q in found["exact"]
    ]
    return {
        "noise_grades": float(np.mean([a.right != b.right for a, b in pairs])),
        "noise_texts": float(np.mean([a.text != b.text for a, b in pairs])),
        "noise_problems": len(pairs),
    }


def _add_steps(found: Evidence, results: records.Results) -> None:
    found.group = {q.id: q.group or "" for q in results.run.questions}
    for answer in results.answers:
        found.right.setdefault(answer.policy, {})[answer.question] = bool(answer.right)
    for entry in results.run.policies:
        own = [a for a in results.answers if a.policy == entry.label]
        found.cut[entry.label] = float(np.mean([a.finish_reason == "length" for a in own]))


def _add_times(found: Evidence, results: records.Results) -> None:
    for entry in results.run.policies:
        own = [a for a in results.answers if a.policy == entry.label]
        found.seconds[entry.label] = sum(a.seconds for a in own)
        passes = sum(a.counters.target_passes for a in own)
        tokens = sum(a.counters.emitted_tokens for a in own)
        found.tokens_per_pass[entry.label] = tokens / max(passes, 1)


def difference(right: Right, ours: str, theirs: str) -> dict[str, float]:
    """Our accuracy less theirs on the same questions, with its interval and p-value."""
    questions = sorted(right[ours].keys() & right[theirs].keys())
    mine = np.array([right[ours][q] for q in questions])
    other = np.array([right[theirs][q] for q in questions])
    gained, lost = mine & ~other, other & ~mine
    found = gain(gained, lost, np.ones(len(questions)), Resamples(10_000))
    return {
        "points": 100 * found.value,
        "low": 100 * (found.value if found.low is None else found.low),
        "high": 100 * (found.value if found.high is None else found.high),
        "p": mcnemar_p(int(gained.sum()), int(lost.sum())),
        "gained": int(gained.sum()),
        "lost": int(lost.sum()),
        "differing": float((gained | lost).mean()),
        "problems": len(questions),
    }


def accuracy(own: Mapping[str, bool]) -> float:
    return float(np.mean(list(own.values())))


def figures_of(found: Evidence) -> dict[str, float]:
    """The figures of a pair, as far as they are known."""
    right = found.right
    figures: dict[str, float] = {"target": accuracy(right["target"])}
    figures["problems"] = len(right["target"])
    if "draft" in right:
        figures["draft"] = accuracy(right["draft"])
    if found.room is not None:
        figures["oracle_room_points"] = 100 * found.room
    if found.draft_only is not None:
        figures["draft_only_right_share"] = found.draft_only
    methods = [name for name in (COSPEC, SPECGUARD) if name in right]
    gains = {name: difference(right, name, "target") for name in methods}
    adjusted = dict(zip(methods, holm([gains[name]["p"] for name in methods]), strict=True))
    for name, own in gains.items():
        figures |= {f"{name}_gain_points": own["points"], f"{name}_low": own["low"]}
        figures |= {f"{name}_high": own["high"], f"{name}_p": own["p"]}
        figures[f"{name}_p_holm"] = adjusted[name]
        figures[f"{name}_power"] = power(CLAIMED[name], own["differing"], int(own["problems"]))
    figures["power"] = min((figures[f"{name}_power"] for name in methods), default=0.0)
    if rules := [name for name in RULES if name in right]:
        best = max(rules, key=lambda name: accuracy(right[name]))
        figures["best_plain_rule_gain_points"] = difference(right, best, "target")["points"]
    if SPECGUARD in right:
        own = accuracy(right[SPECGUARD]) / accuracy(right["target"])
        figures["specguard_relative_gain"] = own - 1
    if COSPEC in right:
        figures |= over_others(found)
    return figures | _times(found) | found.noise


def over_others(found: Evidence) -> dict[str, float]:
    """CoSpec's gain over the other that comes nearest to it."""
    others = [name for name in (*RULES, "router") if name in found.right]
    if not others:
        return {}
    every = [difference(found.right, COSPEC, name) for name in others]
    least = min(every, key=lambda d: d["low"])
    names = ("points", "low", "high")
    return {
        "cospec_over_best_other" + ("_points" if n == "points" else f"_{n}"): least[n]
        for n in names
    }


def _times(found: Evidence) -> dict[str, float]:
    seconds = found.seconds
    if not {"target", "exact"} <= seconds.keys():
        return {}
    faster = min(seconds["target"], seconds["exact"])
    figures: dict[str, float] = {}
    for name in (COSPEC, SPECGUARD):
        if name in seconds:
            figures[f"{name}_time_vs_faster"] = seconds[name] / faster
    if COSPEC in found.tokens_per_pass:
        figures["cospec_tokens_per_pass"] = found.tokens_per_pass[COSPEC]
    if {SPECGUARD, RSD} <= seconds.keys():
        figures["specguard_time_vs_rsd"] = seconds[SPECGUARD] / seconds[RSD]
    return figures


def rows_of(pair: str, found: Evidence) -> list[dict[str, Any]]:
    """A row for each contender, on all problems and by domain."""
    rows: list[dict[str, Any]] = []
    for name, own in found.right.items():
        row: dict[str, Any] = {"pair": pair, "policy": name, "problems": len(own)}
        for group in ("", *sorted(set(found.group.values()))):
            asked = [q for q in own if not group or found.group.get(q) == group]
            interval = share([own[q] for q in asked], np.ones(len(asked)))
            entry: dict[str, Any] = {
                "accuracy": round(interval.value, 4),
                "accuracy_low": round(interval.low or 0.0, 4),
                "accuracy_high": round(interval.high or 0.0, 4),
            }
            if name != "target":
                part = {n: {q: found.right[n][q] for q in asked} for n in (name, "target")}
                entry |= {k: round(v, 4) for k, v in difference(part, name, "target").items()}
            row[group or "all"] = entry
        row["cut"] = round(found.cut.get(name, 0.0), 4)
        if name in found.seconds:
            row["seconds"] = round(found.seconds[name], 1)
            row["tokens_per_pass"] = round(found.tokens_per_pass[name], 3)
        if name in CLAIMED:
            shown = power(CLAIMED[name], row["all"]["differing"], len(own))
            row |= {"power": round(shown, 3), "testable": shown >= POWER}
            row["loss_of_margin_excluded"] = row["all"]["low"] > -100 * MARGIN
        rows.append(row)
    return rows
