"""Data-parallel training: several processes, each with its own batches and the same weights."""

from __future__ import annotations

import datetime
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn

# The first process validates and decodes while the others wait for it.
PATIENCE = datetime.timedelta(hours=2)
GO_ON = "the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Workers:
    """The processes of one run, as one of them sees them.

    Attributes:
        rank: Which one this is. The first also logs, validates and saves.
        size: How many there are. One alone runs no distributed code.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that logs, validates and saves."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], values: Sequence[float | torch.Tensor]
    ) -> list[float]:
        """Sum the gradients and some numbers over all processes, in one reduction."""
        if self.size == 1:
            return [float(v) for v in values]
        gradients = [p.grad for p in parameters if p.grad is not None]
        numbers = torch.tensor([float(v) for v in values])
        joint = self.sum(torch.cat([numbers, *(g.flatten() for g in gradients)]))
        summed = joint[len(values) :].split([g.numel() for g in gradients])
        for gradient, new in zip(gradients, summed, strict=True):
            gradient.copy_(new.view_as(gradient))
        return joint[: len(values)].tolist()

    def gather(self, share: torch.Tensor) -> torch.Tensor:
        """Every process's share, `[processes, ...]`."""
        if self.size == 1:
            return share[None]
        shares = [torch.empty_like(share) for _ in range(self.size)]
        distributed.all_gather(shares, share)
        return torch.stack(shares)


ALONE = Workers()


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however that came about."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start(
    rank: int, size: int, parent: int, meeting: str, work: Callable[..., None], *arguments: Any
) -> None:
    _end_with(parent)
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=size, timeout=PATIENCE
    )
    work(Workers(rank, size), *arguments)
    distributed.destroy_process_group()


def start(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(workers, *arguments)` in so many processes; if one fails, all end."""
    try:
        if size == 1:
            work(ALONE, *arguments)
        else:
            _start_all(size, work, *arguments)
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted: {GO_ON}") from None
    except (
        multiprocessing.ProcessRaisedException,
        multiprocessing.ProcessExitedException,
    ) as error:
        raise SystemExit(
            f"{error}\nprocess {error.error_index} failed and the others were ended: {GO_ON}"
        ) from None


def _start_all(size: int, work: Callable[..., None], *arguments: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder).resolve() / "meeting").as_uri()
        running = multiprocessing.start_processes(
            _start,
            (size, os.getpid(), meeting, work, *arguments),
            size,
            join=False,
            start_method="spawn",
        )
        try:
            while not running.join():
                pass
        finally:
            for process in running.processes:
                process.terminate()
                process.join()
