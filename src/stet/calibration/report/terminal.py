"""The report on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stet.calibration.report.words import best_first, label, outlook, overruled, role, share
from stet.calibration.result import Calibration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def terminal(found: Calibration) -> RenderableType:
    """Render signals, thresholds and the claim."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_signals(found), _thresholds(found)]
    if found.measure.note:
        parts.append(Text(found.measure.note, style="bold"))
    if found.task.get("note"):
        parts.append(Text(found.task["note"]))
    parts += [Text(says) for says in (overruled(found), outlook(found)) if says]
    parts.append(Text(found.claim))
    return Group(*parts)


def _table(title: str, *headings: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for index, heading in enumerate(headings):
        table.add_column(
            heading, style="bold" if not index else None, justify="right" if index else "left"
        )
    return table


def _signals(found: Calibration) -> Table:
    title = "Signals: probability that a good step has more of it than a bad one (AUROC)"
    table = _table(title, "signal", "AUROC", "95 %", "similar steps", "in the score")
    for quality in best_first(found):
        table.add_row(
            label(quality),
            f"{quality.auroc:.3f}",
            f"{quality.low:.3f}-{quality.high:.3f}",
            "-" if quality.within is None else f"{quality.within:.3f}",
            _short(role(found, quality)),
        )
    return table


def _short(words: str) -> str:
    """Shorten a role, so that the table stays narrow."""
    if words.startswith("left out"):
        return "wrong way" if "wrong way" in words else "left out"
    return "" if "itself" in words else words.removeprefix("weight ")


def _thresholds(found: Calibration) -> Table:
    label_source = found.measure
    table = _table(
        "Thresholds, each run by itself",
        "threshold",
        label_source.heading,
        "seconds",
        "steps accepted",
        label_source.loss,
    )
    for name, point in found.references.items():
        table.add_row(name, share(point.accuracy), f"{point.seconds:.3f}", "-", "-")
    for point in found.points:
        mark = " *" if point == found.chosen else ""
        table.add_row(
            f"{point.threshold:g}{mark}",
            share(point.accuracy),
            f"{point.seconds:.3f}",
            share(point.kept),
            "-" if point.losses is None else str(point.losses),
        )
    return table
