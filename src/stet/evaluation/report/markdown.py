"""The report as Markdown, for a README, an issue or a pull request."""

from __future__ import annotations

import re

from stet.evaluation.report.table import (
    INCOMPLETE,
    INTERVALS,
    columns,
    estimate_cell,
    heading,
    p_value,
    per_seed,
)
from stet.evaluation.summary import Summary
from stet.pages.words import MISSING, number

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")


def markdown(summary: Summary) -> str:
    """The report as Markdown: tables, notes, recommendation and how to repeat it."""
    parts = [f"# Comparison on {_escape(summary.task)}", f"{_escape(heading(summary))}."]
    if not summary.complete:
        parts.append(f"**{INCOMPLETE}**")
    parts.append(_main(summary))
    parts.append(f"{INTERVALS} Difference and speed-up are against {_escape(summary.reference)}.")
    parts += _changes(summary) + _groups(summary)
    if summary.notes:
        parts.append("## Notes")
        parts.append("\n".join(f"- {_escape(note)}" for note in summary.notes))
    if summary.recommendation:
        parts += ["## Recommendation", _escape(summary.recommendation)]
    parts += ["## To repeat it", *_settings(summary)]
    return "\n\n".join(parts) + "\n"


def _main(summary: Summary) -> str:
    shown = columns(summary)
    rows = [[column.cell(policy).line for column in shown] for policy in summary.policies]
    return _table([column.heading for column in shown], rows)


def _changes(summary: Summary) -> list[str]:
    """The section on gained and lost questions, with the tests."""
    rows = []
    for policy in summary.policies:
        found = policy.difference
        if found is None:
            continue
        detectable = None if found.detectable is None else 100 * found.detectable
        rows.append(
            [
                policy.label,
                per_seed(found.gained),
                per_seed(found.lost),
                " / ".join(p_value(p) for p in found.p_values) or MISSING,
                p_value(found.p_adjusted) if found.p_adjusted is not None else "not declared",
                number(detectable, ".1f"),
            ]
        )
    if not rows:
        return []
    headings = ["policy", "gained", "lost", "p", "p, adjusted", "detectable, points"]
    return [
        f"## Changes against {_escape(summary.reference)}",
        _table(headings, rows),
        "Questions, per seed. Detectable: the smallest difference that so many questions find "
        "with 80 % power.",
    ]


def _groups(summary: Summary) -> list[str]:
    names = list(dict.fromkeys(name for policy in summary.policies for name in policy.groups))
    if not names:
        return []
    rows = [
        [p.label, *(estimate_cell(p.groups.get(name), ".1f", 100).line for name in names)]
        for p in summary.policies
    ]
    return ["## Accuracy by group, %", _table(["policy", *names], rows)]


def _settings(summary: Summary) -> list[str]:
    rows = []
    for policy in summary.policies:
        parameters = ", ".join(f"{key}={value}" for key, value in policy.parameters.items())
        rows.append([policy.label, policy.name, parameters or MISSING])
    about = {**summary.machine, **summary.versions}
    lines = [_table(["policy", "rule", "parameters"], rows, numbers=False)]
    if summary.command:
        fence = "`" * (max(map(len, re.findall(r"`+", summary.command)), default=2) + 1)
        fence = fence if len(fence) >= 3 else "```"
        lines.append(f"{fence}sh\n{summary.command}\n{fence}")
    words = [f"{key} {value}" for key, value in about.items()]
    lines.append(_escape("; ".join([*words, f"seeds {summary.seeds}", summary.date])) + ".")
    return lines


def _table(headings: list[str], rows: list[list[str]], *, numbers: bool = True) -> str:
    rule = ["---"] + ["---:" if numbers else "---"] * (len(headings) - 1)
    lines = [[_escape(cell) for cell in cells] for cells in (headings, *rows)]
    lines.insert(1, rule)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("\n", " ")
