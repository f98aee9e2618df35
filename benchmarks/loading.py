"""The cost of the check at load: fresh processes that load a model, with it and without, in turns.

    python benchmarks/loading.py --model path/to/model

Imports are included. Seconds of the clock depend on what else the machine does, seconds of the
processor hardly do.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from _record import spread, write

MODEL = Path(".cache/models/coder-1.5b")
LOAD = """
import sys
from stet.models import load_model
model, dtype, check = sys.argv[1:]
load_model(model, role="target", dtype=dtype, device="cpu", self_check=check == "1")
"""


def timed(model: Path, dtype: str, check: bool) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", LOAD, str(model), dtype, str(int(check))],
        check=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    clock = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if not options.model.is_dir():
        print(f"There is no {options.model}; name the folder of a model by --model.")
        return
    timed(options.model, options.dtype, check=True)  # brings the files into memory
    seconds: dict[tuple[str, bool], list[float]] = {}
    for run in range(options.runs):
        for check in (True, False) if run % 2 else (False, True):
            clock, processor = timed(options.model, options.dtype, check)
            seconds.setdefault(("clock", check), []).append(clock)
            seconds.setdefault(("processor", check), []).append(processor)
    rows: list[dict[str, Any]] = [
        {"seconds": kind, "self_check": check, **spread(values)}
        for (kind, check), values in seconds.items()
    ]
    figures = {
        f"ratio_{kind}": round(median(seconds[kind, True]) / median(seconds[kind, False]), 3)
        for kind in ("clock", "processor")
    }
    print(write("loading", rows, figures, model=options.model.name, dtype=options.dtype))
    print(figures)


if __name__ == "__main__":
    main()
