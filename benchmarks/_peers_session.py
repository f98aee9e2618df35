"""A slice of a run: groups one after the other, as far as they get in the time there is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _peers_checkpoint import Checkpoint
from _peers_groups import Group, Groups
from _peers_stats import rate
from _peers_turns import Contender, OutOfTime, Prompt, fastest, is_open, take_turns
from _peers_workers import PeerError, Spec, Worker

WARM_UP = 12
"""Tokens that each contender writes before anything is measured."""


@dataclass
class Session:
    """Runs groups and measurements.

    Attributes:
        checkpoint: of the run.
        logs: folder for what the workers print.
        ends: when this slice is over, on the clock of `time.monotonic`.
    """

    checkpoint: Checkpoint
    logs: Path
    ends: float

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

    def out_of_time(self) -> bool:
        """Whether the slice is over."""
        return time.monotonic() > self.ends

    def run(self, group: Group) -> None:
        """Choose the settings of a group, then measure.

        Raises:
            OutOfTime: it is not finished.
        """
        began = time.perf_counter()
        try:
            if group.chosen is None:
                self._choose(group)
            entrants = chosen(group, self.checkpoint)
            if self._is_open(entrants, group.prompts, group.name):
                self._turns(group, entrants, group.prompts, group.name, group.limit)
        finally:
            spent = time.perf_counter() - began
            if spent > 1:
                self.checkpoint.add({"spent": group.name, "took": round(spent, 1)})

    def measure(self, spec: Spec, requests: Mapping[str, dict[str, Any]]) -> None:
        """Ask a worker for measurements that are not answers, by the name of their record.

        Raises:
            OutOfTime: not all of them are made.
        """
        open_ = {n: r for n, r in requests.items() if self.checkpoint.find(measured=n) is None}
        if not open_:
            return
        began = time.perf_counter()
        worker = self._start(spec)
        try:
            for name, request in open_.items():
                if self.out_of_time():
                    raise OutOfTime
                if worker is None:
                    return
                try:
                    found = worker.ask(request)
                except PeerError as error:
                    found = {"error": str(error)}
                self.checkpoint.add({"measured": name, **found})
                print(f"  {name}: {str(found)[:150]}", flush=True)
        finally:
            if worker is not None:
                worker.close()
            took = round(time.perf_counter() - began, 1)
            self.checkpoint.add({"spent": "measurements", "took": took})

    def _choose(self, group: Group) -> None:
        """Have the contenders of each family answer other prompts, a worker at a time."""
        stage = f"{group.name}: choice"
        families = {c.name: c.family for c in group.contenders if c.family is not None}
        several = [
            c for c in group.contenders if c.family and [*families.values()].count(c.family) > 1
        ]
        for spec in group.specs:
            own = [c for c in several if c.worker == spec.name]
            if self._is_open(own, group.others, stage):
                self._turns(group, own, group.others, stage, group.limit // 2)

    def _turns(
        self,
        group: Group,
        contenders: Sequence[Contender],
        prompts: Sequence[Prompt],
        stage: str,
        limit: int,
    ) -> None:
        workers: dict[str, Worker] = {}
        needed = {c.worker for c in contenders}
        try:
            for spec in group.specs:
                if spec.name in needed and (worker := self._start(spec)) is not None:
                    workers[spec.name] = worker
            for contender in contenders:
                if contender.worker in workers:
                    self._warm_up(workers[contender.worker], contender, prompts[0])
            take_turns(
                contenders,
                workers,
                prompts,
                self.checkpoint,
                stage=stage,
                limit=limit,
                out_of_time=self.out_of_time,
                report=_tell,
            )
        finally:
            for worker in workers.values():
                worker.close()

    def _warm_up(self, worker: Worker, contender: Contender, prompt: Prompt) -> None:
        """A short answer; an error is left to the answers that count."""
        with suppress(PeerError):
            worker.ask(
                {
                    "prompt": list(prompt.tokens),
                    "setting": dict(contender.setting),
                    "max_new_tokens": WARM_UP,
                }
            )

    def _start(self, spec: Spec) -> Worker | None:
        """A worker; None where it could not be started, now or before."""
        if self.checkpoint.find(worker=spec.name, failed=True) is not None:
            return None
        if self.out_of_time():
            raise OutOfTime
        try:
            worker = Worker(spec, self.logs / f"{spec.name}.log")
        except PeerError as error:
            print(f"  {error}", flush=True)
            self.checkpoint.add({"worker": spec.name, "failed": True, "error": str(error)})
            return None
        if self.checkpoint.find(worker=spec.name, failed=False) is None:
            self.checkpoint.add({"worker": spec.name, "failed": False, **worker.about})
        return worker

    def _is_open(
        self, contenders: Sequence[Contender], prompts: Sequence[Prompt], stage: str
    ) -> bool:
        failed = {r["worker"] for r in self.checkpoint.records if r.get("failed")}
        return any(
            is_open(contender, prompt, self.checkpoint, stage)
            for contender in contenders
            for prompt in prompts
            if contender.worker not in failed
        )


def chosen(group: Group, checkpoint: Checkpoint) -> list[Contender]:
    """The contenders of a group that take part: of each family the fastest on other prompts."""
    families = {c.name: c.family for c in group.contenders if c.family is not None}
    stage = f"{group.chosen or group.name}: choice"
    best = fastest((r for r in checkpoint.records if r.get("stage") == stage), families)
    single = {f for f in families.values() if [*families.values()].count(f) == 1}
    return [
        c
        for c in group.contenders
        if c.family is None or c.family in single or best.get(c.family) == c.name
    ]


def measurements(groups: Groups, checkpoint: Checkpoint) -> dict[str, dict[str, dict[str, Any]]]:
    """What is asked of the two workers in which rounds are measured, by the worker's name.

    The agreement of both models is asked about the texts that the target wrote in 4 bits.
    """
    real, bundled = groups.rounds()
    repeats, limit = groups.sizes.repeats, groups.sizes.short
    texts = [
        (p, r["tokens"])
        for p in groups.test
        if (r := checkpoint.find(stage="4-bit", contender="stet 4-bit target", prompt=p.name))
        and "tokens" in r
    ]
    asked: dict[str, dict[str, Any]] = {}
    widths = {"target": [1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 17], "draft": [1, 2]}
    asked["passes"] = _passes(1, widths, 3 * repeats)
    for prompt, text in texts:
        request = {"prompt": list(prompt.tokens), "answer": text}
        asked[f"matches {prompt.name}"] = {"measure": "matches", **request}
    prompts = [list(p.tokens) for p in groups.test]
    for batch in (1, 8):
        asked |= _round(batch, 4, prompts, repeats, limit)
    small: dict[str, dict[str, Any]] = {}
    stories = [list(p.tokens) for p in groups.bundled().prompts]
    for batch in (1, 8, 32):
        small |= _round(batch, 6, stories, 5 * repeats, 96, " bundled")
    return {real.name: asked, bundled.name: small}


def _round(
    batch: int, length: int, prompts: list[list[int]], repeats: int, limit: int, name: str = ""
) -> dict[str, dict[str, Any]]:
    """Rounds with blocks of one length, between two measurements of the passes they consist of."""
    many = [prompts[n % len(prompts)] for n in range(batch)]
    widths = {"target": [length + 1], "draft": [1, 2]}
    bare = _passes(batch, widths, repeats)
    request = {"measure": "rounds", "prompts": many, "length": length, "max_new_tokens": limit}
    return {
        f"before b{batch}{name}": bare,
        f"rounds b{batch}{name}": request,
        f"after b{batch}{name}": bare,
    }


def _passes(batch: int, widths: dict[str, list[int]], repeats: int) -> dict[str, Any]:
    request = {"measure": "passes", "batch": batch, "widths": widths}
    return {**request, "context": 160, "repeats": repeats}


def _tell(record: dict[str, Any]) -> None:
    if "error" in record:
        told = record["error"].splitlines()[0][:120]
    else:
        told = f"{rate(record):6.1f} tokens/s, others {record['elsewhere']:.2f}"
    print(f"  {record['prompt']:<16} {record['contender']:<36} {told}", flush=True)
