"""The comparison that README shows: `stet compare` on the bundled pair, as a user would run it.

The results folder stays in `--folder`; its table goes to `benchmarks/results/compare.json` and its
picture to `docs/images/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _record import write

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "frontier.svg"


def row(policy: dict[str, Any]) -> dict[str, Any]:
    """The row of a policy."""
    difference = policy["difference"] or {}
    return {
        "policy": policy["label"],
        "lossless": policy["lossless"],
        "accuracy": policy["accuracy"],
        "gain": difference.get("gain"),
        "p_adjusted": difference.get("p_adjusted"),
        "speedup": policy["speed"]["latency_speedup"],
        "tokens_per_pass": policy["work"]["tokens_per_pass"],
        "acceptance_rate": policy["work"]["acceptance_rate"],
        "same_text": policy["same_text"]["value"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(".cache/compare"))
    options = parser.parse_args()
    if options.folder.exists():
        shutil.rmtree(options.folder)
    words = ["compare", "-n", str(options.problems), "--batch", str(options.batch)]
    words += ["-o", str(options.folder), "--json"]
    began = time.perf_counter()
    # In a process of its own, with the settings that the command chooses for itself.
    done = subprocess.run(
        [sys.executable, "-m", "stet.cli", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    minutes = (time.perf_counter() - began) / 60
    summary = json.loads(done.stdout)
    rows = [row(p) for p in summary["policies"]]
    figures: dict[str, float] = {"minutes": round(minutes, 2), "problems": summary["questions"]}
    figures["batch"] = options.batch
    for found in rows:
        name = found["policy"].replace(" ", "_")
        figures[f"{name}_accuracy"] = round(found["accuracy"]["value"], 4)
        figures[f"{name}_speedup"] = round(found["speedup"]["value"], 3)
    PICTURE.parent.mkdir(exist_ok=True)
    shutil.copy(options.folder / PICTURE.name, PICTURE)
    print(
        write(
            "compare",
            rows,
            figures,
            run=f"stet {' '.join(words[:5])}",
            recommendation=summary["recommendation"],
            notes=summary["notes"],
        )
    )


if __name__ == "__main__":
    main()
