"""A self-contained page: no network, no fonts, no separate images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stet.core.writing import write_text
from stet.pages.drawing import Picture
from stet.pages.words import plural, settings_text

_HERE = Path(__file__).parent


def render(template: Path, pictures: Iterable[Picture], **values: Any) -> str:
    """Render a page; the same values always give the same page.

    Everything is escaped, since models may write anything.

    Args:
        template: a Jinja template; it may import `macros.jinja`.
        pictures: available in it as `plots`, by name.
        **values: what else it reads; one that is missing is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([template.parent, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"settings": settings_text, "plural": plural}
    plots = {
        p.name: {"title": p.title, "says": p.description, "svg": Markup(p.inline())}
        for p in pictures
    }
    style = Markup((_HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template.name).render(style=style, plots=plots, **values)


def write(text: str, path: Path) -> None:
    """Write a page, replacing a file of that name.

    Raises:
        FileError: it cannot be written; what was there is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
