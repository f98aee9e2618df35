"""Where the time of a packed model's pass goes on a CPU.

    python benchmarks/passes.py [--model .cache/models/coder-1.5b.gguf]

Wall clock of passes over one and several tokens of a text of 200: as they are run, with attention
by torch, with norms by torch as well, and the products with weights alone, which no overhead can be
below. All take turns in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _record import spread, write

from stet.decoder.decoder import Decoder
from stet.engine.runner import Runner
from stet.kernels.native import Kernel
from stet.models import load_model

READ = 200
"""Tokens in the cache before a pass."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(".cache/models/coder-1.5b.gguf"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="*", default=[1, 2, 5, 9])
    parser.add_argument("--seconds", type=float, default=12.0, help="for each width")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model, role="target", device="cpu", max_length=512, packed=True)
    runners = {
        "kernels": Runner(model, max_rows=1, max_length=512),
        "torch_attention": Runner(replace(model, native=0), max_rows=1, max_length=512),
    }
    tokens = torch.randint(model.vocab_size, (1, 256), generator=torch.Generator().manual_seed(0))
    rows = {name: runner.allocate() for name, runner in runners.items()}
    for name, runner in runners.items():
        runner.forward([rows[name]], tokens[:, :READ], [0], logits="none")

    def run(name: str, width: int) -> None:
        block = tokens[:, READ : READ + width]
        runners[name].forward([rows[name]], block, [READ], logits="all")

    assert isinstance(model.body, Decoder)
    body = model.body
    found: list[dict[str, Any]] = []
    for width in options.widths:
        calls = products(lambda width=width: run("kernels", width))  # type: ignore[misc]
        ways: dict[str, Callable[[], None]] = {
            "kernels": lambda width=width: run("kernels", width),  # type: ignore[misc]
            "torch_attention": lambda width=width: run("torch_attention", width),  # type: ignore[misc]
            "torch_attention_norms": lambda width=width: without_norms(  # type: ignore[misc]
                body, lambda: run("torch_attention", width)
            ),
            "products": lambda calls=calls: again(calls),  # type: ignore[misc]
        }
        found.append({"width": width} | measure(ways, options.seconds))
        print(found[-1], flush=True)
    figures = {
        f"{name}_width_{row['width']}": row[name]["median"] for row in found for name in ways
    }
    path = write("passes", found, figures, threads=options.threads, model=options.model.name)
    print("written:", path)


def measure(ways: dict[str, Callable[[], None]], seconds: float) -> dict[str, Any]:
    """Milliseconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    stop = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < stop or turn < 4:
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            ways[name]()
            taken[name].append((time.perf_counter() - begun) * 1e3)
        turn += 1
    return {name: spread(values) for name, values in taken.items()}


def products(run: Callable[[], None]) -> list[tuple[Any, ...]]:
    """The arguments of all products of a pass."""
    calls: list[tuple[Any, ...]] = []
    matmul = Kernel.matmul

    def kept(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        return matmul(*arguments)

    with replaced(Kernel, "matmul", kept):
        run()
    return calls


def again(calls: list[tuple[Any, ...]]) -> None:
    """Do the products of a pass."""
    for arguments in calls:
        Kernel.matmul(*arguments)


def without_norms(body: Decoder, run: Callable[[], None]) -> None:
    """Run a pass whose norms are computed by torch."""
    norms = [
        body.norm,
        *(n for layer in body.layers for n in (layer.before_attention, layer.before_mlp)),
    ]
    wide = [norm._wide for norm in norms]
    for norm in norms:
        norm._wide = None
    run()
    for norm, own in zip(norms, wide, strict=True):
        norm._wide = own


@contextmanager
def replaced(owner: type, name: str, new: Any) -> Iterator[None]:
    """Put another function in a class's place for a while."""
    before = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, before)


if __name__ == "__main__":
    main()
