"""The style of plots, and their files: the same bytes from the same numbers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from stet.core.errors import StetError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with every kind of colour vision.
BLACK, BLUE, SKY, GREEN = "#000000", "#0072b2", "#56b4e9", "#009e73"
ORANGE, VERMILLION, PURPLE, GREY = "#e69f00", "#d55e00", "#cc79a7", "#666666"

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.labelcolor": "#222222",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout everywhere
    "font.size": 9.5,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "text.color": "#222222",
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": "#555555",
    "xtick.labelcolor": "#222222",
    "ytick.color": "#555555",
    "ytick.labelcolor": "#222222",
}

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot.

    Attributes:
        name: name of its files, and the prefix of all ids in its SVG.
        title: title of the plot.
        description: its numbers in words, for readers who do not see it.
        figure: matplotlib's figure.
    """

    name: str
    title: str
    description: str
    figure: Figure

    def svg(self) -> str:
        """The plot as a whole SVG file."""
        file = io.StringIO()
        with style(self.name):
            self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    def inline(self) -> str:
        """The plot as an SVG element for a page: scalable, labelled, with unique ids."""
        return _inline(self.svg(), self.name, f"{self.title}. {self.description}")

    def png(self) -> bytes:
        """The plot as a PNG file, at twice the usual density."""
        file = io.BytesIO()
        with style(self.name):
            self.figure.savefig(file, format="png", dpi=192, metadata={"Software": None})
        return file.getvalue()


@contextmanager
def style(name: str) -> Iterator[None]:
    """Use Stet's settings of matplotlib inside the `with` block, without the user's matplotlibrc.

    Raises:
        StetError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise StetError(
            "The report draws its plots with matplotlib, which is not installed: "
            'pip install "stet-decoding[compare]".'
        ) from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        # In a page such a sign comes from another font; a PNG shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        # A salt for each plot: one page has several, and equal ids would be confused.
        settings: Any = matplotlib.rcParams
        settings.update({**_STYLE, "svg.hashsalt": f"stet-{name}"})
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, in inches, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def laid_out(figure: Figure) -> Figure:
    """Fix the layout of a figure, since a second layout would move things a little."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def short(label: str) -> str:
    """A label cut to 22 characters, to leave room for the plot."""
    return label if len(label) <= 22 else f"{label[:21]}…"


def category_axis(axes: Axes, labels: list[str]) -> None:
    """Set one row per label on the vertical axis, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _inline(text: str, name: str, label: str) -> str:
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            # Its rules would apply to the whole page; the page's own style sheet has them.
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == _LINK and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")
