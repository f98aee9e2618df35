"""Load on a server: clients that ask one after the other, and what they saw."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np


@dataclass(frozen=True)
class Ask:
    """A request, and the key under which its greedy text must always be the same."""

    path: str
    body: dict[str, Any]
    key: str


@dataclass
class Seen:
    """What clients saw.

    Attributes:
        seconds: of each whole request.
        first: seconds to the first text of each stream.
        between: seconds between pieces of streams, for each token of the later one.
        tokens: of all answers.
        texts: by key, the different greedy texts.
        statuses: how often each status came.
        lost: requests without a whole response.
        wall: seconds of it all.
    """

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0
    texts: dict[str, set[str]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    wall: float = 0.0

    def row(self) -> dict[str, Any]:
        """The figures of a table."""
        return {
            "requests": len(self.seconds),
            "tokens_per_second": round(self.tokens / self.wall, 1),
            "requests_per_second": round(len(self.seconds) / self.wall, 2),
            "e2e_ms": percentiles(self.seconds),
            "ttft_ms": percentiles(self.first),
            "itl_ms": percentiles(self.between),
            "lost": self.lost,
            "refused": self.statuses[429],
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99 in milliseconds."""
    if not seconds:
        return None
    found = np.percentile(seconds, (50, 95, 99)) * 1000
    return {name: round(float(v), 2) for name, v in zip(("p50", "p95", "p99"), found, strict=True)}


def asks(
    model: str, problems: Sequence[str], policies: Sequence[str], count: int, *, tokens: int
) -> list[Ask]:
    """Greedy requests of all kinds in a fixed order: policies in turn, half of them streams."""
    draw = random.Random(0)
    found: list[Ask] = []
    for number in range(count):
        problem, policy = draw.choice(problems), policies[number % len(policies)]
        chat = number % 3 == 0
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": tokens,
            "temperature": 0,
            "seed": 0,
            "speculation": {"policy": policy},
        }
        if chat:
            body["messages"] = [{"role": "user", "content": problem}]
        else:
            body["prompt"] = f"Problem: {problem}\nSolution:\n"
        if draw.random() < 0.5:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        path = "/v1/chat/completions" if chat else "/v1/completions"
        found.append(Ask(path, body, f"{policy} {chat} {problem}"))
    return found


def load(url: str, wanted: Sequence[Ask], clients: int) -> Seen:
    """Have so many clients ask all of it."""
    return asyncio.run(_load(url, wanted, clients))


async def _load(url: str, wanted: Sequence[Ask], clients: int) -> Seen:
    seen = Seen()
    left = iter(wanted)
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    began = time.monotonic()
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as http:

        async def client() -> None:
            for ask in left:
                try:
                    await _one(http, ask, seen)
                except (httpx2.HTTPError, ValueError, KeyError):
                    seen.lost += 1

        await asyncio.gather(*(client() for _ in range(clients)))
    seen.wall = time.monotonic() - began
    return seen


async def _one(http: httpx2.AsyncClient, ask: Ask, seen: Seen) -> None:
    began = last = time.monotonic()
    if not ask.body.get("stream"):
        answer = await http.post(ask.path, json=ask.body)
        seen.statuses[answer.status_code] += 1
        if answer.status_code == 429:
            return
        found = answer.json()
        choice = found["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        usage = found["usage"]
    else:
        text, usage = "", None
        async with http.stream("POST", ask.path, json=ask.body) as stream:
            seen.statuses[stream.status_code] += 1
            if stream.status_code == 429:
                return
            async for line in stream.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                data = json.loads(line[6:])
                usage = data.get("usage") or usage
                for choice in data["choices"]:
                    piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
                    if not piece:
                        continue
                    now = time.monotonic()
                    if not text:
                        seen.first.append(now - began)
                    else:
                        seen.between.append(now - last)
                    last = now
                    text += piece
    assert usage is not None
    seen.seconds.append(time.monotonic() - began)
    seen.tokens += usage["completion_tokens"]
    seen.texts.setdefault(ask.key, set()).add(text)


def hostile(model: str, count: int) -> list[bytes]:
    """Bodies that no client means: cut, mutated, absurd, too deep, and not text at all."""
    draw = random.Random(1)
    plain = json.dumps({"model": model, "prompt": "a", "max_tokens": 2, "stop": ["x"]}).encode()
    values: list[Any] = [
        None, True, -1, 0, 10**30, 1e300, "", "x" * 5000, [], {}, [[]], {"a": {"b": [1]}}, "\x00",
        "<|end|>", "\u202e", [None], -0.0, "NaN", ["\ud83d"], {"type": "text"},
    ]  # fmt: skip
    names = [
        "prompt", "messages", "max_tokens", "temperature", "n", "stop", "seed", "logit_bias",
        "logprobs", "stream", "speculation", "model", "top_p", "echo", "tools", "response_format",
        "stream_options", "presence_penalty", "chat_template_kwargs", "stop_token_ids",
    ]  # fmt: skip
    found: list[bytes] = []
    for _ in range(count):
        kind = draw.randrange(4)
        if kind == 0:
            body = bytearray(plain)
            for _ in range(draw.randrange(1, 8)):
                body[draw.randrange(len(body))] = draw.randrange(256)
            found.append(bytes(body))
        elif kind == 1:
            found.append(plain[: draw.randrange(len(plain))])
        elif kind == 2:
            depth = draw.choice([10, 1000, 100_000])
            found.append(b'{"model": "m", "prompt": ' + b"[" * depth + b"]" * depth + b"}")
        else:
            body = {"model": model, "prompt": "a", "max_tokens": 2}
            for name in draw.sample(names, draw.randrange(1, 4)):
                body[name] = draw.choice(values)
            found.append(json.dumps(body).encode())
    return found


def attack(url: str, bodies: Sequence[bytes]) -> Counter[int]:
    """Send bodies to both endpoints; how often each status came, 0 for no answer."""
    statuses: Counter[int] = Counter()
    with httpx2.Client(base_url=url, timeout=60) as http:
        for number, body in enumerate(bodies):
            path = "/v1/completions" if number % 2 else "/v1/chat/completions"
            try:
                answer = http.post(path, content=body, headers={"content-type": "application/json"})
                statuses[answer.status_code] += 1
            except httpx2.HTTPError:
                statuses[0] += 1
    return statuses
