"""The cost of signals: seconds of drafting the same steps with them over without.

Steps of answers are written once to learn where they end. Then every step is drafted and judged
again from the same prefix with each set of signals, all sets in turn within milliseconds, so that
what else the machine does hits all of them alike. Of several repeats of a step the fastest counts,
as what disturbs a run only ever makes it slower; seconds are summed over the steps of all answers,
and intervals resample answers. Everything between the prefix and the decision is timed: passes,
sampling, reading the text, keeping what signals need, computing them and their mean.

Two pairs: the bundled one, whose draft is so small that every operation shows, and random models of
a more usual shape (wide, large vocabulary, grouped-query attention).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from _record import RESULTS, write
from _timed_pairs import Setting, bundled, wide
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from stet.core.block import Block
from stet.core.machine import machine
from stet.core.operations import Join, Program
from stet.core.sequence import TokenSequence
from stet.policies import Exact, SpecGuard
from stet.programs import LocalTarget, stepwise
from stet.signals import SIGNALS

DEFAULT = (*SpecGuard().signals, "grounding")
"""All that `SpecGuard()` and `SpecGuard.paper()` score by, together."""

# Agreement of one candidate with itself needs nothing of the draft and costs next to nothing.
OFF = SpecGuard(signals=("agreement",), threshold=0.0, whole=True)
SINGLE = {
    "off": OFF,
    "off_again": OFF,  # what the measurement itself is worth
    "min_logprob": SpecGuard(threshold=0.0, whole=True),
    "default": SpecGuard(signals=DEFAULT, threshold=0.0, whole=True),
    # Able to end a hopeless step early, which none is at this threshold: looks at every token.
    "default_looking": SpecGuard(signals=DEFAULT, threshold=1e-30),
    "all": SpecGuard(signals=tuple(SIGNALS), threshold=0.0, whole=True),
}
"""A single candidate."""

SAMPLED: dict[str, Any] = {"candidates": 16, "temperature": 0.7, "top_p": 0.8, "threshold": 0.0}
SEVERAL = {
    "off": SpecGuard(signals=("agreement",), selector="first", **SAMPLED),
    "off_again": SpecGuard(signals=("agreement",), selector="first", **SAMPLED),
    "paper": SpecGuard.paper(target_candidates=1, threshold=0.0, delimiter="\n"),
}
"""The paper's 16 candidates, with its selector, which looks at hidden states."""

PARTS = ("single", "several", "target")


@dataclass
class Times:
    """Seconds of one batch of answers: for each step and set of signals those of each repeat."""

    wall: list[dict[str, list[float]]] = field(default_factory=list)
    cpu: list[dict[str, list[float]]] = field(default_factory=list)
    same: int = 0
    compared: int = 0

    def seconds(self, name: str, clock: str) -> float:
        """Seconds of all steps with a set of signals, each in its fastest repeat."""
        steps: list[dict[str, list[float]]] = getattr(self, clock)
        return sum(min(step[name]) for step in steps)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    rows = earlier_rows(options)
    figures: dict[str, float] = {}
    for kind in options.pairs:
        make = bundled if kind == "bundled" else wide
        for compiled in (False, True) if options.compile else (False,):
            setting = make(compiled)
            if "single" in options.parts:
                for batch in (1, 8):
                    rows.append(drafting(setting, options, SINGLE, batch, compiled))
            if "several" in options.parts and not compiled:
                rows.append(drafting(setting, options, SEVERAL, 1, compiled))
            if "target" in options.parts and not compiled:
                rows.append(rewriting(setting, options))
    for row in rows:
        of = row["pair"]
        if row["what"] == "target":
            figures[f"target_overhead_{of}"] = row["overhead"]["value"]
            figures[f"target_extra_operations_{of}"] = row["extra_operations"]
        else:
            name = "paper_16" if "paper" in row["overhead"] else "default"
            suffix = {("default", 1): "", ("default", 8): "_batch8", ("paper_16", 1): "_paper16"}
            key = f"signal_overhead_{of}{suffix[name, row['batch']]}"
            key += "_compiled" if row["compiled"] else ""
            figures[key] = row["overhead"]["paper" if name == "paper_16" else "default"]["value"]
    figures["same_text_share"] = sum(r["same"] for r in rows) / sum(r["compared"] for r in rows)
    show(rows)
    print("written:", write("signals", rows, figures))


def earlier_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of an earlier run on the same machine that are not measured again."""
    path = RESULTS / "signals.json"
    if set(options.parts) == set(PARTS) or not path.exists():
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["machine"] != machine():
        raise SystemExit(f"{path} is of another machine; measure all parts.")
    return [
        row
        for row in before["rows"]
        if part_of(row) not in options.parts or row["pair"] not in options.pairs
    ]


def part_of(row: dict[str, Any]) -> str:
    if row["what"] == "target":
        return "target"
    return "single" if row["candidates"] == 1 else "several"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="one candidate, several, the target; the others' rows stay as they are",
    )
    parser.add_argument(
        "--pairs", nargs="+", choices=("bundled", "wide"), default=["bundled", "wide"]
    )
    parser.add_argument("--answers", type=int, default=8, help="of the bundled pair")
    parser.add_argument("--repeats", type=int, default=20, help="of every step")
    parser.add_argument("--wide-answers", type=int, default=4)
    parser.add_argument("--wide-repeats", type=int, default=6)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def amount(setting: Setting, options: argparse.Namespace) -> tuple[int, int]:
    """Answers, and repeats of each step."""
    if setting.name == "bundled":
        return options.answers, options.repeats
    return options.wide_answers, options.wide_repeats


# Drafting


def drafting(
    setting: Setting,
    options: argparse.Namespace,
    policies: dict[str, SpecGuard],
    batch: int,
    compiled: bool,
) -> dict[str, Any]:
    """Seconds of the same steps with each set of signals, over those without."""
    count, repeats = amount(setting, options)
    count = count if batch == 1 and policies is SINGLE else max(count // 2, 2)
    name = f"{setting.name}, batch {batch}{', compiled' * compiled}"
    replay(setting, policies, range(batch), 1)  # warm up
    found = [
        replay(setting, policies, range(i * batch, (i + 1) * batch), repeats)
        for i in track(range(count), name)
    ]
    return {
        "what": "draft",
        "pair": setting.name,
        "batch": batch,
        "candidates": policies["off"].candidates,
        "compiled": compiled,
        "answers": count * batch,
        "steps": sum(len(times.wall) for times in found),
        "repeats": repeats,
        "milliseconds_per_step": round(
            1e3 * float(np.mean([min(s["off"]) for times in found for s in times.wall])), 3
        ),
        "overhead": {n: overhead(found, n, "wall") for n in policies if n != "off"},
        "overhead_cpu": {n: overhead(found, n, "cpu") for n in policies if n != "off"},
        "same": sum(times.same for times in found),
        "compared": sum(times.compared for times in found),
    }


def replay(setting: Setting, policies: dict[str, SpecGuard], numbers: range, repeats: int) -> Times:
    """Write a batch of answers once, and then every step of them again and again."""
    texts = []
    for number in numbers:
        sequence = setting.sequence(number)
        single = replace(policies["off"], candidates=1)
        setting.run(stepwise(sequence, single, LocalTarget(Exact())), sequence)
        texts.append((sequence.answer, [record.tokens for record in sequence.steps]))
    roots = [setting.sequence(number) for number in numbers]
    times = Times()
    many = policies["off"].candidates
    program = _replay(roots, texts, policies, repeats, times)
    setting.run(program, roots[0], rows=len(roots) if many == 1 else many + 1)
    return times


def _replay(
    roots: list[TokenSequence],
    texts: list[tuple[list[int], list[int]]],
    policies: dict[str, SpecGuard],
    repeats: int,
    times: Times,
) -> Generator[Any, Any, None]:
    names = list(policies)
    for root in roots[1:]:  # the engine has been told of the first
        root.release = roots[0].release
    for index in range(max(len(lengths) for _, lengths in texts)):
        live = [
            (root, lengths[index])
            for root, (_, lengths) in zip(roots, texts, strict=True)
            if index < len(lengths)
        ]
        wall: dict[str, list[float]] = {name: [] for name in names}
        cpu: dict[str, list[float]] = {name: [] for name in names}
        written: dict[str, list[list[int]]] = {}
        for repeat in range(-1, repeats):
            shift = (index + repeat) % len(names)
            # The first run brings the caches up to the prefix, and is not counted.
            order = ["off"] if repeat < 0 else names[shift:] + names[:shift]
            for name in order:
                with ExitStack() as stack:
                    forks = []
                    for place, (root, length) in enumerate(live):
                        (fork,) = stack.enter_context(root.fork(1))
                        fork.limits = replace(fork.limits, max_new_tokens=length)
                        seed = hash((place, index))
                        fork.sampling = replace(fork.sampling, seed=seed)
                        forks.append(fork)
                    programs = [one_step(f, policies[name]) for f in forks]
                    began, busy = time.perf_counter(), time.thread_time()
                    yield Join(programs)
                    took = time.perf_counter() - began, time.thread_time() - busy
                    if repeat >= 0:
                        wall[name].append(took[0])
                        cpu[name].append(took[1])
                        candidates = [f.steps[0].candidates for f in forks]
                        written[name] = [c.ids for of in candidates for c in of]
        times.wall.append(wall)
        times.cpu.append(cpu)
        for name in names[2:]:
            pairs = list(zip(written["off"], written[name], strict=True))
            times.same += sum(a == b for a, b in pairs)
            times.compared += len(pairs)
        for root, (answer, lengths) in zip(roots, texts, strict=True):
            start = len(root.answer)
            if index < len(lengths):
                step = answer[start : start + lengths[index]]
                root.commit(Block(len(step), known=step))
    for root in roots[1:]:
        root.release(root)


def one_step(sequence: TokenSequence, policy: SpecGuard) -> Program:
    """The first step of `stepwise`: which candidate is accepted must not decide what is timed."""
    program = stepwise(sequence, policy, LocalTarget(Exact()))
    answer: Any = None
    while not sequence.steps:
        try:
            answer = yield program.send(answer)
        except StopIteration:
            return
    program.close()


def overhead(found: Sequence[Times], name: str, clock: str) -> dict[str, float]:
    return interval([(t.seconds(name, clock), t.seconds("off", clock)) for t in found])


def interval(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Time added, as a share of the time without, and a 95 % interval that resamples the pairs."""
    numbers = np.array(pairs)
    random = np.random.default_rng(0)
    drawn = numbers[random.integers(len(numbers), size=(2000, len(numbers)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1] - 1, (0.025, 0.975))
    value = numbers[:, 0].sum() / numbers[:, 1].sum() - 1
    return {
        "value": round(float(value), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


# The target


class Counted(TorchDispatchMode):
    """Counts the operations that reach the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def rewriting(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and operations of the target that writes every step, with signals and without."""
    policies = {
        "off": replace(OFF, threshold=1.0, shadow=True),
        "default": replace(SINGLE["default"], threshold=1.0, shadow=True),
    }
    count, repeats = amount(setting, options)
    pairs, same, operations = [], 0, dict.fromkeys(policies, 0)
    forward = setting.target.forward

    def counting(*arguments: Any, **more: Any) -> Any:
        with Counted() as counted:
            out = forward(*arguments, **more)
        operations[name] += counted.count
        return out

    for number in track(range(-1, count), f"{setting.name}, target"):
        seconds: dict[str, list[float]] = {name: [] for name in policies}
        answers = {}
        for repeat in range(repeats):
            for name in sorted(policies, reverse=(number + repeat) % 2 == 0):
                sequence = setting.sequence(number)
                setting.run(stepwise(sequence, policies[name], LocalTarget(Exact())), sequence)
                seconds[name].append(sequence.counters.target_seconds)
                answers[name] = sequence.answer
        if number < 0:
            continue
        pairs.append((min(seconds["default"]), min(seconds["off"])))
        same += answers["default"] == answers["off"]
    setting.target.forward = counting  # type: ignore[method-assign]
    for name in policies:
        sequence = setting.sequence(0)
        setting.run(stepwise(sequence, policies[name], LocalTarget(Exact())), sequence)
    setting.target.forward = forward  # type: ignore[method-assign]
    return {
        "what": "target",
        "pair": setting.name,
        "answers": count,
        "repeats": repeats,
        "overhead": interval(pairs),
        "operations": operations,
        "extra_operations": operations["default"] - operations["off"],
        "same": same,
        "compared": count,
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Time added (95 % interval)")
    for heading in ("pair", "", "signals", "wall clock", "processor"):
        table.add_column(heading)
    for row in rows:
        if row["what"] == "target":
            cells = [row["pair"], "target", "default", percent(row["overhead"])]
            table.add_row(*cells, f"{row['extra_operations']} more operations")
            continue
        where = f"batch {row['batch']}, {row['candidates']} candidates"
        where += ", compiled" if row["compiled"] else ""
        for name in row["overhead"]:
            cells = [row["pair"], where, name, percent(row["overhead"][name])]
            table.add_row(*cells, percent(row["overhead_cpu"][name]))
    Console().print(table)


def percent(found: dict[str, float]) -> str:
    return f"{found['value']:+.1%} ({found['low']:+.1%} to {found['high']:+.1%})"


if __name__ == "__main__":
    main()
