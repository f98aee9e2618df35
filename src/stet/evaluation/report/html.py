"""The report as one self-contained page: no network, no fonts, no separate images."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from stet.evaluation.records import Results
from stet.evaluation.report.changes import PolicyChanges, policy_changes
from stet.evaluation.report.table import (
    INCOMPLETE,
    INTERVALS,
    columns,
    estimate_cell,
    heading,
    p_value,
    per_seed,
)
from stet.evaluation.summary import PolicySummary, Summary
from stet.pages.drawing import Picture
from stet.pages.shell import render
from stet.pages.words import MISSING, number

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
    from markupsafe import Markup

    script = (_HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = columns(summary)
    return render(
        _HERE / "report.html.jinja",
        pictures,
        script=Markup(script),
        script_hash=digest,
        summary=summary,
        run=results.run,
        heading=heading(summary),
        incomplete="" if summary.complete else INCOMPLETE,
        intervals=INTERVALS,
        columns=shown,
        rows=[(p, [column.cell(p) for column in shown]) for p in summary.policies],
        signals=[
            (p.label, f"signals-{index}") for index, p in enumerate(summary.policies) if p.signals
        ],
        accepted=_accepted(summary),
        cost=_cost(summary),
        comparisons=_comparisons(summary),
        groups=_groups(summary),
        changes=_worth_showing(policy_changes(results, summary)),
        missing=MISSING,
    )


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
