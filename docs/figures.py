"""Write measured figures into the pages that quote them, so that no number is typed by hand.

A page marks the place with `<!-- figures: NAME -->` and `<!-- end -->`; what stands between is
replaced by the table of that name, made from `benchmarks/results/`. `make docs` checks that nothing
is out of date; `python docs/figures.py` brings it up to date.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def source(found: dict[str, Any], name: str) -> str:
    machine = found["machine"]
    processor = machine.get("processor") or machine.get("cpu", "")
    return (
        f"\n{processor}, {machine['cores']} cores, {found['date']}: `{found['command']}`, "
        f"[{name}.json](benchmarks/results/{name}.json).\n"
    )


def assisted() -> str:
    found = result("assisted")
    figures = found["figures"]
    compiled = "exact_vs_target_compiled" in figures
    rows = []
    for key, words in (
        ("target_vs_generate", "Stet's plain decoding over transformers' `generate`"),
        ("exact_vs_target", "`exact` over Stet's plain decoding"),
        ("exact_vs_assisted", "`exact` over transformers' assisted generation"),
        ("exact_vs_generate", "`exact` over transformers' `generate`"),
    ):
        cells = [words, f"{figures[key]:.2f}x"]
        if compiled:
            cells.append(f"{figures[key + '_compiled']:.2f}x")
        rows.append(cells)
    heading = ["Speed-up, batch 1, median over prompts", "eager"]
    heading += ["Stet compiled"] if compiled else []
    row = found["rows"][0]
    return (
        table(heading, rows)
        + f"\n{figures['tokens_per_pass']:.2f} tokens per target pass; the target's own text on "
        f"{figures['same_text_share']:.0%} of {row['prompts']} prompts; bundled pair, "
        f"{row['dtype']}.\n" + source(found, "assisted")
    )


def bundled() -> str:
    found = result("bundled")
    figures = found["figures"]
    rows = [
        ["target", f"{figures['target_accuracy']:.1%}"],
        ["draft", f"{figures['draft_accuracy']:.1%}"],
        ["draft right where the target is wrong", f"{figures['draft_right_target_wrong']:.1%}"],
        ["tokens on which they disagree", f"{figures['disagreement_rate']:.1%}"],
    ]
    heading = [f"Bundled pair, {figures['problems']:.0f} test problems, greedy", ""]
    return table(heading, rows) + source(found, "bundled")


def share(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.1%} ({100 * estimate['low']:.1f}-{100 * estimate['high']:.1f})"


def compare() -> str:
    found = result("compare")
    rows = []
    for row in found["rows"]:
        gain, speedup = row["gain"], row["speedup"]
        rows.append(
            [
                f"`{row['policy']}`",
                share(row["accuracy"]),
                "" if gain is None else f"{100 * gain['value']:+.1f}",
                f"{speedup['value']:.2f}x",
                "-" if row["tokens_per_pass"] is None else f"{row['tokens_per_pass']:.2f}",
                f"{row['same_text']:.0%}",
            ]
        )
    heading = ["policy", "right answers (95 %)", "points over target", "speed-up"]
    heading += ["tokens per target pass", "target's text"]
    figures = found["figures"]
    return (
        table(heading, rows) + f"\n{figures['problems']:.0f} test problems, "
        f"{figures['batch']:.0f} at a time, {figures['minutes']:.1f} minutes for everything. "
        f"{found['recommendation']}\n" + source(found, "compare")
    )


TABLES: dict[str, Callable[[], str]] = {
    "assisted": assisted,
    "bundled": bundled,
    "compare": compare,
}


def filled(text: str) -> str:
    """The page with all its figures as they are in the results."""

    def fill(found: re.Match[str]) -> str:
        try:
            return found[1] + TABLES[found[2]]() + found[3]
        except FileNotFoundError as missing:
            return f"{found[1]}Not measured yet ({Path(missing.filename).name}).\n{found[3]}"

    return MARK.sub(fill, text)


def main() -> None:
    for page in (ROOT / "README.md",):
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
