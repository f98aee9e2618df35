"""Contenders that take turns on prompts, one at work at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
from _peers_checkpoint import Checkpoint
from _peers_workers import PeerError

TRIES = 3
"""How often an answer is written while others disturb it; the least disturbed one counts."""


class Asked(Protocol):
    """What the harness needs of a worker."""

    about: dict[str, Any]

    def ask(self, request: Mapping[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        ...


@dataclass(frozen=True)
class Contender:
    """Somebody who decodes in a certain way.

    Attributes:
        name: in records and results.
        worker: name of the worker that does it.
        setting: what the worker is asked.
        family: contenders of one family differ in a setting such as the number of drafted tokens;
            the one that is fastest on other prompts takes part. None: it takes part by itself.
    """

    name: str
    worker: str
    setting: Mapping[str, Any]
    family: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens of the target.

    Attributes:
        name: in records.
        tokens: ids.
        group: kind of task, where there are several.
    """

    name: str
    tokens: tuple[int, ...]
    group: str = ""


class Elsewhere:
    """Measures what processes other than ours and our children take of the processor meanwhile."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy = _busy()
        self._ours = _ours()

    def stop(self) -> tuple[float, bool]:
        """Cores that others took on average since this was made, and whether that is too much.

        The system counts in hundredths of a second, so of a short answer some of them are allowed.
        """
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        spent = max(_busy() - self._busy - (_ours() - self._ours), 0.0)
        return spent / elapsed, spent > 0.05 + 0.2 * elapsed


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - times.guest)


def _ours() -> float:
    total = 0.0
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            spent = process.cpu_times()
        except psutil.Error:
            continue
        total += spent.user + spent.system
    return total


class OutOfTime(Exception):
    """The time of this slice is over."""


def take_turns(
    contenders: Sequence[Contender],
    workers: Mapping[str, Asked],
    prompts: Iterable[Prompt],
    checkpoint: Checkpoint,
    *,
    stage: str,
    limit: int,
    out_of_time: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> None:
    """Have every contender answer every prompt: A B C, then B C A, and so on.

    A contender that fails once is left out of this stage, and its error is a record.

    Args:
        contenders: who take turns.
        workers: by name; contenders of a worker that is missing are left out.
        prompts: what they answer.
        checkpoint: holds what was answered already, and is given what is new.
        stage: name of this part of the run, in records.
        limit: `max_new_tokens`.
        out_of_time: asked before each prompt, never within one, so that the answers that are
            compared lie close together.
        report: is given each new record.

    Raises:
        OutOfTime: `out_of_time` said so.
    """
    for number, prompt in enumerate(prompts):
        order = [*contenders[number % len(contenders) :], *contenders[: number % len(contenders)]]
        open_ = [c for c in order if c.worker in workers and is_open(c, prompt, checkpoint, stage)]
        if open_ and out_of_time():
            raise OutOfTime
        for contender in open_:
            record = {"stage": stage, "contender": contender.name, "prompt": prompt.name}
            record |= {"group": prompt.group} if prompt.group else {}
            try:
                record |= answer(workers[contender.worker], contender, prompt, limit)
            except PeerError as error:
                record |= {"error": str(error)}
            checkpoint.add(record)
            report(record)


def answer(worker: Asked, contender: Contender, prompt: Prompt, limit: int) -> dict[str, Any]:
    """One answer; measured again while other processes disturb it, and the quietest is taken."""
    request = {
        "prompt": list(prompt.tokens),
        "setting": dict(contender.setting),
        "max_new_tokens": limit,
    }
    best: dict[str, Any] | None = None
    for _ in range(TRIES):
        elsewhere = Elsewhere()
        found = worker.ask(request)
        share, disturbed = elsewhere.stop()
        found["elsewhere"] = round(share, 3)
        if best is None or found["elsewhere"] < best["elsewhere"]:
            best = found
        if not disturbed:
            break
    assert best is not None
    return best


def is_open(contender: Contender, prompt: Prompt, checkpoint: Checkpoint, stage: str) -> bool:
    """Whether an answer is still to be written: it is not there, and nothing has failed before."""
    about = {"stage": stage, "contender": contender.name}
    failed = any("error" in r for r in checkpoint.records if about.items() <= r.items())
    return not failed and checkpoint.find(**about, prompt=prompt.name) is None


def fastest(records: Iterable[dict[str, Any]], families: Mapping[str, str]) -> dict[str, str]:
    """The contender of each family that wrote most tokens per second in all.

    Args:
        records: of the prompts on which settings are chosen.
        families: family of a contender, by its name.
    """
    totals: dict[str, tuple[int, float]] = {}
    failed: set[str] = set()
    for record in records:
        name = record["contender"]
        if "error" in record:
            failed.add(name)
        elif name in families:
            tokens, seconds = totals.get(name, (0, 0.0))
            totals[name] = (tokens + len(record["tokens"]), seconds + record["seconds"])
    best: dict[str, str] = {}
    for name, (tokens, seconds) in totals.items():
        family = families[name]
        if name in failed:
            continue
        other = best.get(family)
        if other is None or tokens / seconds > totals[other][0] / totals[other][1]:
            best[family] = name
    return best
