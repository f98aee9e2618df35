"""The recommendation of a comparison, in one paragraph that claims no more than the numbers show.

The rules, which `docs/statistics.md` gives in full:

- A policy is *faster* where the whole interval of its speed-up is above 1.
- A lossless policy is compared by speed only.
- A lossy one is recommended only where its comparison was declared beforehand, it is faster, and
  it is either significantly more accurate, or not significantly less accurate, within the margin
  and clearly faster than the fastest lossless policy.
- A policy that does not qualify is named with its trade-off where it has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stet.evaluation.summary import Estimate, PairedDifference, PolicySummary, Summary

MARGIN = 0.02
"""Loss of accuracy up to which a policy counts as no worse: two points."""

ALPHA = 0.05


def recommend(summary: Summary, margin: float = MARGIN) -> str:
    """Write the recommendation: which policy to use, its evidence and cost, and what is unknown.

    Args:
        summary: the report; its own recommendation is not read.
        margin: the loss of accuracy, as a share, that is still acceptable for speed.
    """
    view = View.of(summary, margin)
    sentences = [_incomplete(summary)]
    if not view.others:
        sentences.append(f"Nothing was compared with {summary.reference}.")
    elif not any(view.speed(p).low is not None for p in view.others):
        sentences.append(
            "Nothing can be recommended: there are too few questions for an interval of any "
            "speed-up."
        )
    else:
        chosen = view.chosen()
        sentences += _use(view, chosen) if chosen else _nothing_faster(view)
        sentences += _more_accurate(view, chosen)
        sentences += _faster_still(view, chosen)
        sentences += _exploratory(view, chosen)
    sentences += _broken(view)
    if not view.graded:
        sentences.append(
            "Without a grader accuracy is not known, so only lossless policies are compared."
        )
    return " ".join(sentence for sentence in sentences if sentence)


@dataclass(frozen=True, slots=True)
class View:
    """A summary with the measure of speed that counts, and the policies that qualify."""

    summary: Summary
    margin: float
    others: list[PolicySummary]
    graded: bool
    by_throughput: bool

    @classmethod
    def of(cls, summary: Summary, margin: float) -> View:
        """Choose the measure of speed: throughput for batches if it has intervals, else latency."""
        others = [p for p in summary.policies if not p.is_reference]
        return cls(
            summary,
            margin,
            others,
            graded=any(p.accuracy is not None for p in summary.policies),
            by_throughput=summary.batch > 1
            and all(p.speed.throughput_speedup.low is not None for p in others),
        )

    def speed(self, policy: PolicySummary) -> Estimate:
        """The speed-up by the chosen measure."""
        speed = policy.speed
        return speed.throughput_speedup if self.by_throughput else speed.latency_speedup

    def is_faster(self, policy: PolicySummary) -> bool:
        """Whether the whole interval of the speed-up is above 1."""
        low = self.speed(policy).low
        return low is not None and low > 1

    def fastest(self, policies: Sequence[PolicySummary]) -> PolicySummary | None:
        """The policy with the largest speed-up; the first of equals."""
        known = [p for p in policies if not math.isnan(self.speed(p).value)]
        return max(known, key=lambda p: self.speed(p).value, default=None)

    @property
    def lossless(self) -> list[PolicySummary]:
        """The lossless policies that were not significantly less accurate."""
        return [p for p in self.others if p.lossless and not is_worse(p)]

    @property
    def best_lossless(self) -> PolicySummary | None:
        """The fastest lossless policy that is faster than the reference."""
        return self.fastest([p for p in self.lossless if self.is_faster(p)])

    def is_no_worse(self, policy: PolicySummary) -> bool:
        """Whether its loss of accuracy was shown to be within the margin."""
        d = policy.difference
        return (
            d is not None
            and d.gain.low is not None
            and d.gain.low > -self.margin
            and not is_worse(policy)
        )

    def is_clearly_faster(self, policy: PolicySummary, than: PolicySummary | None) -> bool:
        """Whether its interval is above the other's; the reference counts as exactly 1."""
        low = self.speed(policy).low
        high = 1.0 if than is None else self.speed(than).high
        return low is not None and high is not None and low > high

    def chosen(self) -> PolicySummary | None:
        """The policy to use; None where none qualifies."""
        best = self.best_lossless
        lossy = [p for p in self.others if not p.lossless and p.is_primary and self.is_faster(p)]
        better = [p for p in lossy if is_better(p)]
        if better:
            return max(better, key=lambda p: p.difference.gain.value if p.difference else 0.0)
        as_good = [p for p in lossy if self.is_no_worse(p) and self.is_clearly_faster(p, best)]
        return self.fastest(as_good) or best


def is_better(policy: PolicySummary) -> bool:
    """Whether a policy is significantly more accurate, in a comparison declared beforehand."""
    return _is_significant(policy.difference) and _gain(policy) > 0


def is_worse(policy: PolicySummary) -> bool:
    """Whether a policy is significantly less accurate, in a comparison declared beforehand."""
    return _is_significant(policy.difference) and _gain(policy) < 0


def _is_significant(difference: PairedDifference | None) -> bool:
    p = difference.p_adjusted if difference else None
    return p is not None and p < ALPHA


def _gain(policy: PolicySummary) -> float:
    return policy.difference.gain.value if policy.difference else 0.0


# Sentences


def _incomplete(summary: Summary) -> str:
    if summary.complete:
        return ""
    return "This run is incomplete, and what follows may change when it is finished."


def _use(view: View, chosen: PolicySummary) -> list[str]:
    return [_lead(view, chosen), *(_lossless if chosen.lossless else _lossy)(view, chosen)]


def _lead(view: View, chosen: PolicySummary) -> str:
    speed, reference = view.speed(chosen), view.summary.reference
    interval = f"(95 % interval {_ratios(speed)})"
    if view.by_throughput:
        return (
            f"Use {chosen.label}: with {view.summary.batch} questions at a time its throughput was "
            f"{speed.value:.2f} times that of {reference} {interval}."
        )
    return f"Use {chosen.label}: it answered {speed.value:.2f} times as fast as {reference} " + (
        f"{interval}."
    )


def _lossless(view: View, chosen: PolicySummary) -> list[str]:
    rivals = sum(view.is_faster(p) for p in view.lossless)
    among = f", the fastest of {rivals} such policies that were faster" if rivals > 1 else ""
    answers = chosen.answers
    differ = answers - round(chosen.same_text.value * answers)
    if differ:
        texts = (
            f"{differ} of {answers} texts {'was' if differ == 1 else 'were'} not identical to the "
            "reference's, which is expected when sampling; in greedy decoding rounding in half "
            "precision causes it, and `stet doctor` says whether rounding explains all of it."
        )
    else:
        texts = f"All {answers} texts were identical to the reference's."
    return [f"It is lossless{among}.", texts]


def _lossy(view: View, chosen: PolicySummary) -> list[str]:
    difference, best = chosen.difference, view.best_lossless
    if difference is None:  # pragma: no cover - a lossy policy is chosen for its difference
        return []
    if is_better(chosen):
        sentences = [f"It was also more accurate, by {_points(view, difference)}."]
        if best and view.speed(best).value > view.speed(chosen).value:
            sentences.append(
                f"If speed matters more, {best.label} is lossless and was {_fast(view, best)}."
            )
        return sentences
    sentences = [_no_difference(view, chosen, difference)]
    sentences.append(
        f"It counts as no less accurate because the interval of the difference "
        f"({_interval(difference.gain)} points) stays above the accepted loss of "
        f"{_number(100 * view.margin)} points."
    )
    if best:
        sentences.append(f"The fastest lossless policy, {best.label}, was {_fast(view, best)}.")
    return sentences


def _nothing_faster(view: View) -> list[str]:
    reference = view.summary.reference
    if any(view.is_faster(p) for p in view.others):
        what = "nothing that was shown to be faster than {} can be recommended"
        best, which = view.fastest(view.lossless), "The fastest lossless policy"
    else:
        what = "nothing was shown to be faster than {}"
        best, which = view.fastest(view.others), "The fastest policy"
    sentences = [f"Do not use speculation here: {what.format(reference)}."]
    if best:
        sentences.append(f"{which}, {best.label}, was {_fast(view, best)}.")
    return sentences


def _more_accurate(view: View, chosen: PolicySummary | None) -> list[str]:
    """The most accurate policy that is significantly more accurate, at a lower speed."""
    dearer = [
        p
        for p in view.others
        if is_better(p)
        and not p.lossless
        and p is not chosen
        and (chosen is None or chosen.lossless or _gain(p) > _gain(chosen))
    ]
    best = max(dearer, key=_gain, default=None)
    if best is None or best.difference is None:
        return []
    return [
        f"If right answers matter more than speed, {best.label} was more accurate by "
        f"{_points(view, best.difference)}, at {view.speed(best).value:.2f} times the speed "
        f"({_ratios(view.speed(best))})."
    ]


def _faster_still(view: View, chosen: PolicySummary | None) -> list[str]:
    """The fastest lossy policy that was declared beforehand and did not qualify."""
    floor = 1.0 if chosen is None else view.speed(chosen).value
    fastest = view.fastest(
        [
            p
            for p in view.others
            if not (p.lossless or p is chosen or is_better(p))
            and p.is_primary
            and view.is_faster(p)
            and view.speed(p).value > floor
        ]
    )
    if fastest is None or fastest.difference is None:
        return []
    difference = fastest.difference
    start = f"{fastest.label} was {_fast(view, fastest)}"
    if is_worse(fastest):
        return [f"{start}, but less accurate by {_points(view, difference, -1)}."]
    if not view.is_no_worse(fastest):
        return [
            f"{start}, but it was not shown to stay within {_number(100 * view.margin)} points of "
            f"the reference's accuracy (difference {_signed(difference.gain)}).",
            _no_difference(view, fastest, difference),
        ]
    if chosen and chosen.lossless:
        return [f"{start}, which is not clearly faster than a lossless policy."]
    return [f"{start}, and no less accurate than the reference ({_signed(difference.gain)})."]


def _exploratory(view: View, chosen: PolicySummary | None) -> list[str]:
    """The best lossy policies among those that were not declared beforehand."""
    others = [p for p in view.others if not (p.lossless or p.is_primary)]
    better = [p for p in others if p.difference and (p.difference.gain.low or 0.0) > 0]
    quicker = [p for p in others if view.is_no_worse(p) and view.is_clearly_faster(p, chosen)]
    best, fastest = max(better, key=_gain, default=None), view.fastest(quicker)
    found = [p for p in (best, None if fastest is best else fastest) if p is not None]
    return [
        f"Exploratory, as it was not declared beforehand: {p.label} was {_fast(view, p)}, with a "
        f"difference in accuracy of {_signed(p.difference.gain)}; confirm it in a run that "
        "declares it."
        for p in found
        if p.difference
    ]


def _broken(view: View) -> list[str]:
    return [
        f"{p.label} is declared lossless, but was less accurate by "
        f"{_points(view, p.difference, -1)}: do not use it before that is "
        "understood."
        for p in view.others
        if p.lossless and is_worse(p) and p.difference
    ]


def _no_difference(view: View, policy: PolicySummary, difference: PairedDifference) -> str:
    if not (sum(difference.gained) or sum(difference.lost)):
        return "Not one grade differed from the reference's."
    shown = f"No difference in accuracy could be shown ({_p(view, difference)})"
    if difference.detectable is None:
        return f"{shown}."
    questions = round(policy.answers / max(len(view.summary.seeds), 1))
    return (
        f"{shown}: with {questions} questions a difference below "
        f"{_number(100 * difference.detectable)} points would probably go unnoticed."
    )


# Words for numbers


def _number(value: float) -> str:
    """A number with one decimal, or none where it is whole."""
    return f"{value:z.1f}".removesuffix(".0")


def _ratios(speed: Estimate) -> str:
    if speed.low is None or speed.high is None:
        return "unknown"
    return f"{speed.low:.2f} to {speed.high:.2f}"


def _fast(view: View, policy: PolicySummary) -> str:
    """A speed-up in words: "1.84 times as fast (1.70 to 1.98)"."""
    speed = view.speed(policy)
    return f"{speed.value:.2f} times as fast ({_ratios(speed)})"


def _points(view: View, difference: PairedDifference, sign: int = 1) -> str:
    """A difference without sign: "3.1 points (95 % interval 1.2 to 5.0, McNemar's p = 0.004)"."""
    gain = difference.gain
    value = f"{100 * sign * gain.value:z.1f} points"
    if gain.low is None or gain.high is None:
        return f"{value} ({_p(view, difference)})"
    low, high = sorted((100 * sign * gain.low, 100 * sign * gain.high))
    return f"{value} (95 % interval {low:z.1f} to {high:z.1f}, {_p(view, difference)})"


def _signed(gain: Estimate) -> str:
    """A difference with its sign: "-0.7 points, interval -3.1 to +1.7"."""
    interval = _interval(gain)
    return f"{100 * gain.value:+z.1f} points" + (f", interval {interval}" if interval else "")


def _interval(gain: Estimate) -> str:
    if gain.low is None or gain.high is None:
        return ""
    return f"{100 * gain.low:+z.1f} to {100 * gain.high:+z.1f}"


def _p(view: View, difference: PairedDifference) -> str:
    """The p-value with the name of its test."""
    p = difference.p_adjusted
    if p is None:
        return "not tested"
    corrected = sum(q.is_primary for q in view.others) > 1
    name = "Holm-corrected p" if corrected else "McNemar's p"
    return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.{3 if p < 0.1 else 2}f}"
