"""Memory that is shared: candidates, samples, second turns, and caches that are too small."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from _scaling_settings import GREEDY, Rows, Settings

import stet
from stet.core.row import PAGE
from stet.engine.engine import Engine

COUNT = 16
"""Candidates of a step, and samples of a prompt."""

PROMPT = 640
TOKENS = 48


@contextmanager
def _watching(pair: stet.Pair) -> Iterator[dict[str, int]]:
    """The most pages that each cache has held after a round, by role."""
    most = dict.fromkeys(pair.engine.runners, 0)
    step = Engine.step

    def watched(self: Engine) -> None:
        step(self)
        for role, runner in self.runners.items():
            most[role] = max(most[role], runner.pages - runner.pages_free)

    Engine.step = watched  # type: ignore[method-assign]
    try:
        yield most
    finally:
        Engine.step = step  # type: ignore[method-assign]


def memory(settings: Settings) -> None:
    """Pages held for candidates of a step, and for samples of a prompt, over those of one."""
    rows = Rows(settings, "memory")
    with settings.load(max_batch=COUNT, max_rows=COUNT + 2, max_length=1024) as pair:
        prompt = settings.prompt(pair, PROMPT, 0)

        def held(prompts: list[list[int]], policy: Any, **more: Any) -> tuple[dict[str, int], Any]:
            with _watching(pair) as most:
                found = pair.generate(prompts, policy, **(GREEDY | more))
            return most, found

        one = -(-len(prompt) // PAGE)
        if not rows.has(what="samples"):
            sampled = {"temperature": 0.8, "max_new_tokens": TOKENS}
            many, found = held([prompt] * COUNT, "target", **sampled)
            own = sum(len(r.token_ids) for r in found)
            ratio = many["target"] * PAGE / (one * PAGE + own)
            rows.add(what="samples", ratio=ratio, pages=many["target"], one=one, own=own)
        if not rows.has(what="candidates"):
            policy = stet.policies.SpecGuard(
                candidates=COUNT, temperature=0.8, step_tokens=TOKENS, delimiter="\0", whole=True
            )
            many, _ = held([prompt], policy, max_new_tokens=TOKENS)
            own = COUNT * TOKENS
            ratio = many["draft"] * PAGE / (one * PAGE + own)
            rows.add(what="candidates", ratio=ratio, pages=many["draft"], one=one, own=own)


def reuse(settings: Settings) -> None:
    """A chat's second turn, and a second sample of a prompt: tokens that are read, and seconds."""
    rows = Rows(settings, "reuse")
    for caching in (False, True):
        if rows.has(caching=caching):
            continue
        with settings.load(max_batch=2, max_length=1024, prefix_caching=caching) as pair:
            pair.generate(settings.prompt(pair, 64, 99), "target", max_new_tokens=4)
            prompt = settings.prompt(pair, PROMPT, 0)
            asked: dict[str, Any] = {"max_new_tokens": 16, **GREEDY}

            def timed(
                prompt: list[int], pair: stet.Pair = pair, asked: dict[str, Any] = asked
            ) -> tuple[float, list[int]]:
                began = time.perf_counter()
                first = None
                tokens: list[int] = []
                for chunk in pair.stream(prompt, "target", **asked):
                    first = first or time.perf_counter() - began
                    tokens += [token.id for token in chunk.tokens]
                assert first is not None
                return first, tokens

            first, answer = timed(prompt)
            again, same = timed(prompt)
            turn = [*prompt, *answer, *settings.prompt(pair, 40, 7)]
            second, following = timed(turn)
            rows.add(
                caching=caching,
                first_seconds=first,
                again_seconds=again,
                second_turn_seconds=second,
                equal=same == answer,
                answers=[answer, following],
            )


def preempted(settings: Settings) -> None:
    """Caches with room for a few of the requests: their texts, and who had to wait."""
    rows = Rows(settings, "preempted")
    texts: dict[str, list[list[int]]] = {}
    for name in ("all", "few"):
        if rows.has(name=name):
            continue
        sizes: dict[str, Any] = {"max_batch": 8, "max_length": 512}
        with settings.load(**sizes) as pair:
            per_page = sum(m.cache for m in pair.memory.models) // pair.memory.pages
        if name == "few":
            sizes["cache_memory"] = 3 * (512 // PAGE) * per_page
        with settings.load(**sizes) as pair:
            prompts = [settings.prompt(pair, 128 + 8 * i, i) for i in range(8)]
            began = time.perf_counter()
            found = pair.generate(prompts, "exact", max_new_tokens=128, **GREEDY)
            seconds = time.perf_counter() - began
            texts[name] = [result.token_ids for result in found]
            rows.add(
                name=name,
                seconds=seconds,
                tokens=pair.memory.tokens,
                preempted=pair.engine.preempted,
                texts=texts[name],
            )
