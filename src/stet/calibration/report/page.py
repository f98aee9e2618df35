"""The report as a self-contained HTML page: no network, no fonts, no scripts."""

from __future__ import annotations

from pathlib import Path

from stet.calibration.choosing import ThresholdPoint
from stet.calibration.report.plots import plots
from stet.calibration.report.words import (
    asked,
    best_first,
    chosen,
    label,
    outlook,
    overruled,
    role,
    share,
)
from stet.calibration.result import Calibration
from stet.pages.shell import render, write
from stet.pages.words import MISSING, number

_HERE = Path(__file__).parent


def write_page(found: Calibration, path: Path) -> None:
    """Write the page, replacing a file of that name.

    Raises:
        StetError: matplotlib is not installed; nothing is written then.
    """
    write(page(found), path)


def page(found: Calibration) -> str:
    """Render the page; the same calibration always gives the same page."""
    return render(
        _HERE / "calibration.html.jinja",
        plots(found),
        found=found,
        label_source=found.measure,
        asked=asked(found),
        outlook=outlook(found),
        overruled=overruled(found),
        chosen=chosen(found),
        signals=_signals(found),
        bins=_bins(found),
        error=number(found.reliability.error, ".3f"),
        good=share(found.reliability.good),
        points=_points(found),
        bar=number(found.wish.delta / len(found.points), ".2g"),
        missing=MISSING,
    )


def _signals(found: Calibration) -> list[tuple[str, list[str]]]:
    return [
        (
            label(q),
            [
                number(q.auroc, ".3f"),
                f"{number(q.low, '.3f')} to {number(q.high, '.3f')}",
                number(q.within, ".3f"),
                role(found, q),
            ],
        )
        for q in best_first(found)
    ]


def _bins(found: Calibration) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, list[str]]] = []
    for b in found.reliability.bins:
        interval = MISSING
        if b.good_low is not None and b.good_high is not None:
            interval = f"{share(b.good_low)} to {share(b.good_high)}"
        label = f"{number(b.low, '.1f')} to {number(b.high, '.1f')}"
        cells = [str(b.steps), str(b.problems), number(b.score, ".3f"), share(b.good), interval]
        rows.append((label, cells))
    return rows


def _points(found: Calibration) -> list[tuple[str, list[str]]]:
    rows = [(name, _cells(point, reference=True)) for name, point in found.references.items()]
    for point in found.points:
        mark = " (chosen)" if point == found.chosen else ""
        rows.append((f"{point.threshold:g}{mark}", _cells(point, reference=False)))
    return rows


def _cells(point: ThresholdPoint, *, reference: bool) -> list[str]:
    losses = MISSING if point.losses is None else f"{point.losses} of {point.problems}"
    return [
        share(point.accuracy),
        number(point.seconds, ".3f"),
        MISSING if reference else share(point.kept),
        losses,
        number(point.p_value, ".2g"),
    ]
