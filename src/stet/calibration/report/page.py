"""The report as a self-contained HTML page: no network, no fonts, no scripts."""

from __future__ import annotations

from pathlib import Path

from stet.calibration.choosing import ThresholdPoint
from stet.calibration.report.plots import plots
from stet.calibration.report.words import asked, best_first, chosen, label, role, share
from stet.calibration.result import Calibration
from stet.core.files import write_text
from stet.evaluation import report
from stet.evaluation.report.html import settings_text
from stet.evaluation.report.table import MISSING, number

_HERE = Path(__file__).parent
_SHARED = Path(report.__file__).parent


def write_page(found: Calibration, path: Path) -> None:
    """Write the page, replacing a file of that name.

    Raises:
        StetError: matplotlib is not installed; nothing is written then.
    """
    text = page(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def page(found: Calibration) -> str:
    """Render the page; the same calibration always gives the same page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([_HERE, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["settings"] = settings_text
    pictures = {
        p.name: {"title": p.title, "says": p.description, "svg": Markup(p.inline())}
        for p in plots(found)
    }
    return environment.get_template("calibration.html.jinja").render(
        style=Markup((_SHARED / "report.css").read_text(encoding="utf-8")),
        found=found,
        label_source=found.measure,
        asked=asked(found),
        chosen=chosen(found),
        plots=pictures,
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
