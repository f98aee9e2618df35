"""The report's files: the page, the plots, and the numbers for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stet.core.writing import write_bytes, write_text
from stet.evaluation.records import Results
from stet.evaluation.report.markdown import markdown
from stet.evaluation.summary import Estimate, PolicySummary, Summary


def write_report(results: Results, summary: Summary, folder: Path) -> list[Path]:
    """Write `report.html`, `summary.json`, `summary.csv`, `summary.md` and the plots.

    Args:
        results: the run; its folder's traces are shown where answers changed.
        summary: the summary from `analysis.summarise`.
        folder: folder of the files; made where it is missing, files of these names are replaced.

    Returns:
        The files, the page first.

    Raises:
        StetError: matplotlib is not installed; nothing is written then.
    """
    from stet.evaluation.report.html import page
    from stet.evaluation.report.plots import plots

    pictures = plots(summary)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": page(results, summary, pictures),
        "summary.json": to_json(summary),
        "summary.csv": to_csv(summary),
        "summary.md": markdown(summary),
    }
    written = [_write(folder / name, text) for name, text in texts.items()]
    for picture in pictures:
        written.append(_write(folder / f"{picture.name}.svg", picture.svg()))
        path = folder / f"{picture.name}.png"
        write_bytes(path, picture.png())
        written.append(path)
    return written


def to_json(summary: Summary) -> str:
    """The whole summary as JSON; numbers that JSON does not have are null."""
    return json.dumps(_finite(asdict(summary)), ensure_ascii=False, indent=1) + "\n"


def to_csv(summary: Summary) -> str:
    """The summary as CSV: one row per policy, shares from 0 to 1, times in seconds."""
    rows = [_row(policy) for policy in summary.policies]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else ["policy"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(policy: PolicySummary) -> dict[str, Any]:
    difference, speed, work = policy.difference, policy.speed, policy.work
    return {
        "policy": policy.label,
        "name": policy.name,
        "parameters": json.dumps(_finite(policy.parameters), ensure_ascii=False),
        "lossless": policy.lossless,
        "reference": policy.is_reference,
        "primary": policy.is_primary,
        "answers": policy.answers,
        "failed": policy.failed,
        **_estimate("accuracy", policy.accuracy),
        **_estimate("difference", difference.gain if difference else None),
        "gained": _list(difference.gained) if difference else "",
        "lost": _list(difference.lost) if difference else "",
        "p_values": _list(difference.p_values) if difference else "",
        "p_adjusted": difference.p_adjusted if difference else None,
        "detectable": difference.detectable if difference else None,
        **_estimate("latency_speedup", speed.latency_speedup),
        **_estimate("throughput_speedup", speed.throughput_speedup),
        "modelled_speedup": speed.modelled_speedup,
        "seconds": speed.seconds,
        "median_seconds": speed.median_seconds,
        "p90_seconds": speed.p90_seconds,
        "tokens_per_second": speed.tokens_per_second,
        "target_seconds": speed.target_seconds,
        "draft_seconds": speed.draft_seconds,
        "other_seconds": speed.other_seconds,
        "tokens": work.tokens,
        "target_tokens": work.target_tokens,
        "draft_tokens": work.draft_tokens,
        "drafted_tokens": work.drafted_tokens,
        "acceptance_rate": work.acceptance_rate,
        "tokens_per_pass": work.tokens_per_pass,
        "target_passes_per_token": work.target_passes_per_token,
        "target_passes": work.target_passes,
        "draft_passes": work.draft_passes,
        "accepted_mismatches": work.accepted_mismatches,
        "accepted_per_position": _list(work.accepted_per_position),
        **_estimate("same_text", policy.same_text),
        **_estimate("same_answer", policy.same_answer),
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _list(values: list[int] | list[float]) -> str:
    """Several values for one cell."""
    return ";".join(str(value) for value in values)


def _finite(value: Any) -> Any:
    """Convert a value to strict JSON: without NaN and infinity, unknown types as text."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
