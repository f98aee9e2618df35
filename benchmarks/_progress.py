"""Progress of long runs, a line for each thing that is done."""

from __future__ import annotations

from collections.abc import Sequence

from stet.evaluation.records import Answer
from stet.evaluation.run import Comparison

_told = ""


def tell(what: str, done: int, total: int) -> None:
    """Print progress, each line once."""
    global _told
    line = f"{what}: {done} of {total}"
    if line != _told:
        print(line, flush=True)
    _told = line


def go(comparison: Comparison, part: str) -> None:
    """Run a comparison, or go on with it, and say so chunk by chunk."""
    done = len(comparison.answers)
    chunk = -1

    def tell_chunk(answers: Sequence[Answer]) -> None:
        nonlocal done, chunk
        done += len(answers)
        if answers[0].chunk != chunk:
            chunk = answers[0].chunk
            tell(f"{part}, answers", done, comparison.total)

    comparison.go(tell_chunk)
