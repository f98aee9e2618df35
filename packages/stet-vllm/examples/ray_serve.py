"""Servers of vLLM with Stet's policies, as replicas of a Ray Serve application.

    pip install "ray[serve]" httpx
    python ray_serve.py --target MODEL --draft MODEL --replicas 2

Each replica runs vLLM's own server on the loopback and passes requests on to it, streams included,
so that nothing of vLLM's interface is lost. Ray starts a replica anew when its server has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from ray import serve

START_SECONDS = 600.0
PASSED = ("content-type", "authorization")
app = FastAPI()


def command(target: str, draft: str, policies: list[str], more: list[str]) -> list[str]:
    """The server of a replica, but for its port."""
    speculation = {"method": "draft_model", "model": draft, "num_speculative_tokens": 6}
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", target),
        *("--served-model-name", "target", "--host", "127.0.0.1"),
        *("--speculative-config", json.dumps(speculation)),
        *("--additional-config", json.dumps({"stet": {"allow": policies}})),
        *more,
    ]


@serve.deployment(health_check_period_s=10)
@serve.ingress(app)
class Engine:
    """A server of vLLM and the way to it."""

    async def __init__(self, server: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._process = subprocess.Popen([*server, "--port", str(port)])
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None)
        end = time.monotonic() + START_SECONDS
        while not await self._answers():
            self.check_health()
            if time.monotonic() > end:
                raise RuntimeError("The server of vLLM is not ready in time.")
            await asyncio.sleep(1)

    def check_health(self) -> None:
        """Tell Ray when the server has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"The server of vLLM ended with {self._process.returncode}.")

    def __del__(self) -> None:
        self._process.terminate()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def forward(self, path: str, request: Request) -> StreamingResponse:
        """Pass a request on, and its answer back as it comes."""
        asked = self._client.build_request(
            request.method,
            f"/{path}",
            params=request.query_params,
            content=await request.body(),
            headers={name: value for name, value in request.headers.items() if name in PASSED},
        )
        answer = await self._client.send(asked, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()  # a client that goes ends its request there, too

        kind = answer.headers.get("content-type")
        return StreamingResponse(pieces(), answer.status_code, media_type=kind)

    async def _answers(self) -> bool:
        try:
            return (await self._client.get("/health", timeout=5)).status_code == 200
        except httpx.TransportError:
            return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft", required=True)
    parser.add_argument("--allow", nargs="*", default=["top-k", "cospec"])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0.0, help="of each replica")
    parser.add_argument("--port", type=int, default=8000)
    options, more = parser.parse_known_args()  # what is not known here is vLLM's
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    replicas = Engine.options(
        num_replicas=options.replicas, ray_actor_options={"num_gpus": options.gpus}
    )
    server = command(options.target, options.draft, options.allow, more)
    serve.run(replicas.bind(server), blocking=True)


if __name__ == "__main__":
    main()
