"""The frame of every result file: where, with what and when its figures were measured."""

from __future__ import annotations

import datetime
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from stet.core.machine import machine, versions
from stet.evaluation.summary import Estimate

RESULTS = Path(__file__).parent / "results"


def command() -> str:
    """The command that made the result, as typed from the top of the repository."""
    script = Path(sys.argv[0]).resolve().relative_to(Path(__file__).resolve().parent.parent)
    words = sys.argv[1:]
    if "--note" in words:  # it stands in the result by itself
        place = words.index("--note")
        words = words[:place] + words[place + 2 :]
    return shlex.join(["python", str(script), *words])


def write(name: str, rows: list[dict[str, Any]], figures: dict[str, float], **more: object) -> Path:
    """Write `benchmarks/results/NAME.json`.

    Args:
        name: of the file.
        rows: the measurements.
        figures: the numbers that README and docs quote, by name.
        **more: further entries.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = {
        "machine": machine(),
        "versions": versions(),
        "command": command(),
        "date": today,
        "figures": figures,
        **more,
        "rows": rows,
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def add(name: str, part: str, rows: list[dict[str, Any]], figures: dict[str, float]) -> Path:
    """Put the measurements of a part into a result that several scripts or runs make together.

    Args:
        name: of the file.
        part: what is measured; rows have it under "part", and those of before are replaced.
        rows: the measurements.
        figures: the numbers that are quoted; others stay.
    """
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    own = {"command": command(), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    own |= {"machine": machine(), "versions": versions()}
    return write(
        name,
        [row for row in known.get("rows", []) if row["part"] != part] + rows,
        {**known.get("figures", {}), **figures},
        parts={**known.get("parts", {}), part: own},
    )


def plain_numbers(estimate: Estimate | None) -> dict[str, float | None] | None:
    """A value with its interval, to four places."""
    if estimate is None:
        return None
    return {
        name: None if (value := getattr(estimate, name)) is None else round(value, 4)
        for name in ("value", "low", "high")
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "q1": round(low, 4), "q3": round(high, 4)}
