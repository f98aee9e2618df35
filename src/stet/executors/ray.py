"""Workers on a Ray cluster: an actor holds a pair, and the accelerator it runs on.

Ray is an extra. A cluster runs whatever anybody sends it who reaches it, so a new one listens on
this machine alone, without a dashboard and without telling anybody of its use.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from stet.core.errors import OptionError, StetError, first_line
from stet.executors.base import Executor
from stet.executors.holder import Conditions, Holder
from stet.executors.pool import WorkerDied
from stet.executors.pooled import PooledExecutor
from stet.executors.source import PairSource

LOCAL = "local"
"""The address that stands for a new cluster on this machine."""

PATIENCE = 10.0
"""Seconds to wait for whoever listens at an address."""

STORE = 2**29
"""Bytes of a new cluster's object store, which holds what is on its way to the driver."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How workers are laid out over the machines of a cluster.

    Attributes:
        workers: how many there are.
        cores: cores of each.
        accelerators: accelerators of each, 0 or 1.
    """

    workers: int
    cores: int
    accelerators: int


def lay_out(
    machines: Sequence[tuple[float, float]],
    device: str,
    workers: int | None = None,
    threads: int | None = None,
) -> Shape:
    """Lay out workers: by default one for each accelerator, or, without any, for each machine.

    Args:
        machines: cores and accelerators of each machine.
        device: the device that was asked for.
        workers: how many were asked for.
        threads: threads of each, where the user said so.

    Raises:
        OptionError: there is no room for so many, or the device is one of several by its number.
    """
    if ":" in device:
        raise OptionError(
            f"The device is {device!r}, but on a cluster each worker has an accelerator of its "
            "own; leave out its number."
        )
    accelerators = sum(int(number) for _, number in machines)
    on_them = device != "cpu" and (device != "auto" or accelerators > 0)
    usable = [m for m in machines if m[0] >= 1 and (not on_them or m[1] >= 1)]
    if not usable:
        what = f"an accelerator for device {device!r}" if on_them else "a core for a worker"
        raise OptionError(f"No machine of the cluster has {what}.")
    count = workers or (accelerators if on_them else len(usable))

    def room_with(cores: int) -> int:
        return sum(int(min(c // cores, n) if on_them else c // cores) for c, n in usable)

    # As many cores as leave room for all: machines may have unequal numbers of accelerators.
    most = int(min(c for c, _ in usable))
    cores = threads or next((n for n in range(most, 1, -1) if room_with(n) >= count), 1)
    room = room_with(cores)
    if count > room:
        kind = "accelerators" if on_them else f"{cores} threads each"
        raise OptionError(
            f"The cluster has room for {room} workers with {kind}, not for {count}; ask for fewer "
            "workers or threads."
        )
    return Shape(count, cores, int(on_them))


@contextmanager
def on_ray(
    source: PairSource,
    address: str = LOCAL,
    *,
    workers: int | None = None,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Executor]:
    """An executor whose workers are actors of a Ray cluster.

    Args:
        source: what each worker loads; names and paths must mean the same on all machines.
        address: of a cluster, as `ray.init` takes it; "local" starts one on this machine, which
            ends with the `with` block.
        workers: how many; None: one for each accelerator, or, without any, for each machine.
        threads: threads of each worker; None: `OMP_NUM_THREADS`, or what is fastest.
        tell: called with a sentence when a worker has died.

    Raises:
        OptionError: Ray is not installed, or the cluster has no room for so many.
        StetError: there is no such cluster, or the pair cannot be loaded there.
    """
    ray = _import(address)
    if threads is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        threads = int(os.environ["OMP_NUM_THREADS"]) or None
    with _cluster(ray, address, (workers or 1) * (threads or 1)):
        machines = [
            (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]
        shape = lay_out(machines, source.device, workers, threads)
        backend = RayBackend(ray, replace(source, folder=str(Path.cwd())), shape)
        with PooledExecutor(
            backend, shape.workers, cores=shape.cores, threads=threads, tell=tell
        ) as executor:
            yield executor


def _import(address: str) -> Any:
    """The module, imported with the settings that it reads only then.

    Raises:
        OptionError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        # Ray's own way to a cluster that listens on the loopback interface alone, on any system.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise OptionError("Running on Ray needs ray: pip install 'stet-decoding[ray]'.") from error
    return ray


@contextmanager
def _cluster(ray: Any, address: str, cores: int) -> Iterator[None]:
    """Inside the `with` block, a new cluster with so many cores at least, or one that is there.

    Raises:
        StetError: it cannot be started or reached.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as stack:
        if address == LOCAL:
            from stet.kernels.threads import usable_cores

            # Short: the paths of its sockets may have a hundred characters. Its logs go with it.
            place = "/tmp" if Path("/tmp").is_dir() else None
            folder = tempfile.TemporaryDirectory("", "stet-", place, ignore_cleanup_errors=True)
            options |= {
                "address": LOCAL,
                "include_dashboard": False,
                "num_cpus": max(cores, usable_cores()),
                "object_store_memory": STORE,
                "_temp_dir": stack.enter_context(folder),
            }
        else:
            _knock(address)
            options["address"] = address
        try:
            ray.init(**options)
        except Exception as error:  # Ray has no common base for what goes wrong here
            if address == LOCAL:
                what = f"A Ray cluster cannot be started here ({first_line(error)})."
            else:
                what = _unreachable(address, error)
            raise StetError(what) from error
        stack.callback(ray.shutdown)
        if address == LOCAL and not ip_address(ray.util.get_node_ip_address()).is_loopback:
            raise StetError(
                "The new Ray cluster would listen to the network, since ray was imported with "
                "other settings; set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before that."
            )
        yield


def _knock(address: str) -> None:
    """Look whether anybody listens at HOST:PORT, which Ray would find out after minutes.

    Raises:
        StetError: nobody does.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):
        return  # "auto", say
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise StetError(_unreachable(address, error)) from error


def _unreachable(address: str, error: Exception) -> str:
    return f"{address} is no Ray cluster that can be reached ({first_line(error)})."


class RayBackend:
    """Carries the orders of a pool to actors.

    Args:
        ray: the module, connected to a cluster.
        source: what each worker loads.
        shape: what each worker has.
    """

    def __init__(self, ray: Any, source: PairSource, shape: Shape) -> None:
        self._ray = ray
        self._source = source
        # Who is replaced, and what is done again, is the pool's to decide.
        self._actor = ray.remote(
            num_cpus=shape.cores,
            num_gpus=shape.accelerators,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(RayWorker)

    def start(self) -> Any:
        """Start a worker."""
        return self._actor.remote(self._source)

    def submit(self, worker: Any, method: str, arguments: tuple[Any, ...]) -> Any:
        """Give an order to a worker."""
        return getattr(worker, method).remote(*arguments)

    def wait(self, tickets: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Wait until something has come of one of these orders."""
        every = [*tickets]
        self._ray.wait(every, num_returns=1, timeout=seconds)
        done, _ = self._ray.wait(every, num_returns=len(every), timeout=0)
        found: Sequence[Any] = done
        return found

    def result(self, ticket: Any) -> Any:
        """What has come of an order.

        Raises:
            WorkerDied: the worker is gone, or what it had made.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(ticket)
        except errors.RayTaskError as error:
            if isinstance(error.cause, StetError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise WorkerDied(first_line(error)) from error

    def stop(self, worker: Any) -> None:
        """End a worker."""
        with suppress(Exception):  # it is gone, or the cluster is
            self._ray.kill(worker)

    def share(self, value: Any) -> Any:
        """Keep a value where all workers can fetch it."""
        return [self._ray.put(value)]  # inside a list it is sent as what it stands for


class RayWorker(Holder):
    """An actor; what is shared it fetches from the cluster's store."""

    def run(self, key: int, fetch: Any, chunk: Any, conditions: Conditions) -> Any:
        """Work on a chunk, see `Holder.run`."""
        import ray

        return super().run(key, lambda: ray.get(fetch[0]), chunk, conditions)
