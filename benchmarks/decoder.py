"""What a pass costs through Stet's own decoder, beside transformers' module on the same weights.

    python benchmarks/decoder.py [--models .cache/models]

The bundled pair in float32, alone and in a batch of 8, single tokens and blocks of 6; and the
published models that a folder holds, in bfloat16. Both take turns in one process, without
`torch.compile` and without the head, which both share. Time is the processor's: what else the
machine does hardly changes it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _record import spread, write
from rich.console import Console
from rich.table import Table

from stet.bundled import DRAFT, TARGET
from stet.decoder.foreign import ForeignBody
from stet.engine.runner import Runner
from stet.models import load_model

READ = 100
"""Tokens in the cache before a pass."""


@dataclass(frozen=True)
class Case:
    """Passes of one kind of a model.

    Attributes:
        model: its name, for people.
        folder: where it is.
        dtype: of the computation.
        batch: rows of a pass.
        width: tokens of each row.
        turns: how often each decoder takes its turn.
        passes: passes in a turn.
    """

    model: str
    folder: Path
    dtype: str
    batch: int
    width: int
    turns: int
    passes: int


def cases(models: Path) -> Iterator[Case]:
    for name, folder in (("bundled target", TARGET), ("bundled draft", DRAFT)):
        for batch in (1, 8):
            for width in (1, 6):
                yield Case(name, folder, "float32", batch, width, turns=60, passes=5)
    for name in ("coder-0.5b", "coder-1.5b"):
        if (models / name).is_dir():
            for width in (1, 6):
                yield Case(name, models / name, "bfloat16", 1, width, turns=12, passes=1)


def measure(case: Case, runners: dict[str, Runner]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    size = runners["stet"].vocab_size
    tokens = torch.randint(size, (case.batch, READ + case.width), generator=generator)
    text, block = tokens[:, :READ], tokens[:, READ:]
    starts = [READ] * case.batch
    rows = {name: [r.allocate() for _ in range(case.batch)] for name, r in runners.items()}
    for name, runner in runners.items():
        runner.forward(rows[name], text, [0] * case.batch, logits="none")
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(case.turns):
        for name in list(runners)[:: 1 if turn % 2 else -1]:
            begun = time.process_time()
            for _ in range(case.passes):
                runners[name].forward(rows[name], block, starts, logits="none")
            taken[name].append((time.process_time() - begun) * 1e3 / case.passes)
    for name, runner in runners.items():
        for row in rows[name]:
            runner.release(row)
    ratios = [theirs / ours for theirs, ours in zip(*taken.values(), strict=True)]
    return {
        "model": case.model,
        "dtype": case.dtype,
        "batch": case.batch,
        "width": case.width,
        **{f"milliseconds_{name}": spread(values) for name, values in taken.items()},
        "speed_up": spread(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    loaded: Path | None = None
    runners: dict[str, Runner] = {}
    for case in cases(options.models):
        if case.folder != loaded:
            runners.clear()  # one model in memory at a time
            runners, loaded = both(case), case.folder
        rows.append(measure(case, runners))
    figures = {
        f"{r['model'].replace(' ', '_')}_batch_{r['batch']}_width_{r['width']}": r["speed_up"][
            "median"
        ]
        for r in rows
    }
    show(rows)
    print("written:", write("decoder", rows, figures))


def both(case: Case) -> dict[str, Runner]:
    """A runner through transformers' module, and one through Stet's own decoder."""
    model = load_model(case.folder, role="target", dtype=case.dtype, device="cpu")
    if model.foreign is not None:
        raise SystemExit(f"{case.model} runs through transformers: {model.foreign}.")
    theirs = replace(model, body=ForeignBody(model.model.base_model), foreign="it is compared")
    return {
        name: Runner(m, max_rows=8, max_length=256)
        for name, m in (("transformers", theirs), ("stet", model))
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Milliseconds of the processor a pass, medians")
    for column in ("model", "batch", "tokens", "transformers", "stet", "speed-up (quartiles)"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        gain = row["speed_up"]
        table.add_row(
            row["model"],
            str(row["batch"]),
            str(row["width"]),
            *(f"{row[f'milliseconds_{n}']['median']:.2f}" for n in ("transformers", "stet")),
            f"{gain['median']:.2f} ({gain['q1']:.2f}-{gain['q3']:.2f})",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
