"""What the plain rules do with drafts that are not kind to them: overconfident, or specialised.

Needs the study pair of `recipes/README.md` in `.cache/pair`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _record import write

PAIRS = Path(".cache/pair")
DRAFTS = ("draft-overconfident", "draft-specialised")
POLICIES = ("exact", "confident", "ensemble", "cascade")


def compare(draft: str, problems: int, batch: int) -> dict[str, Any]:
    """The summary of `stet compare` on one of the pairs."""
    words = ["compare", "-n", str(problems), "--batch", str(batch), "--json"]
    words += ["-o", f".cache/study/{draft}"]
    words += ["--target", str(PAIRS / "study-target" / "export")]
    words += ["--draft", str(PAIRS / draft / "export")]
    words += [word for policy in POLICIES for word in ("-p", policy)]
    done = subprocess.run(
        [sys.executable, "-m", "stet.cli", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    if not all((PAIRS / name / "export").exists() for name in ("study-target", *DRAFTS)):
        print(f"skipped: the study pair is not in {PAIRS} (recipes/README.md says how to make it)")
        return
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {"problems": options.problems}
    for draft in DRAFTS:
        summary = compare(draft, options.problems, options.batch)
        for policy in summary["policies"]:
            accuracy = policy["accuracy"]
            gain = (policy["difference"] or {}).get("gain")
            rows.append(
                {"draft": draft, "policy": policy["label"], "accuracy": accuracy, "gain": gain}
            )
            name = f"{draft.removeprefix('draft-')}_{policy['label']}_accuracy"
            figures[name] = round(accuracy["value"], 4)
    print(write("study", rows, figures))


if __name__ == "__main__":
    main()
