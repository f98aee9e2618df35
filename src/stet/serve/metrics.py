"""Metrics for Prometheus: vLLM's names, so that its dashboards and tools work, and Stet's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stet.core.errors import StetError
from stet.core.result import Result
from stet.engine.thread import ENGINE_THREAD
from stet.pair import Pair
from stet.serve.drift import Drift
from stet.serve.logs import Log
from stet.serve.policies import Offer
from stet.serve.turns import Turns
from stet.serve.work import Work

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_LONG = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1, 2.5, 5)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_RATIO = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 12, 16)


class Metrics:
    """The metrics of one server.

    Args:
        pair: the models; what they hold is read when somebody asks.
        turns: the queue.
        model: the model's name, a label of vLLM's metrics.
        offers: the policies, for their drift.
        log: where warnings of drift go.
    """

    def __init__(
        self, pair: Pair, turns: Turns, model: str, offers: Iterable[Offer], log: Log
    ) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model, "engine": "0"}
        self.registry.register(_State(pair, turns, self._labels))
        self.drift = Drift(offers, log, self._labels)
        self.registry.register(self.drift)
        count, histogram = self._counter, self._histogram
        self._prompt_tokens = count("vllm:prompt_tokens", "Tokens of prompts.")
        self._written = count("vllm:generation_tokens", "Tokens of answers.")
        self._asked = count("vllm:prefix_cache_queries", "Prompt tokens looked for in the cache.")
        self._found = count("vllm:prefix_cache_hits", "Prompt tokens found in the cache.")
        self._success = count(
            "vllm:request_success", "Sequences that have ended.", "finished_reason"
        )
        self._drafts = count("vllm:spec_decode_num_drafts", "Verified blocks.")
        self._drafted = count("vllm:spec_decode_num_draft_tokens", "Drafted tokens in them.")
        self._accepted = count(
            "vllm:spec_decode_num_accepted_tokens", "Drafted tokens that were accepted."
        )
        self._by_position = count(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens by position in the block.",
            "position",
        )
        self._first = histogram(
            "vllm:time_to_first_token_seconds", "Time to the first token.", _SECONDS
        )
        self._between = histogram(
            "vllm:inter_token_latency_seconds", "Time between tokens of a stream.", _SHORT
        )
        self._each = histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per further token.", _SHORT
        )
        self._whole = histogram("vllm:e2e_request_latency_seconds", "Whole time.", _LONG)
        self._queued = histogram("vllm:request_queue_time_seconds", "Time in the queue.", _LONG)
        self._lengths = histogram("vllm:request_prompt_tokens", "Prompt tokens.", _TOKENS)
        self._answers = histogram("vllm:request_generation_tokens", "Answer tokens.", _TOKENS)
        self._requests = count("stet:sequences", "Sequences by policy and end.", "policy", "end")
        self._origins = count("stet:tokens", "Answer tokens.", "policy", "origin", "reason")
        self._passes = count("stet:passes", "Passes after the prompt.", "policy", "model")
        self._model_seconds = count("stet:model_seconds", "Time in a model.", "policy", "model")
        self._steps = count("stet:steps", "Steps of reasoning.", "policy", "decision")
        self._per_pass = histogram(
            "stet:tokens_per_pass", "Answer tokens per target pass.", _RATIO, "policy"
        )
        self._rate = histogram(
            "stet:acceptance_rate",
            "Accepted share of a sequence's drafted tokens.",
            tuple(n / 10 for n in range(1, 11)),
            "policy",
        )
        self._http = count("stet:http_requests", "Requests by path and status.", "path", "status")
        self._refused = count("stet:refused", "Requests that were refused.", "code")

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def answered(self, path: str, status: int) -> None:
        """Count a response.

        Args:
            path: the route, never what a client made up.
            status: its HTTP status.
        """
        self._http.labels(**self._labels, path=path, status=str(status)).inc()

    def refused(self, code: str) -> None:
        """Count a request that was refused because of what the server can take."""
        self._refused.labels(**self._labels, code=code).inc()

    def piece(self, tokens: int, seconds: float) -> None:
        """Count a piece of a stream: its tokens came together, so each took its share.

        Args:
            tokens: how many tokens it has.
            seconds: since the piece before it.
        """
        for _ in range(tokens):
            self._between.labels(**self._labels).observe(seconds / tokens)

    def failed(self, work: Work, error: Exception) -> None:
        """Count a sequence that failed."""
        if isinstance(error, StetError) and isinstance(error.result, Result):
            self._count_work(work, error.result)
        self._requests.labels(**self._labels, policy=work.offer.name, end="error").inc()

    def cancelled(self, work: Work, tokens: int) -> None:
        """Count a sequence whose client has gone.

        Args:
            work: its request.
            tokens: those that the client was sent.
        """
        self._written.labels(**self._labels).inc(tokens)
        self._success.labels(**self._labels, finished_reason="abort").inc()
        self._requests.labels(**self._labels, policy=work.offer.name, end="cancelled").inc()

    def was_read(self, work: Work, tokens: int) -> None:
        """Count a prompt that was only read."""
        self._prompt_tokens.labels(**self._labels).inc(tokens)
        self._success.labels(**self._labels, finished_reason="length").inc()
        self._requests.labels(**self._labels, policy=work.offer.name, end="read").inc()

    def ended(self, work: Work, result: Result) -> None:
        """Count a sequence that has ended."""
        labels, policy = self._labels, work.offer.name
        self._count_work(work, result)
        self.drift.ended(work.offer, work.policy, result)
        end = result.finish_reason
        self._success.labels(**labels, finished_reason=end).inc()
        self._requests.labels(**labels, policy=policy, end=end).inc()
        written = len(result.token_ids)
        self._whole.labels(**labels).observe(result.queued_seconds + result.seconds)
        self._queued.labels(**labels).observe(result.queued_seconds)
        self._lengths.labels(**labels).observe(result.prompt_tokens)
        self._answers.labels(**labels).observe(written)
        if (first := result.first_token_seconds) is not None:
            self._first.labels(**labels).observe(result.queued_seconds + first)
            if written > 1:
                each = (result.seconds - first) / (written - 1)
                self._each.labels(**labels).observe(max(each, 0.0))
        counters = result.counters
        if counters.tokens_per_pass is not None:
            self._per_pass.labels(**labels, policy=policy).observe(counters.tokens_per_pass)
        if counters.acceptance_rate is not None:
            self._rate.labels(**labels, policy=policy).observe(counters.acceptance_rate)

    def _count_work(self, work: Work, result: Result) -> None:
        labels, policy, counters = self._labels, work.offer.name, result.counters
        self._prompt_tokens.labels(**labels).inc(result.prompt_tokens)
        self._asked.labels(**labels).inc(result.prompt_tokens)
        self._found.labels(**labels).inc(result.reused_tokens)
        self._written.labels(**labels).inc(len(result.token_ids))
        self._drafts.labels(**labels).inc(counters.drafts)
        self._drafted.labels(**labels).inc(counters.drafted_tokens)
        self._accepted.labels(**labels).inc(counters.accepted_tokens)
        for position, tokens in enumerate(counters.accepted_per_position):
            self._by_position.labels(**labels, position=str(position)).inc(tokens)
        for model, passes, seconds in (
            ("target", counters.target_passes, counters.target_seconds),
            ("draft", counters.draft_passes, counters.draft_seconds),
        ):
            self._passes.labels(**labels, policy=policy, model=model).inc(passes)
            self._model_seconds.labels(**labels, policy=policy, model=model).inc(seconds)
        rewritten = counters.steps - counters.accepted_steps
        for decision, steps in (("accepted", counters.accepted_steps), ("rewritten", rewritten)):
            if steps:
                self._steps.labels(**labels, policy=policy, decision=decision).inc(steps)
        for (origin, reason), tokens in result.provenance.items():
            self._origins.labels(**labels, policy=policy, origin=origin, reason=reason).inc(tokens)

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        found = Counter(name, text, [*self._labels, *more], registry=self.registry)
        if not more:
            found.labels(**self._labels)  # shown as 0 before anything was counted
        return found

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *more: str) -> Histogram:
        labels = [*self._labels, *more]
        found = Histogram(name, text, labels, buckets=(*buckets,), registry=self.registry)
        if not more:
            found.labels(**self._labels)
        return found

    @property
    def labels(self) -> dict[str, str]:
        """The labels that all metrics have."""
        return dict(self._labels)


class _State(Collector):
    """What the engine and its caches hold at the moment."""

    def __init__(self, pair: Pair, turns: Turns, labels: dict[str, str]) -> None:
        self._pair = pair
        self._turns = turns
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        """The gauges, read without stopping the engine."""
        engine, turns = self._pair.engine, self._turns
        runners = engine.runners
        yield self._gauge("vllm:num_requests_running", "Sequences at work.", engine.running)
        waiting = engine.waiting + turns.waiting
        yield self._gauge("vllm:num_requests_waiting", "Sequences that wait.", waiting)
        used = [1 - runner.pages_free / runner.pages for runner in runners.values()]
        yield self._gauge(
            "vllm:kv_cache_usage_perc", "Share of the fuller cache in use.", max(used, default=0.0)
        )
        preempted = CounterMetricFamily(
            "vllm:num_preemptions", "Times a sequence made room for others.", labels=[*self._labels]
        )
        preempted.add_metric([*self._labels.values()], engine.preempted)
        yield preempted
        seconds = CounterMetricFamily(
            "stet:cpu_seconds",
            "Seconds of processors: of the engine, and of all around it (HTTP, JSON, tokenizers).",
            labels=[*self._labels, "part"],
        )
        for part, spent in cpu_seconds().items():
            seconds.add_metric([*self._labels.values(), part], spent)
        yield seconds
        memory = psutil.Process().memory_info().rss
        yield self._gauge("stet:resident_bytes", "Memory of the process.", memory)
        for name, text, value in _PAGES:
            family = GaugeMetricFamily(name, text, labels=[*self._labels, "model"])
            for role, runner in runners.items():
                family.add_metric([*self._labels.values(), role], value(runner))
            yield family

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=[*self._labels])
        family.add_metric([*self._labels.values()], value)
        return family


def cpu_seconds() -> dict[str, float]:
    """Seconds of processors that this process has used, of the engine and of all around it.

    Python's own threads but the engine's are around it; the engine's, and those that torch has for
    its passes, are not.
    """
    around = {thread.native_id for thread in threading.enumerate() if thread.name != ENGINE_THREAD}
    found = {"engine": 0.0, "server": 0.0}
    for thread in psutil.Process().threads():
        part = "server" if thread.id in around else "engine"
        found[part] += thread.user_time + thread.system_time
    return found


_PAGES: tuple[tuple[str, str, Callable[[Any], float]], ...] = (
    ("stet:cache_pages", "Pages that a cache may have.", lambda runner: runner.pages),
    ("stet:cache_pages_free", "Pages that nobody holds.", lambda runner: runner.pages_free),
    ("stet:cache_rows", "Rows in use.", lambda runner: runner.rows_in_use),
)
