"""What every benchmark's result file holds: where, with what and when its figures were measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores and memory; never a name or an address."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Stet and of what it stands on."""
    names = ("stet-decoding", "torch", "transformers", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def command() -> str:
    """The command that made the result, as typed from the top of the repository."""
    script = Path(sys.argv[0]).resolve().relative_to(Path(__file__).resolve().parent.parent)
    return shlex.join(["python", str(script), *sys.argv[1:]])


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


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "q1": round(low, 4), "q3": round(high, 4)}
