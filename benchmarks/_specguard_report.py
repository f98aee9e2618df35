"""From the parts of `specguard.py` to its result file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _record import RESULTS, plain_numbers, write
from _specguard_parts import AS_ACCURATE, PART_SEEDS, RULES, Settings

from stet.evaluation import records
from stet.evaluation.analysis import summarise
from stet.evaluation.paired import Paired, tables_of
from stet.evaluation.statistics import Resamples, ratio
from stet.evaluation.summary import Estimate, PolicySummary, Summary


def seconds_ratio(results: records.Results, ours: str, theirs: str, *, whole: bool) -> Estimate:
    """Our seconds over theirs, on the same questions; of whole chunks where they share a batch."""
    run = replace(results.run, reference=theirs, primary=[])
    both = replace(results, run=run)
    entry = next(p for p in run.policies if p.label == ours)
    paired = Paired.of(run, entry, tables_of(both), {})
    resamples = Resamples(2_000, 0)
    if whole:
        return ratio(
            paired.per_chunk(lambda mine, _: mine.seconds),
            paired.per_chunk(lambda _, other: other.seconds),
            resamples,
        )
    return ratio(
        paired.per_question(lambda p: p.mine.seconds, paired.timed),
        paired.per_question(lambda p: p.reference.seconds, paired.timed),
        resamples,
    )


def row(part: str, policy: PolicySummary, results: records.Results) -> dict[str, Any]:
    """The row of a contender in a part."""
    answers = [a for a in results.answers if a.policy == policy.label]
    steps = sum(a.counters.steps for a in answers)
    accepted = sum(a.counters.accepted_steps for a in answers)
    difference = policy.difference
    batch_speed = policy.speed.throughput_speedup
    one_speed = policy.speed.latency_speedup
    return {
        "part": part,
        "policy": policy.label,
        "parameters": {name: shown(value) for name, value in policy.parameters.items()},
        "accuracy": plain_numbers(policy.accuracy),
        "gain_over_exact": None if difference is None else plain_numbers(difference.gain),
        "gained": None if difference is None else difference.gained[0],
        "lost": None if difference is None else difference.lost[0],
        "p_values": None if difference is None else difference.p_values,
        "speed_over_exact": plain_numbers(one_speed if part == "latency" else batch_speed),
        "target_passes": round(policy.work.target_passes, 3),
        "target_tokens": round(policy.work.target_tokens, 2),
        "draft_passes": round(policy.work.draft_passes, 2),
        "accepted_steps": round(accepted / steps, 4) if steps else None,
    }


def shown(value: Any) -> Any:
    """A folder by its name alone."""
    return Path(value).name if isinstance(value, str) and "/" in value else value


def report(settings: Settings) -> None:
    """Write the result file from the runs that there are; parts that are not stay as they were."""
    old = read_json(RESULTS / f"{settings.result}.json") or {}
    runs = {
        part: records.read(settings.folder / part)
        for part in PART_SEEDS
        if (settings.folder / part).exists()
    }
    summaries = {part: summarise(results, bootstrap=2_000) for part, results in runs.items()}
    rows = [r for r in old.get("rows", []) if r["part"] not in runs]
    rows += [
        row(part, policy, runs[part])
        for part, summary in summaries.items()
        for policy in summary.policies
    ]
    rows.sort(key=lambda r: list(PART_SEEDS).index(r["part"]))
    figures: dict[str, float] = old.get("figures", {})
    best = old.get("best_plain_rule", "")
    if "greedy" in runs:
        best = max(RULES, key=lambda label: accuracy(summaries["greedy"], label))
        figures |= of_greedy(runs, summaries, rows, best, settings)
    if "sampled" in runs:
        figures |= {
            "accuracy_specguard_paper": accuracy(summaries["sampled"], "specguard as published"),
            "accuracy_target_majority": accuracy(summaries["sampled"], "target majority of 5"),
            "accuracy_draft_majority": accuracy(summaries["sampled"], "draft majority of 5"),
            "seeds": whole_seeds(runs["sampled"]),
        }
    if "rewards" in runs:
        figures |= against_rewards(runs["rewards"], summaries["rewards"].policies)
    limits = read_json(settings.folder / "limit.json") or old.get("limit")
    if limits is not None:
        figures["saved_by_a_draft_step"] = round(limits["saved"] / figures["problems"], 4)
    signals = read_json(RESULTS / "signals.json")
    if signals is not None and settings.pair == "bundled":
        figures["signal_overhead"] = signals["figures"]["signal_overhead_bundled"]
    told = {note.split(":")[0]: note for note in [*old.get("notes", []), *notes(runs)]}
    more = {"best_plain_rule": best, "limit": limits, "notes": list(told.values())}
    print(write(settings.result, rows, figures, **more))


def of_greedy(
    runs: dict[str, records.Results],
    summaries: dict[str, Summary],
    rows: list[dict[str, Any]],
    best: str,
    settings: Settings,
) -> dict[str, float]:
    """Accuracy without sampling, and time beside others."""
    summary = summaries["greedy"]
    guarded, exact = found(summary, "specguard"), accuracy(summary, "exact")
    assert guarded.difference is not None
    ours = next(r for r in rows if r["policy"] == "specguard" and r["part"] == "greedy")
    figures: dict[str, float] = {
        "accuracy_target": accuracy(summary, "target"),
        "accuracy_draft": accuracy(summary, "draft"),
        "accuracy_exact": exact,
        "accuracy_rsd": accuracy(summary, "reward-guided"),
        "accuracy_spec_reason": accuracy(summary, "spec-reason"),
        "accuracy_specguard": accuracy(summary, "specguard"),
        "accuracy_specguard_greedy": accuracy(summary, "specguard as published, greedy"),
        "relative_gain_over_exact": round(accuracy(summary, "specguard") / exact - 1, 4),
        "p_value_over_exact": round(guarded.difference.p_values[0], 4),
        "accuracy_best_plain_rule": accuracy(summary, best),
        "target_step_share": round(1 - ours["accepted_steps"], 4),
        "problems": summary.questions,
    }
    others = {
        "rsd": "reward-guided",
        "exact": "exact",
        "target": "target",
        "best_plain_rule": best,
        "no_inner_speculation": "without inner speculation",
    }
    for name, other in others.items():
        many = seconds_ratio(runs["greedy"], "specguard", other, whole=True)
        figures[f"latency_ratio_to_{name}_batch_{settings.batch}"] = round(many.value, 4)
        if "latency" in runs and other in {p.label for p in runs["latency"].run.policies}:
            one = seconds_ratio(runs["latency"], "specguard", other, whole=False)
            figures[f"latency_ratio_to_{name}"] = round(one.value, 4)
    return figures


def found(summary: Summary, label: str) -> PolicySummary:
    """What a part says of a contender."""
    return next(p for p in summary.policies if p.label == label)


def accuracy(summary: Summary, label: str) -> float:
    value = found(summary, label).accuracy
    assert value is not None
    return round(value.value, 4)


def against_rewards(
    results: records.Results, policies: Sequence[PolicySummary]
) -> dict[str, float]:
    """Our seconds over those of the fastest reward-guided setting that is about as accurate.

    The setting is picked on the very problems that are reported: in its favour, not in ours. Where
    none is as accurate, the most accurate one is taken.
    """
    right = {p.label: p.accuracy.value for p in policies if p.accuracy is not None}
    seconds = {
        label: seconds_ratio(results, "specguard", label, whole=True).value
        for label in right
        if " at " in label
    }
    good = [name for name in seconds if right[name] >= right["specguard"] - AS_ACCURATE]
    # The largest of our ratios is of the fastest opponent.
    chosen = max(good or [max(seconds, key=right.__getitem__)], key=seconds.__getitem__)
    return {
        "accuracy_rsd_strict": round(right[chosen], 4),
        "accuracy_lost_by_rsd_strict": round(right["specguard"] - right[chosen], 4),
        "latency_ratio_to_rsd_strict": round(seconds[chosen], 4),
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """A file of another part, if it was run."""
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def whole_seeds(results: records.Results) -> int:
    """Seeds under which every contender answered every question."""
    run = results.run
    found = {(a.policy, a.question, a.seed) for a in results.answers}
    return sum(
        all((p.label, q.id, seed) in found for p in run.policies for q in run.questions)
        for seed in run.seeds
    )


def notes(runs: dict[str, records.Results]) -> list[str]:
    return [
        f"{part}: {len(results.run.questions)} problems, batch {results.run.batch}, seeds "
        f"{results.run.seeds}, {whole_seeds(results)} of them complete"
        for part, results in runs.items()
    ]
