"""The report of a training as a self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stet.arbiter import FEATURES
from stet.pages.shell import render, write
from stet.training.report.plots import plots

_HERE = Path(__file__).parent


def write_page(record: dict[str, Any], path: Path) -> None:
    """Write the page, replacing a file of that name.

    Raises:
        StetError: matplotlib is not installed; nothing is written then.
    """
    write(page(record), path)


def page(record: dict[str, Any]) -> str:
    """Render the page; the same record always gives the same page."""
    return render(
        _HERE / "training.html.jinja",
        plots(record),
        record=record,
        settings=record["settings"],
        cells=_cells(record),
        thresholds=_thresholds(record),
        features=[(name, [FEATURES[name].says]) for name in record["settings"]["features"]],
    )


def _cells(record: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (f"sweep {number}", [str(count) for count in cells.values()])
        for number, cells in enumerate(record["cells"], 1)
    ]


def _thresholds(record: dict[str, Any]) -> list[tuple[str, list[str]]]:
    rows = [("target alone", _format_measured(record["target"]))]
    for name, key in (("warm start", "warm"), ("after policy gradient", "final")):
        if key == "warm" or record["rounds"]:
            rows += [(f"{name}, {m['threshold']:g}", _format_measured(m)) for m in record[key]]
    return rows


def _format_measured(found: dict[str, Any]) -> list[str]:
    accepted_mismatches = (
        found["accepted_mismatches"] / found["mismatches"] if found["mismatches"] else 0.0
    )
    return [
        f"{100 * found['right'] / found['questions']:.1f} %",
        f"{found['tokens_per_pass']:.2f}",
        f"{100 * accepted_mismatches:.0f} %",
    ]
