"""A server on the loopback, with the bundled pair, and the official client."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import openai
import uvicorn

from stet.pair import Pair
from stet.serve.app import Server
from stet.serve.logs import Log
from stet.serve.server import configuration, listen
from stet.serve.settings import ServeSettings

MODEL = "small"
PROMPT = "Problem: Ann has 3 boxes of 12 pens. How many pens?\nSolution:\n"
CHAT = [{"role": "user", "content": "Ann has 3 boxes of 12 pens. How many pens?"}]


@dataclass
class Served:
    """A running server.

    Attributes:
        url: its address.
        server: the object behind it.
        logged: what it has logged.
        loop: where it runs.
    """

    url: str
    server: Server
    logged: io.StringIO
    loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[[], None]) -> None:
        """Call something in the server's own thread."""
        self.loop.call_soon_threadsafe(function)

    @property
    def pair(self) -> Pair:
        return self.server.pair

    def client(self, key: str = "none", **options) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def post(self, path: str, body: object, **options) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", json=body, timeout=60, **options)

    def get(self, path: str, **options) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", timeout=60, **options)

    def idle(self, seconds: float = 20.0) -> bool:
        """Whether all rows are free soon, and nobody waits."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            engine = self.pair.engine
            rows = sum(runner.rows_in_use for runner in engine.runners.values())
            if not (rows or engine.busy or self.server.turns.count):
                return True
            time.sleep(0.02)
        return False


@contextmanager
def serving(pair: Pair, settings: ServeSettings) -> Iterator[Served]:
    """Serve a pair in a thread."""
    listener = listen("127.0.0.1", 0)
    logged = io.StringIO()
    server = Server(pair, settings, Log(logged))
    running = uvicorn.Server(configuration(server, settings))
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await running.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", server, logged, loops[0])
    finally:
        running.should_exit = True
        thread.join(30)
        listener.close()
