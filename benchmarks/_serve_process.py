"""A server as a process of its own, and what it says of itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2


@dataclass
class Running:
    """A running server.

    Attributes:
        url: its address.
        ready_seconds: from its start until it took requests.
    """

    url: str
    ready_seconds: float

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all label values that match."""
        text = httpx2.get(f"{self.url}/metrics", timeout=60).text
        found = [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items())
        ]
        return sum(found)

    def cpu(self) -> tuple[float, float]:
        """Seconds of processors: of the engine, and of all around it."""
        return (
            self.metric("stet:cpu_seconds_total", part="engine"),
            self.metric("stet:cpu_seconds_total", part="server"),
        )

    def settle(self, seconds: float = 60.0) -> None:
        """Wait until nothing is at work."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            busy = self.metric("vllm:num_requests_running") + self.metric(
                "vllm:num_requests_waiting"
            )
            if not busy:
                return
            time.sleep(0.2)


@contextmanager
def server(options: Sequence[str]) -> Iterator[Running]:
    """Run `stet serve` until the `with` block is left."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "stet.cli", "serve", "--port", "0", "--no-log", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"at (http://[^ ]+) ", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield Running(found[1], time.monotonic() - began)
                return
        raise SystemExit("".join(said))
    finally:
        process.terminate()
        process.wait(120)
