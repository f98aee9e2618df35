"""Ordinary requests that are timed: with the target alone, and with blocks of several lengths."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stet.core.errors import OptionError, StetError
from stet.core.trace import Counters, RequestTrace
from stet.remote.target import RemoteTarget
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.pair import Pair
    from stet.requests.inputs import Prompt

MEASURED = (1, 4, 12)
"""Block lengths that are run; the cost of a pass in between is interpolated."""

MIDDLE = (4,)
"""Block lengths that are run where there is time for one alone."""

ANSWER = 96
"""Tokens of a whole answer, unless the user sets them."""

SHORTEST = 16
"""Tokens of a whole answer, at least, however little time there is."""

FEWEST = 4
"""Batches of prompts, at least, before their answers are shortened further."""

BEGUN = 2
"""Tokens of a short answer: with two, both models have read the prompt."""

WARM_UP = 8
_LEAST_BATCHES = 2
"""Batches that are measured however long they take: one alone does not tell how prompts vary."""


@dataclass(slots=True)
class Decoded:
    """Requests that ran under the same settings.

    Attributes:
        counters: their counters, added up.
        seconds: wall clock of all of them.
        traces: one per request.
    """

    counters: Counters = field(default_factory=Counters)
    seconds: float = 0.0
    traces: list[RequestTrace] = field(default_factory=list[RequestTrace])

    def add(self, results: Sequence[Result], seconds: float) -> None:
        """Add one batch of results and the time that the batch took."""
        for result in results:
            self.counters.add(result.counters)
            self.traces.append(result.trace)
        self.seconds += seconds

    def join(self, other: Decoded) -> None:
        """Add what another batch came to."""
        self.counters.add(other.counters)
        self.traces += other.traces
        self.seconds += other.seconds

    @property
    def outside(self) -> float:
        """Seconds spent outside both models' passes over the answers."""
        inside = self.counters.target_seconds + self.counters.draft_seconds
        return max(self.seconds - inside, 0.0)

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens per second of all requests together."""
        return self.counters.emitted_tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Measurement:
    """One way of decoding, run on all prompts: whole answers, and answers of two tokens.

    The time that the short answers took beside the passes was spent on prefill.

    Attributes:
        whole: the whole answers.
        begun: the short answers.
        answers: tokens of each whole answer; where it was cut to save time, the most it may have.
        parts: the same, batch by batch.
    """

    whole: Decoded = field(default_factory=Decoded)
    begun: Decoded = field(default_factory=Decoded)
    answers: list[int] = field(default_factory=list[int])
    parts: list[Measurement] = field(default_factory=list["Measurement"])

    @classmethod
    def of(cls, parts: Iterable[Measurement]) -> Measurement:
        """Put batches together; one may be among them several times."""
        found = cls()
        for part in parts:
            found.parts.append(part)
            found.whole.join(part.whole)
            found.begun.join(part.begun)
            found.answers += part.answers
        return found

    @property
    def answer(self) -> float:
        """Tokens of an answer, in the mean."""
        return sum(self.answers) / len(self.answers)

    @property
    def reading(self) -> float:
        """Seconds of prefill of one prompt."""
        return self.begun.outside / max(len(self.begun.traces), 1)

    @property
    def overhead(self) -> float:
        """Seconds of a round beside the models' passes."""
        rounds = self.whole.counters.target_passes - self.begun.counters.target_passes
        return max(self.whole.outside - self.begun.outside, 0.0) / max(rounds, 1)


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is measured.

    Attributes:
        lengths: block lengths.
        batches: batches of prompts, at most.
        tokens: tokens of a whole answer.
    """

    lengths: tuple[int, ...]
    batches: int
    tokens: int


def fit_scope(scope: Scope, rates: dict[int, float], seconds: float) -> Scope:
    """Reduce what is measured to what the time is enough for.

    First one block length takes the place of several, since other passes can be timed by
    themselves; then answers become shorter, then there are fewer batches of prompts: how often
    tokens are accepted differs most from prompt to prompt.

    Args:
        scope: what would be measured with all the time in the world.
        rates: seconds of a token, with its share of prefill, by block length; 0: the target alone.
        seconds: the time there is.
    """
    one = tuple(n for n in scope.lengths if n in MIDDLE) or scope.lengths[:1]
    few = min(scope.batches, FEWEST)
    tokens = 0
    for lengths, batches, least in (
        (scope.lengths, scope.batches, 3 * SHORTEST),
        (one, scope.batches, SHORTEST),
        (one, few, SHORTEST),
    ):
        each = batches * (rates[0] + sum(rates[length] for length in lengths))
        tokens = int(seconds / each) - BEGUN - 2
        if tokens >= min(scope.tokens, least):
            return Scope(lengths, batches, min(tokens, scope.tokens))
    return Scope(one, few, min(SHORTEST, scope.tokens))


def check(pair: Pair) -> None:
    """Refuse a pair that cannot draft blocks of tokens, since these are what is measured.

    Raises:
        OptionError: the target is remote or the tokenizers differ; it says what to do instead.
    """
    if isinstance(pair.target, RemoteTarget):
        raise OptionError(
            "`stet doctor` measures passes of the target, and this one is remote; name a local one."
        )
    if pair.difference is not None:
        raise OptionError(
            "`stet doctor` measures blocks of tokens, which these models do not share "
            f"({pair.difference}); measure a step policy with `stet compare -p specguard "
            "--no-baselines`."
        )


def examine(
    pair: Pair,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    batch: int = 1,
    lengths: Sequence[int] = MEASURED,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Measurement, dict[int, Measurement]]:
    """Run the prompts with the target alone and with several block lengths.

    The settings take turns on each batch of prompts, so that a machine's drift affects all alike;
    the first batch is run once before, to warm up and to see how much there is time for.

    Args:
        pair: the models.
        prompts: at least one.
        max_new_tokens: longest answer; None for 96, or what fits.
        temperature: 0 is greedy.
        batch: prompts that are decoded together.
        lengths: block lengths to run.
        seconds: about the time that all of this may take; see `fit_scope`.
        clock: seconds; for tests.
        on_progress: called with the number of finished runs and of all runs.

    Returns:
        The measurement of the target alone, and one per block length.

    Raises:
        OptionError: without prompts.
        StetError: where a request failed.
    """
    if not prompts:
        raise OptionError("There are no prompts to measure with; give a file that holds some.")
    most = ANSWER if max_new_tokens is None else max_new_tokens
    batches = [list(prompts[i : i + batch]) for i in range(0, len(prompts), batch)]

    def run(
        some: list[Prompt], policy: str, length: int, tokens: int
    ) -> tuple[list[Result], float]:
        start = clock()
        results = pair.generate(
            some,
            policy,
            draft_length=length or 1,
            max_new_tokens=tokens,
            fit=max_new_tokens is None,
            temperature=temperature,
            seed=0,
            **PINNED,
        )
        took = clock() - start
        for result in results:
            if result.error is not None:
                raise StetError(result.error)
        return results, took

    began = clock()
    rates = {
        length: run(batches[0], _policy(length), length, min(most, WARM_UP))[1] / min(most, WARM_UP)
        for length in (0, *lengths)
    }
    scope = Scope(tuple(lengths), len(batches), most)
    if math.isfinite(seconds):
        scope = fit_scope(scope, rates, seconds - (clock() - began))
    parts: dict[int, list[Measurement]] = {length: [] for length in (0, *scope.lengths)}
    done = 0
    for some in batches[: scope.batches]:
        if len(parts[0]) >= _LEAST_BATCHES and clock() - began > seconds:
            break
        for length, found in parts.items():
            part = Measurement()
            part.begun.add(*run(some, _policy(length), length, BEGUN))
            results, took = run(some, _policy(length), length, scope.tokens)
            part.whole.add(results, took)
            written = [result.counters.emitted_tokens for result in results]
            part.answers += [most if n >= scope.tokens else n for n in written]
            found.append(part)
            done += 1
            if on_progress:
                on_progress(done, scope.batches * len(parts))
    ways = {length: Measurement.of(found) for length, found in parts.items()}
    return ways.pop(0), ways


def _policy(length: int) -> str:
    """The target alone for blocks of no token."""
    return "exact" if length else "target"
