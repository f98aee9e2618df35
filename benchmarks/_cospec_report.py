"""From the parts of `cospec.py` to its result file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _cospec_parts import SEEDS, SHARES, SWEEPS, Settings, best_rule
from _pairs import PAIRS
from _record import RESULTS, plain_numbers, write

from stet.evaluation import records
from stet.evaluation.analysis import summarise
from stet.evaluation.statistics import Resamples, gain
from stet.evaluation.summary import Estimate, PolicySummary

RATIO = 70 / 8
"""A target pass in draft passes, by the published pair's sizes, for the speed-up it would give."""

PARTS = ("tune", "test", "inside", "pace", "speed", "transfer-templates", "transfer-units")
ROUTER = "router"
"""A contender that was not run: its answers are those of both models."""

AGAIN = {"again-tune": "tune", "again-test": "test"}
"""Parts with new rows for single rules, and the parts whose rows they take the place of."""


def report(settings: Settings) -> None:
    """Write the result file from what there is of every pair; what there is not stays as it was."""
    path = RESULTS / "cospec.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = old.get("figures", {})
    details: dict[str, Any] = old.get("pairs", {})
    for name in PAIRS:
        own = replace(settings, pair=name)
        if not own.folder.exists():
            continue
        found = of_pair(own, rows)
        prefix = "" if name == "bundled" else f"{name}_"
        figures |= {prefix + key: round(float(value), 4) for key, value in found.items()}
        parts = {
            part: json.loads(file.read_text())
            for part in ("agreement", "curve", "overhead")
            if (file := own.folder / f"{part}.json").exists()
        }
        trainings = trainings_of(own)
        details[name] = (
            details.get(name, {}) | parts | ({"trainings": trainings} if trainings else {})
        )
    new = {(row["pair"], row["part"]) for row in rows}
    kept = [row for row in old.get("rows", []) if (row["pair"], row["part"]) not in new]
    newer = {place(row): row for name in PAIRS for row in again_of(replace(settings, pair=name))}
    for name in PAIRS:
        if (row := newer.get((name, "test", "random"))) is not None:
            prefix = "" if name == "bundled" else f"{name}_"
            figures[f"{prefix}accuracy_random"] = row["accuracy"]["value"]
    everything = [newer.pop(place(row), row) for row in [*kept, *rows]]
    print(write("cospec", [*everything, *newer.values()], figures, pairs=details))


def place(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["pair"], row["part"], row["policy"]


def again_of(settings: Settings) -> list[dict[str, Any]]:
    """The rows of the rules that a pair was asked again about."""
    found: list[dict[str, Any]] = []
    for folder, part in AGAIN.items():
        if not (settings.folder / folder / records.ANSWERS).exists():
            continue
        results = records.read(settings.folder / folder)
        rates = accepted_mismatch_rates([settings.folder / folder])
        summary = summarise(results, bootstrap=2_000, cost_ratio=RATIO)
        found += [
            row(settings.pair, part, p, results, one=False)
            | {"accepted_mismatch_rate": rates.get(p.label)}
            for p in summary.policies
            if p.label not in ("target", "exact")
        ]
    return found


def of_pair(settings: Settings, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The figures of a pair; its rows are added."""
    runs: dict[str, records.Results] = {}
    rates: dict[str, dict[str, float]] = {}
    for part in PARTS:
        folders = [settings.folder / part]
        if part == "test":
            folders = [settings.folder / f"test-{share}" for share in SHARES]
        folders = [f for f in folders if (f / records.ANSWERS).exists()]
        if folders:
            runs[part] = joined([records.read(folder) for folder in folders])
            if part == "test" and (router := settings.folder / "router.json").exists():
                runs[part] = routed(runs[part], json.loads(router.read_text())["chosen"])
            rates[part] = accepted_mismatch_rates(folders)
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for part, results in runs.items():
        summary = summarise(results, bootstrap=2_000, cost_ratio=RATIO)
        tables[part] = {
            p.label: row(settings.pair, part, p, results, one=part in ("pace", "speed"))
            | {"accepted_mismatch_rate": rates[part].get(p.label)}
            for p in summary.policies
        }
        rows += tables[part].values()
    figures: dict[str, float] = {}
    if "test" in tables:
        figures |= of_test(settings, tables["test"], runs["test"])
    if "speed" in tables:
        speeds = tables["speed"]
        ours = mean(value(speeds[name], "speed") for name in ours_in(speeds))
        figures |= {
            "speedup_vs_target": ours,
            "wall_clock_vs_exact": ours / value(speeds["exact"], "speed"),
            "speedup_exact": value(speeds["exact"], "speed"),
        }
    if "transfer-templates" in tables and "transfer-units" in tables:
        for part in ("templates", "units"):
            table = tables[f"transfer-{part}"]
            figures[f"transfer_gain_points_{part}"] = 100 * mean(
                value(table[name], "gain_over_reference") for name in ours_in(table)
            )
        figures["transfer_gain_points"] = mean(
            figures[f"transfer_gain_points_{part}"] for part in ("templates", "units")
        )
    return figures | of_oracle(settings)


def joined(shares: Sequence[records.Results]) -> records.Results:
    """Runs over parts of the same problems as one; their chunks stay apart."""
    first = shares[0]
    answers: list[records.Answer] = []
    for share in shares:
        start = max((a.chunk for a in answers), default=-1) + 1
        answers += [replace(a, chunk=a.chunk + start) for a in share.answers]
    questions = [q for share in shares for q in share.run.questions]
    return records.Results(replace(first.run, questions=questions), answers, None)


def routed(results: records.Results, chosen: dict[str, str]) -> records.Results:
    """The same results with a router's: to each question the answer of the model that it chose.

    Of what a model took for a chunk, an answer counts as its share.
    """
    taken = [a for a in results.answers if a.policy == chosen.get(a.question)]
    seconds: dict[tuple[int, int], float] = {}
    for a in taken:
        place = (a.seed, a.chunk)
        seconds[place] = seconds.get(place, 0.0) + a.chunk_seconds / a.chunk_answers
    answers = [replace(a, policy=ROUTER, chunk_seconds=seconds[a.seed, a.chunk]) for a in taken]
    entry = records.PolicyEntry(ROUTER, ROUTER, {}, lossless=False)
    run = replace(results.run, policies=[*results.run.policies, entry])
    return records.Results(run, [*results.answers, *answers], None)


def accepted_mismatch_rates(folders: Sequence[Path]) -> dict[str, float]:
    """For each contender, the share of the mismatches it decided that it accepted.

    In a block that broke off, the last mismatch was rejected.
    """
    accepted: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for folder in folders:
        for line in records.read_traces(folder):
            label = line["policy"]
            for block in line["trace"]["blocks"]:
                accepted[label] = accepted.get(label, 0) + len(block["accepted_mismatches"])
                broke_off = block["accepted"] < len(block["drafted"])
                rejected[label] = rejected.get(label, 0) + broke_off
    return {
        label: round(accepted[label] / (accepted[label] + rejected[label]), 4)
        for label in accepted
        if accepted[label] + rejected[label]
    }


def of_test(
    settings: Settings, table: dict[str, dict[str, Any]], results: records.Results
) -> dict[str, float]:
    """The figures of the test: accuracy, and passes of the target."""
    ours = [table[name] for name in ours_in(table)]
    warm = [r for name, r in table.items() if name.startswith("warm start")]
    rule = best_rule(settings)
    most = max(SWEEPS, key=lambda name: value(table[name], "accuracy"))
    found: dict[str, float] = {
        **{f"accuracy_{n}": value(table[n], "accuracy") for n in ("target", "draft", "exact")},
        "accuracy_cospec": mean(value(r, "accuracy") for r in ours),
        "accuracy_random": value(table["random"], "accuracy"),
        "accuracy_best_plain_rule": value(table[rule], "accuracy"),
        "accuracy_best_plain_rule_on_test": value(table[most], "accuracy"),
        "p_value": max(r["p_values"][0] for r in ours),
        "tokens_per_pass_exact": table["exact"]["tokens_per_pass"],
        "tokens_per_pass_cospec": mean(r["tokens_per_pass"] for r in ours),
        "tokens_per_pass_best_plain_rule": table[rule]["tokens_per_pass"],
        "modelled_speedup_70b_8b": mean(r["modelled_speedup_70b_8b"] for r in ours),
        "modelled_speedup_70b_8b_exact": table["exact"]["modelled_speedup_70b_8b"],
        "accepted_mismatch_rate": mean(r["accepted_mismatch_rate"] for r in ours),
        "problems": len(results.run.questions),
        "seeds": len(ours),
    }
    for label, name in (("autojudge", "autojudge"), ("autojudge, tuned", "autojudge_tuned")):
        if label in table:
            found[f"accuracy_{name}"] = value(table[label], "accuracy")
            found[f"tokens_per_pass_{name}"] = table[label]["tokens_per_pass"]
    if warm:
        found["accuracy_warm_start"] = mean(value(r, "accuracy") for r in warm)
        found["tokens_per_pass_warm_start"] = mean(r["tokens_per_pass"] for r in warm)
    labels = ours_in(table)
    for name, others in {
        "": ["target"],
        "_over_best_plain_rule": [rule],
        "_over_best_plain_rule_on_test": [most],
        "_over_warm_start": [n for n in table if n.startswith("warm start")],
        "_over_cascades": ["speculative-cascade"],
        "_over_router": [ROUTER],
        "_over_shuffled": ["shuffled labels"],
    }.items():
        if not others or not all(name in table for name in others):
            continue
        difference = between(results, labels, others)
        found[f"gain{name}_points"] = 100 * difference.value
        if difference.low is not None and difference.high is not None:
            found[f"gain{name}_points_low"] = 100 * difference.low
            found[f"gain{name}_points_high"] = 100 * difference.high
    return found


def between(results: records.Results, ours: Sequence[str], theirs: Sequence[str]) -> Estimate:
    """Our accuracy less theirs, means over seeds, on the same questions and clustered by them."""
    right: dict[str, dict[str, bool]] = {name: {} for name in (*ours, *theirs)}
    for answer in results.answers:
        if answer.policy in right:
            right[answer.policy][answer.question] = bool(answer.right)
    questions = [q.id for q in results.run.questions if all(q.id in r for r in right.values())]
    mine = np.array([[right[n][q] for n in ours] for q in questions], float).mean(1)
    other = np.array([[right[n][q] for n in theirs] for q in questions], float).mean(1)
    rise = mine - other
    return gain(
        np.maximum(rise, 0), np.maximum(-rise, 0), np.ones(len(questions)), Resamples(10_000)
    )


def of_oracle(settings: Settings) -> dict[str, float]:
    """The figures of the oracle's search and of single decisions."""
    found: dict[str, float] = {}
    path = settings.folder / "agreement.json"
    if path.exists():
        agreement = json.loads(path.read_text())["agreement"]
        saved = json.loads((settings.folder / "oracle.json").read_text())
        found |= {
            "accuracy_oracle": mean(s["accepted_mismatches"] is not None for s in saved),
            "accuracy_target_of_oracle_problems": mean(
                s["accepted_mismatches"] == [] for s in saved
            ),
            "oracle_problems": len(saved),
            "oracle_agreement_non_tie": mean(
                share for name, share in agreement.items() if name.startswith("cospec")
            ),
            "always_target_agreement_non_tie": agreement["always target"],
            "always_draft_agreement_non_tie": agreement["always draft"],
            "confident_agreement_non_tie": agreement["confident"],
        }
    path = settings.folder / "overhead.json"
    if path.exists():
        for entry in json.loads(path.read_text()):
            share = "share_of_the_target" if entry["pair"] == "wide" else "share_of_a_round"
            found[f"arbiter_overhead_{entry['pair']}"] = entry[share]
    return found


def trainings_of(settings: Settings) -> list[dict[str, Any]]:
    """What every training saw and chose."""
    found: list[dict[str, Any]] = []
    for name in (*(f"train-{seed}" for seed in SEEDS), "autojudge"):
        path = settings.folder / name / "training.json"
        if path.exists():
            record = json.loads(path.read_text())
            kept = ("cells", "target", "warm", "final", "chosen", "importance", "machine")
            found.append({"name": name, **{key: record[key] for key in kept}})
    return found


def row(
    pair: str, part: str, policy: PolicySummary, results: records.Results, *, one: bool
) -> dict[str, Any]:
    """The row of a contender in a part."""
    answers = [a for a in results.answers if a.policy == policy.label]
    tokens = sum(a.counters.emitted_tokens for a in answers)
    passes = sum(a.counters.target_passes for a in answers)
    difference = policy.difference
    ratio = policy.speed.latency_speedup if one else policy.speed.throughput_speedup
    parameters = {k: shown(v) for k, v in policy.parameters.items()}
    return {
        "pair": pair,
        "part": part,
        "date": results.run.date[:10],
        "batch": results.run.batch,
        "policy": policy.label,
        "parameters": parameters,
        "accuracy": plain_numbers(policy.accuracy),
        "gain_over_reference": None if difference is None else plain_numbers(difference.gain),
        "gained": None if difference is None else difference.gained[0],
        "lost": None if difference is None else difference.lost[0],
        "p_values": None if difference is None else difference.p_values,
        "speed": plain_numbers(ratio),
        "tokens_per_pass": round(tokens / passes, 3) if passes else None,
        "modelled_speedup_70b_8b": round(policy.speed.modelled_speedup or 0.0, 3),
    }


def shown(value: Any) -> Any:
    """A folder of a training by its name alone."""
    return Path(value).parent.name if isinstance(value, str) and "/" in value else value


def ours_in(table: dict[str, Any]) -> list[str]:
    return [name for name in table if name.startswith("cospec ")]


def value(entry: dict[str, Any], name: str) -> float:
    return float(entry[name]["value"])


def mean(values: Any) -> float:
    return float(np.mean([float(v) for v in values]))
