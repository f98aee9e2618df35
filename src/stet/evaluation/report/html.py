"""The report as one self-contained page: no network, no fonts, no separate images."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from stet.evaluation.records import Results
from stet.evaluation.report.changes import PolicyChanges, policy_changes
from stet.evaluation.report.drawing import Picture
from stet.evaluation.report.table import (
    INCOMPLETE,
    INTERVALS,
    MISSING,
    columns,
    estimate_cell,
    heading,
    number,
    p_value,
    per_seed,
    plural,
)
from stet.evaluation.summary import PolicySummary, Summary

_HERE = Path(__file__).parent


def page(results: Results, summary: Summary, pictures: list[Picture]) -> str:
    """Render the page.

    Everything is escaped, since models may write anything, and the page allows no script but its
    own.

    Args:
        results: the run, with the questions, answers and traces of changed answers.
        summary: all numbers.
        pictures: the plots from `plots`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["settings"] = settings_text
    environment.filters["plural"] = plural
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = columns(summary)
    plots = {
        p.name: {"title": p.title, "says": p.description, "svg": Markup(p.inline())}
        for p in pictures
    }
    return environment.get_template("report.html.jinja").render(
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        summary=summary,
        run=results.run,
        heading=heading(summary),
        incomplete="" if summary.complete else INCOMPLETE,
        intervals=INTERVALS,
        columns=shown,
        rows=[(p, [column.cell(p) for column in shown]) for p in summary.policies],
        plots=plots,
        signals=[
            (p.label, plots[f"signals-{index}"])
            for index, p in enumerate(summary.policies)
            if p.signals
        ],
        accepted=_accepted(summary),
        cost=_cost(summary),
        comparisons=_comparisons(summary),
        groups=_groups(summary),
        changes=_worth_showing(policy_changes(results, summary)),
        missing=MISSING,
    )


def settings_text(settings: dict[str, Any]) -> str:
    """Settings in one line: `key=value, ...`."""
    return ", ".join(f"{key}={_value(value)}" for key, value in settings.items()) or MISSING


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _worth_showing(found: list[PolicyChanges]) -> list[PolicyChanges]:
    return [changes for changes in found if changes.gained or changes.lost]


def _accepted(summary: Summary) -> list[tuple[str, list[str]]]:
    """Share of blocks whose i-th token was accepted, in percent; rows of equal length."""
    rows = [(p.label, p.work.accepted_per_position) for p in summary.policies]
    longest = max((len(shares) for _, shares in rows), default=0)
    return [
        (label, [number(100 * s, ".0f") for s in shares] + [MISSING] * (longest - len(shares)))
        for label, shares in rows
        if shares
    ]


def _cost(summary: Summary) -> list[tuple[str, list[str]]]:
    """The cost of an answer in seconds and passes; rows of the table below the plot."""
    return [(p.label, _costs(p)) for p in summary.policies]


def _costs(policy: PolicySummary) -> list[str]:
    speed, work = policy.speed, policy.work
    seconds = (
        speed.seconds,
        speed.median_seconds,
        speed.p90_seconds,
        speed.target_seconds,
        speed.draft_seconds,
        speed.other_seconds,
    )
    counts = (work.tokens, work.target_tokens, work.draft_tokens)
    passes = (work.target_passes, work.draft_passes, work.accepted_mismatches)
    return [number(value, ".3f") for value in seconds] + [
        number(value, ".1f") for value in (*counts, *passes)
    ]


def _comparisons(summary: Summary) -> list[tuple[str, list[str]]]:
    """The results of the paired tests; rows of a table."""
    rows = []
    for policy in summary.policies:
        found = policy.difference
        if found is None:
            continue
        adjusted = "not declared" if found.p_adjusted is None else p_value(found.p_adjusted)
        detectable = None if found.detectable is None else 100 * found.detectable
        cells = [
            estimate_cell(found.gain, "+.1f", 100).line,
            per_seed(found.gained),
            per_seed(found.lost),
            " / ".join(p_value(p) for p in found.p_values) or MISSING,
            adjusted,
            number(detectable, ".1f"),
        ]
        rows.append((policy.label, cells))
    return rows


def _groups(summary: Summary) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Accuracy by group of questions: names and rows; empty where the task has none."""
    names = list(dict.fromkeys(name for policy in summary.policies for name in policy.groups))
    if not names:
        return [], []
    rows = [
        (p.label, [estimate_cell(p.groups.get(name), ".1f", 100).line for name in names])
        for p in summary.policies
    ]
    return names, rows
