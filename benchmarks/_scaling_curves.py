"""The curves: throughput, memory and time to first token by batch, context and block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
from _peers_setup import llama, transformers, vllm
from _peers_workers import PeerError, Spec, Worker
from _scaling_settings import GREEDY, Rows, Settings

import stet
from stet import bundled

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
TOKENS = 32
"""Tokens of an answer."""

PROMPT, ANSWER = 64, 96
"""Tokens of a prompt and of an answer where the batch varies."""

MOST = 65_536
"""Tokens of all contexts of a batch."""

SLOWEST = 1800.0
"""Seconds of one answer, after which a contender is not asked for a longer context."""


def batch(settings: Settings) -> None:
    """Throughput by requests at a time; every request has a prompt of its own."""
    rows = Rows(settings, "batch")
    with settings.load(max_batch=max(BATCHES), max_length=256) as pair, _peer(settings) as peer:
        for number in range(settings.repeats):
            for count in BATCHES:
                prompts = [settings.prompt(pair, PROMPT, 1000 * number + i) for i in range(count)]
                for policy in ("target", "exact"):
                    key = {"contender": f"stet {policy}", "batch": count, "repeat": number}
                    if not rows.has(**key):
                        rows.add(**key, **_stet(pair, prompts, policy, ANSWER))
                key = {"contender": "transformers", "batch": count, "repeat": number}
                if not rows.has(**key):
                    rows.add(**key, **_ask(peer, prompts, ANSWER))


def context(settings: Settings) -> None:
    """Time to first token and of each further one, by the length of the prompt."""
    rows = Rows(settings, "context")
    lengths = [n for n in CONTEXTS if n <= settings.limit]
    longest = lengths[-1]
    for name, open_contender in _contenders(settings, longest).items():
        slow = False
        wanted = [n for n in lengths if not rows.has(contender=name, context=n)]
        if not wanted:
            continue
        try:
            with open_contender() as answer:
                answer([settings.prompt(answer.pair, 32, 9)])
                for count in wanted:
                    if slow:
                        break
                    room = count - TOKENS if count == longest else count
                    found = answer([settings.prompt(answer.pair, room, count)])
                    rows.add(contender=name, context=count, **found)
                    slow = found["seconds"] > SLOWEST
        except PeerError as error:
            print(f"{name}: {error}", flush=True)


def grid(settings: Settings) -> None:
    """Batches of long contexts, up to 64k tokens together."""
    rows = Rows(settings, "grid")
    lengths = [n for n in CONTEXTS if 1024 <= n <= settings.limit] or [settings.limit]
    for length in lengths:
        sizes = [n for n in BATCHES if n * length <= MOST and not rows.has(batch=n, context=length)]
        if sizes:
            _batches(settings, rows, length, sizes)


def _batches(settings: Settings, rows: Rows, length: int, sizes: list[int]) -> None:
    """Batches of one context."""
    with settings.load(max_batch=max(sizes), max_length=length) as pair:
        for count in sizes:
            prompts = [settings.prompt(pair, length - TOKENS, 50 + i) for i in range(count)]
            found = _stet(pair, prompts, "target")
            rows.add(contender="stet target", batch=count, context=length, **found)


def length(settings: Settings) -> None:
    """Throughput by the number of drafted tokens, one request at a time."""
    rows = Rows(settings, "length")
    with settings.load(max_batch=1, max_length=512) as pair:
        problems = bundled.generate("stories", "validation", 3 * settings.repeats)
        pair.generate(settings.prompt(pair, 32, 9), "exact", max_new_tokens=8, draft_length=4)
        for number in range(settings.repeats):
            some = [problem.prompt for problem in problems[3 * number : 3 * number + 3]]
            for count in (0, *LENGTHS):
                if rows.has(length=count, repeat=number):
                    continue
                policy = "exact" if count else "target"
                began = time.perf_counter()
                tokens = drafted = accepted = 0
                for prompt in some:
                    found = pair.generate(
                        prompt, policy, draft_length=count or 1, max_new_tokens=96, **GREEDY
                    )
                    tokens += found.counters.emitted_tokens
                    drafted += found.counters.drafted_tokens
                    accepted += found.counters.accepted_tokens
                seconds = time.perf_counter() - began
                rows.add(
                    length=count,
                    repeat=number,
                    tokens_per_second=tokens / seconds,
                    accepted=accepted,
                    drafted=drafted,
                )


# Contenders


class Answering:
    """One that answers prompts, and the tokenizer by which they are made."""

    def __init__(self, pair: Any, answer: Callable[[list[list[int]]], dict[str, Any]]) -> None:
        self.pair = pair
        self._answer = answer

    def __call__(self, prompts: list[list[int]]) -> dict[str, Any]:
        return self._answer(prompts)


def _stet(
    pair: stet.Pair, prompts: list[list[int]], policy: str, answer: int = TOKENS
) -> dict[str, Any]:
    """Answer prompts together; times, and what the process takes."""
    asked: dict[str, Any] = {"max_new_tokens": answer, **GREEDY}
    first: float | None = None
    tokens = at_once = 0
    began = time.perf_counter()
    if len(prompts) == 1:
        for chunk in pair.stream(prompts[0], policy, **asked):
            first = first or time.perf_counter() - began
            tokens += len(chunk.tokens)
            at_once = at_once or tokens
    else:
        found = pair.generate(prompts, policy, **asked)
        tokens = sum(len(result.token_ids) for result in found)
    return {
        "seconds": time.perf_counter() - began,
        "tokens": tokens,
        "first_seconds": first,
        "first_tokens": at_once or None,
        "rss": psutil.Process().memory_info().rss,
        "caches": sum(runner.cache.nbytes for runner in pair.engine.runners.values()),
    }


def _ask(worker: Worker, prompts: list[list[int]], answer: int = TOKENS) -> dict[str, Any]:
    """Let a peer answer prompts together."""
    setting = {"mode": "target", "whole": True}
    asked: dict[str, Any] = {"setting": setting, "max_new_tokens": answer}
    one = len(prompts) == 1
    request = asked | ({"prompt": prompts[0]} if one else {"prompts": prompts})
    found = worker.ask(request, seconds=2 * SLOWEST)
    first = found["first_seconds"]
    if first is None and one:
        first = worker.ask(request | {"max_new_tokens": 1}, seconds=2 * SLOWEST)["seconds"]
    return {
        "seconds": found["seconds"],
        "tokens": found.get("count", len(found["tokens"])),
        "first_seconds": first,
        "first_tokens": 1,
    }


@contextmanager
def _peer(settings: Settings) -> Iterator[Worker]:
    """transformers, in a process of its own."""
    worker = Worker(_transformers(settings), settings.root / "transformers.log")
    try:
        yield worker
    finally:
        worker.close()


def _transformers(settings: Settings) -> Spec:
    target = settings.path("target") if settings.is_real else bundled.TARGET
    return transformers("transformers", _loaded(settings, str(target)))


def _loaded(settings: Settings, target: str) -> dict[str, Any]:
    dtype = "bfloat16" if settings.is_real else "float32"
    return {"target": target, "draft": None, "dtype": dtype, "threads": settings.thread_count}


def _contenders(settings: Settings, longest: int) -> dict[str, Callable[[], Any]]:
    """Who answers long prompts: what opens each."""

    @contextmanager
    def opened(policy: str) -> Iterator[Answering]:
        with settings.load(max_batch=1, max_length=longest) as pair:
            yield Answering(pair, lambda prompts: _stet(pair, prompts, policy))

    @contextmanager
    def peer(spec: Spec) -> Iterator[Answering]:
        # Prompts are made by a tokenizer alone.
        worker = Worker(spec, settings.root / f"{spec.name}.log")
        try:
            yield Answering(_Tokenizer(settings), lambda prompts: _ask(worker, prompts))
        finally:
            worker.close()

    found: dict[str, Callable[[], Any]] = {
        "stet target": lambda: opened("target"),
        "stet exact": lambda: opened("exact"),
        "transformers": lambda: peer(_transformers(settings)),
    }
    if not settings.is_real:
        return found
    if (settings.peers / "llama.ready").exists():
        load = _loaded(settings, str(settings.path("target", packed=True).resolve()))
        spec = llama("llama.cpp", load | {"context": longest}, settings.peers)
        found["llama.cpp, 4 bits"] = lambda: peer(spec)
    if (settings.peers / "vllm.ready").exists():
        load = _loaded(settings, str(settings.path("target"))) | {
            "context": longest,
            "eager": True,
            "ends": [],
            "length": None,
        }
        own = vllm("vLLM", load, settings.peers)
        own = replace(own, environment={**own.environment, "VLLM_CPU_KVCACHE_SPACE": "4"})
        found["vLLM"] = lambda: peer(own)
    return found


class _Tokenizer:
    """The target's tokenizer, in the place of a pair."""

    def __init__(self, settings: Settings) -> None:
        from transformers import AutoTokenizer

        path = settings.path("target") if settings.is_real else bundled.TARGET
        self.tokenizer = AutoTokenizer.from_pretrained(path)
