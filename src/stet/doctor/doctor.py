"""Does speculation pay for this pair, on this machine, with these prompts?

Everything is measured on ordinary requests through the public interface, as a user gets it: the
passes of both models, and the time that a round takes beside them. From these costs and from the
acceptance of drafted tokens, `forecast` computes the speed-up of every block length, and `diagnose`
says plainly whether to use the pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from stet.core.errors import OptionError
from stet.doctor.examining import Measurement
from stet.doctor.forecast import Acceptance, Forecast, RequestCosts, forecast
from stet.doctor.interval import Interval, interval_of
from stet.engine.costs import Costs

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
        interval: where its speed-up lies for another set of as many prompts of this kind, with 95 %
            probability; None where a single batch of prompts was measured.
        measured_speedup: speed-up over the target alone of the run whose block length is nearest
            to the best one; of the whole run, prefill included.
        measured_length: the block length of that run.
        same_text_share: prompts for which speculation gave the target's own text.
        disturbed: whether other work held the machine's cores meanwhile.
        verdict: whether to use the pair.
        advice: the verdict in words, with its reason.
    """

    costs: RequestCosts
    acceptance: Acceptance
    forecasts: list[Forecast]
    best: Forecast
    interval: Interval | None
    measured_speedup: float
    measured_length: int
    same_text_share: float
    disturbed: bool
    verdict: Verdict
    advice: str


def costs_of(
    plain: Measurement, speculative: Mapping[int, Measurement], passes: Costs | None = None
) -> RequestCosts:
    """Compute the costs of passes and rounds from measurements.

    Args:
        plain: the target alone.
        speculative: by block length.
        passes: costs of passes by themselves, for those that the measurements lack; in proportion.

    Raises:
        OptionError: the answers are too short.
    """
    count = plain.whole.counters.target_passes
    if count <= len(plain.whole.traces):
        raise OptionError("The answers are too short to measure anything; use other prompts.")
    target = {1: plain.whole.counters.target_seconds / count}
    draft_seconds = draft_passes = 0.0
    for length, way in sorted(speculative.items()):
        counters = way.whole.counters
        # A longer pass is never cheaper: where it looks so, that is noise, and would predict gains.
        target[length + 1] = max(
            *target.values(), 0.0, counters.target_seconds / counters.target_passes
        )
        draft_seconds += counters.draft_seconds
        draft_passes += counters.draft_passes
    if passes is not None:
        for width, seconds in passes.target.items():
            if width > max(target):
                dearer = seconds / passes.target_pass(max(target))
                target[width] = target[max(target)] * max(dearer, 1.0)
    return RequestCosts(
        target=target,
        draft=draft_seconds / draft_passes if draft_passes else 0.0,
        overhead=median(way.overhead for way in speculative.values()),
        reading=median(way.reading for way in speculative.values()),
        plain_overhead=plain.overhead,
        plain_reading=plain.reading,
    )


def diagnose(
    plain: Measurement,
    speculative: Mapping[int, Measurement],
    passes: Costs | None = None,
    *,
    disturbed: bool = False,
) -> Diagnosis:
    """Compute forecasts and the verdict from the measurements of `examine`.

    Args:
        plain: the target alone.
        speculative: by block length.
        passes: costs of passes by themselves, for those that the measurements lack.
        disturbed: whether other work held the machine's cores meanwhile.

    Raises:
        OptionError: the answers are too short.
    """

    def forecasts_of(plain: Measurement, speculative: Mapping[int, Measurement]) -> list[Forecast]:
        costs = costs_of(plain, speculative, passes)
        return forecast(costs, _acceptance(speculative), plain.answer)

    costs, acceptance = costs_of(plain, speculative, passes), _acceptance(speculative)
    forecasts = forecasts_of(plain, speculative)
    best = max(forecasts, key=lambda row: row.speedup)
    place = forecasts.index(best)

    def speedup(chosen: Sequence[int]) -> float:
        """The forecast from some of the batches, one perhaps several times."""
        some = [Measurement.of(way.parts[i] for i in chosen) for way in ways]
        ahead = forecasts_of(some[0], dict(zip(speculative, some[1:], strict=True)))
        return ahead[place].speedup

    ways = [plain, *speculative.values()]
    nearest = min(speculative, key=lambda length: abs(length - best.draft_length))
    run = speculative[nearest].whole
    same = [a.text == b.text for a, b in zip(plain.whole.traces, run.traces, strict=True)]
    verdict: Verdict = (
        "use" if best.speedup >= WORTH_IT else "marginal" if best.speedup >= 1 else "avoid"
    )
    interval = interval_of(best.speedup, len(plain.parts), speedup, disturbed=disturbed)
    return Diagnosis(
        costs=costs,
        acceptance=acceptance,
        forecasts=forecasts,
        best=best,
        interval=interval,
        measured_speedup=run.tokens_per_second / plain.whole.tokens_per_second,
        measured_length=nearest,
        same_text_share=sum(same) / len(same),
        disturbed=disturbed,
        verdict=verdict,
        advice=_advice(verdict, best, interval, costs, acceptance, plain.answer),
    )


def _acceptance(speculative: Mapping[int, Measurement]) -> Acceptance:
    """Acceptance in the longest blocks, which show most positions.

    Shorter ones begin more often in the middle of what is easy to guess.
    """
    longest = max(speculative)
    return Acceptance.of(speculative[longest].whole.traces, longest)


def _advice(
    verdict: Verdict,
    best: Forecast,
    interval: Interval | None,
    costs: RequestCosts,
    acceptance: Acceptance,
    answer: float,
) -> str:
    between = "" if interval is None else f" ({interval.low:.2f} to {interval.high:.2f})"
    gain = f"{best.speedup:.2f}x{between} with K = {best.draft_length}"
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
