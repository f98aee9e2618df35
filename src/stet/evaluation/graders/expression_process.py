"""The process that parses and compares expressions, so that it can be ended from outside.

Run as a script by `expressions`; it imports nothing of Stet. It reads lines of JSON, each with an
operation and its texts, and answers each with one line of JSON. The processor time of a line and
the memory of the process are limited by the system: an expression that takes more (`9^{9^{9}}`)
ends the process.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

SECONDS = 5
"""Processor time for one line. Not time on the clock: a busy machine must not change a grade."""

MEMORY = 4 * 2**30
"""Bytes of address space."""


def main() -> None:
    """Answer lines until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Output of libraries is no answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    operations = _operations(import_module("math_verify"), import_module("sympy"))
    logging.disable(logging.CRITICAL)
    _limit_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        _limit_time()
        operation, *texts = json.loads(line)
        try:
            result = operations[operation](*texts)
        except (Exception, MemoryError, RecursionError):
            result = None
        print(json.dumps(result), file=answers, flush=True)


def _operations(math_verify: Any, sympy: Any) -> dict[str, Callable[..., Any]]:
    def parse(text: str) -> list[Any]:
        # Its own time limit uses a signal; the system's limit makes it unnecessary.
        found: list[Any] = math_verify.parse(text, parsing_timeout=None)
        return found

    def equal(gold: list[Any], answer: list[Any]) -> bool:
        return bool(gold and answer) and bool(
            math_verify.verify(gold, answer, timeout_seconds=None)
        )

    def rational(expression: Any) -> str | None:
        known = any(getattr(expression, kind, False) for kind in ("is_Rational", "is_Float"))
        return str(expression) if known else None

    def extract(text: str) -> dict[str, str] | None:
        """The final expression of a text: a number's value, or LaTeX in one form."""
        found = parse(text)
        if not found:
            return None
        expression, written = found[0], str(found[-1])
        if isinstance(expression, str):
            return {"written": written}
        if value := rational(expression):
            return {"value": value}
        formed = str(sympy.latex(expression))
        return {"written": formed if equal(found, parse(f"${formed}$")) else written}

    def value(expression: str) -> str | None:
        """The value of an expression that is a rational number."""
        found = parse(f"${expression}$")
        if not found or isinstance(found[0], str) or not getattr(found[0], "is_number", False):
            return None
        return rational(sympy.simplify(found[0]))

    return {
        "extract": extract,
        "value": value,
        "equal": lambda gold, answer: equal(parse(f"${gold}$"), parse(f"${answer}$")),
        "reads": lambda text: bool(parse(f"${text}$")),
    }


def _limit_memory() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = math.ceil(used.ru_utime + used.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
