"""Does speculation pay for this pair, on this machine, with these prompts?

Everything is measured on ordinary requests through the public interface, as a user gets it: the
passes of both models, and the time that a round takes beside them. From these costs and from the
acceptance of drafted tokens, `forecast` computes the speed-up of every block length, and `diagnose`
says plainly whether to use the pair.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Literal

from stet.core.errors import OptionError, StetError
from stet.core.trace import Counters, RequestTrace
from stet.doctor.forecast import Acceptance, Forecast, RequestCosts, forecast
from stet.remote.target import RemoteTarget
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.pair import Pair
    from stet.requests.inputs import Prompt

MEASURED = (1, 4, 12)
"""Block lengths that are run; the cost of a pass in between is interpolated."""

WORTH_IT = 1.05
"""A smaller speed-up than this is within the variation of a machine from day to day."""

Verdict = Literal["use", "marginal", "avoid"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The results of the measurements, and the verdict.

    Attributes:
        costs: measured seconds.
        acceptance: measured acceptance.
        forecasts: one per block length.
        best: the block length with the highest expected speed-up.
        measured_speedup: speed-up over the target alone of the run whose block length is nearest
            to the best one; of the whole run, prefill included.
        measured_length: the block length of that run.
        same_text_share: prompts for which speculation gave the target's own text.
        verdict: whether to use the pair.
        advice: the verdict in words, with its reason.
    """

    costs: RequestCosts
    acceptance: Acceptance
    forecasts: list[Forecast]
    best: Forecast
    measured_speedup: float
    measured_length: int
    same_text_share: float
    verdict: Verdict
    advice: str


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
    """

    whole: Decoded = field(default_factory=Decoded)
    begun: Decoded = field(default_factory=Decoded)

    @property
    def reading(self) -> float:
        """Seconds of prefill of one prompt."""
        return self.begun.outside / max(len(self.begun.traces), 1)

    @property
    def overhead(self) -> float:
        """Seconds of a round beside the models' passes."""
        rounds = self.whole.counters.target_passes - self.begun.counters.target_passes
        return max(self.whole.outside - self.begun.outside, 0.0) / max(rounds, 1)


ANSWER = 96
"""Tokens of a whole answer, unless the user sets them."""

BEGUN = 2
"""Tokens of a short answer: with two, both models have read the prompt."""


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
    patience: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Measurement, dict[int, Measurement]]:
    """Run the prompts with the target alone and with several block lengths.

    The settings take turns on each batch of prompts, so that a machine's drift affects all alike;
    the first batch is run once before, unmeasured, to warm up.

    Args:
        pair: the models.
        prompts: at least one.
        max_new_tokens: longest answer; None for 96, or what fits.
        temperature: 0 is greedy.
        batch: prompts that are decoded together.
        lengths: block lengths to run.
        patience: seconds after which no further batch of prompts is begun.
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
            draft_length=length,
            max_new_tokens=tokens,
            fit=max_new_tokens is None,
            temperature=temperature,
            seed=0,
            **PINNED,
        )
        seconds = clock() - start
        for result in results:
            if result.error is not None:
                raise StetError(result.error)
        return results, seconds

    plain = Measurement()
    speculative = {length: Measurement() for length in lengths}
    ways = [("target", 1, plain), *(("exact", k, way) for k, way in speculative.items())]
    for policy, length, _ in ways:
        run(batches[0], policy, length, min(most, 16))
    done, began = 0, clock()
    for some in batches:
        if done and clock() - began > patience:
            break
        for policy, length, way in ways:
            way.begun.add(*run(some, policy, length, BEGUN))
            way.whole.add(*run(some, policy, length, most))
            done += 1
            if on_progress:
                on_progress(done, len(batches) * len(ways))
    return plain, speculative


def costs_of(plain: Measurement, speculative: Mapping[int, Measurement]) -> RequestCosts:
    """Compute the costs of passes and rounds from measurements.

    Raises:
        OptionError: the answers are too short.
    """
    passes = plain.whole.counters.target_passes
    if passes <= len(plain.whole.traces):
        raise OptionError("The answers are too short to measure anything; use other prompts.")
    target = {1: plain.whole.counters.target_seconds / passes}
    draft_seconds = draft_passes = 0.0
    for length, way in sorted(speculative.items()):
        counters = way.whole.counters
        # A longer pass is never cheaper: where it looks so, that is noise, and would predict gains.
        target[length + 1] = max(
            *target.values(), 0.0, counters.target_seconds / counters.target_passes
        )
        draft_seconds += counters.draft_seconds
        draft_passes += counters.draft_passes
    return RequestCosts(
        target=target,
        draft=draft_seconds / draft_passes if draft_passes else 0.0,
        overhead=median(way.overhead for way in speculative.values()),
        reading=median(way.reading for way in speculative.values()),
        plain_overhead=plain.overhead,
        plain_reading=plain.reading,
    )


def diagnose(plain: Measurement, speculative: Mapping[int, Measurement]) -> Diagnosis:
    """Compute forecasts and the verdict from the measurements of `examine`.

    Raises:
        OptionError: the answers are too short.
    """
    costs = costs_of(plain, speculative)
    # The longest blocks show most positions; acceptance at a block's first positions does not
    # depend on its length.
    longest = max(speculative)
    acceptance = Acceptance.of(speculative[longest].whole.traces, longest)
    answer = plain.whole.counters.emitted_tokens / len(plain.whole.traces)
    forecasts = forecast(costs, acceptance, answer)
    best = max(forecasts, key=lambda row: row.speedup)
    nearest = min(speculative, key=lambda length: abs(length - best.draft_length))
    run = speculative[nearest].whole
    same = [a.text == b.text for a, b in zip(plain.whole.traces, run.traces, strict=True)]
    verdict: Verdict = (
        "use" if best.speedup >= WORTH_IT else "marginal" if best.speedup >= 1 else "avoid"
    )
    return Diagnosis(
        costs=costs,
        acceptance=acceptance,
        forecasts=forecasts,
        best=best,
        measured_speedup=run.tokens_per_second / plain.whole.tokens_per_second,
        measured_length=nearest,
        same_text_share=sum(same) / len(same),
        verdict=verdict,
        advice=_advice(verdict, best, costs, acceptance, answer),
    )


def _advice(
    verdict: Verdict, best: Forecast, costs: RequestCosts, acceptance: Acceptance, answer: float
) -> str:
    gain = f"{best.speedup:.2f}x with K = {best.draft_length}"
    if verdict == "use":
        return f"Use this pair: expect {gain}."
    if verdict == "marginal":
        head = f"This pair is hardly worth it here: expect {gain}."
    else:
        head = f"Do not use this pair here: it would be slower than the target alone ({gain})."
    return f"{head} {_obstacle(costs, acceptance, answer)}"


def _obstacle(costs: RequestCosts, acceptance: Acceptance, answer: float) -> str:
    """The obstacle whose removal would help most, as a sentence with advice."""
    single = costs.target_pass(1)
    share = costs.draft / single
    wide = costs.target_pass(5) / single
    always = Acceptance((1,), (0,))
    flat = dict.fromkeys(costs.target, single)
    other = "a draft trained on such text" + (" or prompt lookup" if costs.draft else "")
    without = {
        f"Drafted tokens are accepted too rarely here ({acceptance.rate:.0%} of them): choose "
        f"{other}.": (costs, always),
        f"The draft is too slow beside this target (its pass takes {share:.0%} of the target's): "
        "choose a smaller draft.": (replace(costs, draft=0.0), acceptance),
        f"Checking several tokens at once is not cheap enough here (a pass over 5 takes {wide:.1f} "
        "times a pass over 1): use smaller batches or faster hardware.": (
            replace(costs, target=flat),
            acceptance,
        ),
        "A round costs too much beside the models, which are small for this machine: choose a "
        "larger target, or compile.": (
            replace(costs, overhead=costs.plain_overhead),
            acceptance,
        ),
        "The answers are short beside their prompts, which the draft must read, too: decode such "
        "requests with the target alone.": (
            replace(costs, reading=costs.plain_reading),
            acceptance,
        ),
    }
    gain = {
        reason: max(row.speedup for row in forecast(*changed, answer))
        for reason, changed in without.items()
    }
    return max(gain, key=lambda reason: gain[reason])
