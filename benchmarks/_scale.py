"""benchmarks/results/scale.json, which several scripts fill, each its own parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _record import RESULTS, command, write

FILE = "scale"


def add(name: str, rows: list[dict[str, Any]], figures: dict[str, Any]) -> Path:
    """Put a script's results in the place of its earlier ones.

    Args:
        name: of the script's results; rows are known by it and by their `part`.
        rows: its measurements.
        figures: the numbers that pages quote.
    """
    path = RESULTS / f"{FILE}.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    parts = {row["part"] for row in rows}
    kept = [r for r in before.get("rows", []) if r["script"] != name or r["part"] not in parts]
    commands = {**before.get("commands", {}), name: command()}
    return write(
        FILE,
        kept + [{"script": name, **row} for row in rows],
        {**before.get("figures", {}), **figures},
        command="; ".join(commands.values()),
        commands=commands,
    )
