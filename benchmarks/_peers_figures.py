"""From the records of a run to its result: speeds, agreement of texts, the bound, the figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from _peers_bound import LONGEST, Passes, answer_seconds, best_length, expected_speedup
from _peers_checkpoint import Checkpoint
from _peers_groups import Group, Groups
from _peers_session import chosen
from _peers_stats import Ratio, common_prefix, rate, ratio
from _record import RESULTS, spread

DEFAULT = "stet 4-bit exact"
TARGET = "stet 4-bit target"

RATIOS = {
    "target_vs_llamacpp_q4": ("4-bit", TARGET, "llama.cpp target"),
    "target_vs_openvino_q4": ("openvino", TARGET, "OpenVINO target"),
    "target_vs_generate_bf16_real": ("bf16", "stet bf16 target", "transformers generate"),
    "exact_vs_assisted_bf16_real": ("bf16", "stet bf16 exact", "transformers assisted"),
    "exact_vs_target_bf16_real": ("bf16", "stet bf16 exact", "stet bf16 target"),
    "exact_vs_target_q4": ("4-bit", DEFAULT, TARGET),
    "target_vs_vllm_cpu_real": ("vllm", "stet bf16 target", "vLLM target"),
    "target_vs_generate_eager": ("bundled", "stet target", "transformers generate"),
    "target_vs_generate_compiled": ("bundled", "stet compiled target", "transformers generate"),
    "exact_vs_target_eager": ("bundled", "stet exact", "stet target"),
    "exact_vs_target_compiled": ("bundled", "stet compiled exact", "stet compiled target"),
    "exact_vs_assisted_eager": ("bundled", "stet exact", "transformers assisted"),
    "exact_vs_assisted_compiled": ("bundled", "stet compiled exact", "transformers assisted"),
    "exact_vs_generate_eager": ("bundled", "stet exact", "transformers generate"),
    "exact_vs_generate_compiled": ("bundled", "stet compiled exact", "transformers generate"),
    "target_vs_vllm_cpu": ("bundled", "stet target", "vLLM target"),
    "exact_vs_vllm_draft_cpu": ("bundled", "stet exact", "vLLM draft"),
}
"""Group, the faster one and the slower one; a family's name stands for its best setting."""


def answers(checkpoint: Checkpoint, group: str, contender: str) -> dict[str, dict[str, Any]]:
    """A contender's answers in a group, by prompt."""
    return {
        r["prompt"]: r
        for r in checkpoint.records
        if r.get("stage") == group and r["contender"] == contender and "tokens" in r
    }


def compared(checkpoint: Checkpoint, group: str, fast: str, slow: str) -> Ratio | None:
    """The ratio of two contenders over the prompts that both have answered; None without any."""
    above, below = answers(checkpoint, group, fast), answers(checkpoint, group, slow)
    both = sorted(above.keys() & below.keys())
    if not both:
        return None
    return ratio([rate(above[p]) for p in both], [rate(below[p]) for p in both])


def resolved(group: Group, checkpoint: Checkpoint, name: str) -> str | None:
    """A contender by its name or its family's; None where it does not take part."""
    for contender in chosen(group, checkpoint):
        if name in (contender.name, contender.family):
            return contender.name
    return None


def ratios(groups: Groups, checkpoint: Checkpoint) -> dict[str, Ratio]:
    """All of `RATIOS` that were measured, and Stet's default over the best of all peers."""
    by_name = {group.name: group for group in groups.all()}
    found: dict[str, Ratio] = {}
    for figure, (name, *sides) in RATIOS.items():
        fast, slow = (resolved(by_name[name], checkpoint, side) for side in sides)
        if fast and slow and (value := compared(checkpoint, name, fast, slow)):
            found[figure] = value
    if best := best_peer(groups, checkpoint):
        found["default_vs_best_peer"] = best[1]
    return found


def best_peer(groups: Groups, checkpoint: Checkpoint) -> tuple[str, Ratio] | None:
    """The peer over which Stet's default has the smallest lead, in any setting; and that lead."""
    found = [
        (contender.name, value)
        for group in groups.all()
        if group.name in ("4-bit", "openvino", "bf16", "vllm")
        for contender in chosen(group, checkpoint)
        if not contender.name.startswith("stet")
        if (value := compared(checkpoint, group.name, DEFAULT, contender.name)) is not None
    ]
    return min(found, key=lambda item: item[1].value, default=None)


def bound(groups: Groups, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Stet's default beside what bare passes and the agreement of both models allow."""
    record = checkpoint.find(measured="passes")
    matches = {
        r["measured"].removeprefix("matches "): r
        for r in checkpoint.records
        if str(r.get("measured", "")).startswith("matches ") and "matches" in r
    }
    measured = answers(checkpoint, "4-bit", DEFAULT)
    both = [p.name for p in groups.test if p.name in matches and p.name in measured]
    if record is None or "error" in record or not both:
        return None
    passes = Passes.read(record)
    length = best_length([matches[p] for p in both], passes)

    def speeds(k: int) -> list[float]:
        return [len(matches[p]["matches"]) / answer_seconds(matches[p], passes, k) for p in both]

    found = ratio([rate(measured[p]) for p in both], speeds(length))
    flat = [match for p in both for match in matches[p]["matches"]]
    share = sum(flat) / len(flat)
    lengths = range(LONGEST + 1)
    return {
        "ratio": found.plain(),
        "length": length,
        "tokens_per_second": round(median(speeds(length)), 2),
        "measured_tokens_per_second": round(median(rate(measured[p]) for p in both), 2),
        "agreement": round(share, 4),
        "by_length": {str(k): round(median(speeds(k)), 2) for k in lengths},
        "passes_milliseconds": {
            "target": {str(w): round(1e3 * s, 2) for w, s in passes.target.items()},
            "draft": {str(w): round(1e3 * s, 2) for w, s in passes.draft.items()},
        },
        "expected_speedup": {
            f"{a / 100:g}": [round(expected_speedup(a / 100, k, passes), 4) for k in lengths]
            for a in range(50, 101, 10)
        },
    }


def round_rows(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Rounds over the sum of their bare passes, and what they consist of."""
    found: list[dict[str, Any]] = []
    for pair, suffix, length in (("real", "", 4), ("bundled", " bundled", 6)):
        for batch in (1, 8, 32):
            parts = [
                checkpoint.find(measured=f"{part} b{batch}{suffix}")
                for part in ("before", "rounds", "after")
            ]
            if any(part is None or "error" in part for part in parts):
                continue
            before, measured, after = (part for part in parts if part is not None)
            bare = (Passes.read(before).round(length) + Passes.read(after).round(length)) / 2
            blocks = measured["blocks"]
            found.append(
                {
                    "pair": pair,
                    "batch": batch,
                    "length": length,
                    "rounds": measured["rounds"],
                    "milliseconds": round(1e3 * measured["seconds"], 2),
                    "bare_milliseconds": round(1e3 * bare, 2),
                    "over_bare": round(measured["seconds"] / bare, 3),
                    "draft_milliseconds": round(1e3 * measured["draft_seconds"] / blocks, 2),
                    "target_milliseconds": round(1e3 * measured["target_seconds"] / blocks, 2),
                }
            )
    return found


def figures(groups: Groups, checkpoint: Checkpoint) -> dict[str, float]:
    """The numbers that README and docs quote, by name."""
    found = {name: round(value.value, 4) for name, value in ratios(groups, checkpoint).items()}
    if limit := bound(groups, checkpoint):
        found["exact_vs_computed_bound"] = limit["ratio"]["value"]
    for row in round_rows(checkpoint):
        name = "_real" if row["pair"] == "real" else "_bundled"
        found[f"round_overhead_b{row['batch']}{name}"] = row["over_bare"]
    return found


ELSEWHERE = {
    "auto_time_vs_best_upper": "auto",
    "auto_throughput_vs_target_batched": "auto",
    "doctor_coverage": "doctor",
    "int4_accuracy_loss_points": "quantisation",
}
"""Figures that other scripts measure, and the results that hold them."""


class Wish(NamedTuple):
    """What is wanted of a figure, and why it may miss that."""

    least: float
    most: float
    why: str


WISHES = {
    "exact_vs_assisted_compiled": Wish(
        3.0,
        math.inf,
        "Compiled passes attend by torch's own attention, over padded rows, and the eager decoder "
        "with its kernels is faster by now: so a pair on a CPU is not compiled by itself, and the "
        "ratio that users get is the eager one. A whole layer in one kernel would be the way.",
    ),
    "auto_time_vs_best_upper": Wish(
        0.0,
        1.05,
        "Of the bundled pair with a draft of which nothing is accepted; every other setting is "
        "below. An answer of 96 tokens has to bear the draft's reading of the prompt and some "
        "short blocks. Tried: longer rests, a rest for good, short blocks in a row.",
    ),
}
"""Of figures that miss it."""


def missed(figures: dict[str, float]) -> dict[str, str]:
    """The figures that miss what is wanted of them, each with the reason."""
    return {
        name: wish.why
        for name, wish in WISHES.items()
        if name in figures and not wish.least <= figures[name] <= wish.most
    }


def elsewhere(results: Path = RESULTS) -> dict[str, float]:
    """The figures of other scripts, as far as they were measured."""
    found: dict[str, float] = {}
    for name, result in ELSEWHERE.items():
        path = results / f"{result}.json"
        if path.exists():
            figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
            if name in figures:
                found[name] = figures[name]
    return found


def gather(results: Path = RESULTS) -> dict[str, float]:
    """Take the figures of other scripts over into the result of a comparison that is done."""
    path = results / "peers.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["figures"] |= elsewhere(results)
    record["missed"] = missed(record["figures"])
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    found: dict[str, float] = record["figures"]
    return found


def speed_rows(groups: Groups, checkpoint: Checkpoint, reference: Checkpoint) -> list[Any]:
    """A row for each contender of each group, and of each of Spec-Bench's."""
    texts = answers(reference, "reference", "float32")
    found: list[dict[str, Any]] = []
    for group in groups.all():
        for contender in chosen(group, checkpoint):
            given = answers(checkpoint, group.name, contender.name)
            if not given:
                continue
            row: dict[str, Any] = {"group": group.name, "contender": contender.name}
            row |= _speed(given.values())
            row |= _agreement(given, texts, group.limit, groups.ends)
            if lead := compared(checkpoint, group.name, DEFAULT, contender.name):
                row["default_over_it"] = lead.plain()
            tasks = sorted({r["group"] for r in given.values() if "group" in r})
            row |= (
                {
                    "tasks": {
                        task: _speed(r for r in given.values() if r["group"] == task)
                        for task in tasks
                    }
                }
                if tasks
                else {}
            )
            found.append(row)
    return found


def _speed(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    kept = list(records)
    speeds = [rate(r) for r in kept]
    single = {"median": round(speeds[0], 2), "q1": round(speeds[0], 2), "q3": round(speeds[0], 2)}
    row: dict[str, Any] = {
        "tokens_per_second": spread(speeds) if len(speeds) > 1 else single,
        "prompts": len(kept),
        "tokens": sum(len(r["tokens"]) for r in kept),
        "others_cores": round(median(r["elsewhere"] for r in kept), 3),
    }
    if drafted := sum(r.get("drafted") or 0 for r in kept):
        row["acceptance_rate"] = round(sum(r["accepted"] for r in kept) / drafted, 4)
    return row


def _agreement(
    given: dict[str, dict[str, Any]],
    texts: dict[str, dict[str, Any]],
    limit: int,
    ends: Sequence[int],
) -> dict[str, Any]:
    """How many texts are the float32 target's, and after how many tokens the others part."""

    def plain(record: dict[str, Any]) -> list[int]:
        return [token for token in record["tokens"][:limit] if token not in ends]

    both = [(plain(given[p]), plain(texts[p])) for p in given.keys() & texts.keys()]
    if not both:
        return {}
    parted = [common_prefix(a, b) for a, b in both if a != b]
    return {
        "same_text": len(both) - len(parted),
        "compared_texts": len(both),
        "parts_after": sorted(parted),
    }


def choices(groups: Groups, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """What every setting of a grid came to on the prompts on which settings are chosen."""
    found: list[dict[str, Any]] = []
    for group in groups.all():
        stage = f"{group.name}: choice"
        for contender in group.contenders:
            records = [
                r
                for r in checkpoint.records
                if r.get("stage") == stage and r["contender"] == contender.name
            ]
            good = [r for r in records if "tokens" in r]
            row: dict[str, Any] = {"group": group.name, "contender": contender.name}
            if errors := [r["error"] for r in records if "error" in r]:
                found.append({**row, "error": errors[0][:400]})
            elif good:
                speed = sum(len(r["tokens"]) for r in good) / sum(r["seconds"] for r in good)
                found.append({**row, "tokens_per_second": round(speed, 2)})
    return found


def points(groups: Groups, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Speed-up of the default over the target beside its acceptance, prompt by prompt."""
    found: list[dict[str, Any]] = []
    for name in ("4-bit", "spec-bench"):
        alone = answers(checkpoint, name, TARGET)
        for prompt, record in answers(checkpoint, name, DEFAULT).items():
            if prompt in alone:
                drafted = record["drafted"]
                share = record["accepted"] / drafted if drafted else None
                found.append(
                    {
                        "group": record.get("group", "GSM8K"),
                        "prompt": prompt,
                        "acceptance_rate": None if share is None else round(share, 4),
                        "speedup": round(rate(record) / rate(alone[prompt]), 4),
                    }
                )
    return found


def errors(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """Peers and settings that could not be installed, started or run, with what they said."""
    found: list[dict[str, str]] = []
    for record in checkpoint.records:
        if "error" in record and "stage" not in record:
            name = record.get("worker") or record.get("installing") or record.get("measured")
            found.append({"who": str(name), "error": record["error"][:600]})
    return found


def rows(groups: Groups, checkpoint: Checkpoint, reference: Checkpoint) -> dict[str, Any]:
    """Everything that the result file holds beside its figures."""
    best = best_peer(groups, checkpoint)
    spent: dict[str, float] = {}
    for record in checkpoint.records:
        if "spent" in record:
            spent[record["spent"]] = round(spent.get(record["spent"], 0.0) + record["took"], 1)
    return {
        "groups": {g.name: {"about": g.about, "limit": g.limit} for g in groups.all()},
        "peers": {
            r["worker"]: r["version"] for r in checkpoint.records if r.get("failed") is False
        },
        "best_peer": best[0] if best else None,
        "ratios": {name: value.plain() for name, value in ratios(groups, checkpoint).items()},
        "bound": bound(groups, checkpoint),
        "rounds": round_rows(checkpoint),
        "choices": choices(groups, checkpoint),
        "points": points(groups, checkpoint),
        "errors": errors(checkpoint),
        "took_seconds": spent,
        "speeds": speed_rows(groups, checkpoint, reference),
    }
