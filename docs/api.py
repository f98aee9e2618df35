"""Write docs/api.md: every public name with its signature and what it is, from the docstrings.

`make docs` checks that nothing is out of date; `python docs/api.py` brings it up to date.
"""

import importlib
import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "api.md"

ROOMS = {
    "stet": "The front door: load a pair and generate.",
    "stet.policies": "Rules, what a rule is made of, and finding one by name.",
    "stet.testing": "Checks for those who write rules.",
    "stet.signals": "Numbers that a model gives about its own text.",
    "stet.rewards": "Process rewards of steps.",
    "stet.arbiter": "What a trained arbiter looks at, and its network.",
    "stet.programs": "Decoding algorithms, each written for one sequence.",
    "stet.models": "Loading models and checking that they run faithfully.",
    "stet.evaluation.tasks": "Questions to compare policies on.",
    "stet.evaluation.graders": "How answers are graded.",
}
"""Packages with public names, in the order of the page."""

HEAD = (
    "# API\n\n"
    "Every public name, from its docstring. Options of requests are in "
    "[`Options`](../src/stet/requests/options.py), parameters of rules in the docstrings of their "
    "classes (`stet policies` lists them). Names that are not here may change without notice.\n\n"
)


def first_paragraph(value: Any) -> str:
    text = inspect.getdoc(value) or ""
    return re.sub(r"\s+", " ", text.split("\n\n")[0]).strip()


def signature(name: str, value: Any) -> str:
    """A name with its parameters; without annotations, which the docstrings explain."""
    if not callable(value):
        return name
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return name
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    shown = str(inspect.Signature(plain))
    return f"{name}{shown}" if len(shown) <= 90 and " at 0x" not in shown else f"{name}(...)"


def constant_docs(module: Any) -> dict[str, str]:
    """What stands under a constant, in the file that defines it."""
    found: dict[str, str] = {}
    for line in inspect.getsource(module).splitlines():
        match = re.match(r"from (stet[\w.]*) import", line)
        if match:
            text = inspect.getsource(importlib.import_module(match[1]))
            for name, doc in re.findall(
                r'^(\w+)(?:: [^\n=]+)? = .*?\n"""(.*?)"""', text, re.M | re.S
            ):
                found.setdefault(name, re.sub(r"\s+", " ", doc.split("\n\n")[0]).strip())
    return found


def entry(name: str, value: Any, constants: dict[str, str]) -> str:
    is_plain = not (inspect.isclass(value) or inspect.isroutine(value))
    if inspect.isclass(value) and issubclass(value, Enum):
        return f"- `{name}`: {first_paragraph(value)} {', '.join(f'`{m.name}`' for m in value)}.\n"
    words = constants.get(name, "") if is_plain else first_paragraph(value)
    return f"- `{name if is_plain else signature(name, value)}`: {words or type(value).__name__}\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for room, words in ROOMS.items():
        module = importlib.import_module(room)
        constants = constant_docs(module)
        parts.append(f"## {room}\n\n{words}\n\n")
        names = sorted(module.__all__, key=lambda name: (name.lower(), name))
        parts += [entry(name, getattr(module, name), constants) for name in names]
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
