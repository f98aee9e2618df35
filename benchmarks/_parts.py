"""Command lines of long benchmarks, whose words are names of parts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Parts = Mapping[str, Callable[[Any], None]]
"""What can be run, by name; each takes the settings."""


def parse(
    parser: argparse.ArgumentParser, parts: Parts, unasked: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The options of a command line, and the parts that it names.

    Args:
        parser: with all options.
        parts: what can be run.
        unasked: what is not run where no part is named.
    """
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    options = vars(parser.parse_args())
    chosen: list[str] = options.pop("parts")
    unknown = [part for part in chosen if part not in parts]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; choose from {', '.join(parts)}")
    return options, chosen or [part for part in parts if part not in unasked]
