"""Does speculation pay for this pair, on this machine, with these prompts?

Everything is read from ordinary requests through the public interface, so what is measured is what
a user gets: the passes of both models, and the time a round takes beside them. From these costs and
from how often drafted tokens stood, `forecast` reckons every block length, and `diagnose` says
plainly whether to use the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Literal

from stet.errors import OptionError
from stet.trace import Counters, RequestTrace

if TYPE_CHECKING:
    from stet.pair import Pair, Result

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Block lengths that are reckoned."""

MEASURED = (1, 4, 12)
"""Block lengths that are run; the cost of a pass in between is interpolated."""

WORTH_IT = 1.05
"""A smaller speed-up than this is within what a machine varies from day to day."""

Verdict = Literal["use", "marginal", "avoid"]


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one sequence's share of a pass.

    Attributes:
        target: the target's pass by the number of positions in it.
        draft: the draft's pass for one token.
        overhead: what a round takes beside both models.
        plain_overhead: the same for a round of plain target decoding.
    """

    target: Mapping[int, float]
    draft: float
    overhead: float = 0.0
    plain_overhead: float = 0.0

    def target_pass(self, positions: int) -> float:
        """The target's pass over so many positions, between and beyond the measured ones."""
        known = sorted(self.target)
        if positions in self.target or len(known) == 1:
            return self.target[positions if positions in self.target else known[0]]
        upper = next((n for n in known if n > positions), known[-1])
        lower = known[max(known.index(upper) - 1, 0)]
        slope = (self.target[upper] - self.target[lower]) / (upper - lower)
        # Noise must not make a longer pass look cheaper the further one looks.
        return self.target[lower] + max(slope, 0.0) * (positions - lower)

    @property
    def plain_token(self) -> float:
        """Seconds of a token when the target decodes alone."""
        return self.target_pass(1) + self.plain_overhead

    def round(self, draft_length: int) -> float:
        """Seconds of a round that drafts so many tokens and verifies them in one pass."""
        passes = self.target_pass(draft_length + 1) + draft_length * self.draft
        return passes + self.overhead


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often drafted tokens stood.

    Attributes:
        stood: by position in the block, the tokens that stood there.
        fell: by position, the blocks that broke there. Blocks that ended for another reason (short
            ones, and those in which the answer ended) say nothing about the positions after.
    """

    stood: tuple[int, ...]
    fell: tuple[int, ...]

    @classmethod
    def of(cls, traces: Iterable[RequestTrace], longest: int) -> Acceptance:
        """As recorded in requests whose blocks had at most `longest` drafted tokens."""
        stood, fell = [0] * longest, [0] * longest
        for trace in traces:
            for block in trace.blocks:
                room = len(trace.tokens) - block.position
                kept = min(block.kept, room)
                for position in range(kept):
                    stood[position] += 1
                if kept < min(len(block.drafted), room):
                    fell[kept] += 1
        return cls(tuple(stood), tuple(fell))

    @property
    def rate(self) -> float:
        """The probability that a drafted token stands, given that those before it did."""
        seen = sum(self.stood) + sum(self.fell)
        return sum(self.stood) / seen if seen else 0.0

    @property
    def kept_share(self) -> tuple[float, ...]:
        """By position: the probability that a block is kept up to and including it."""
        shares: list[float] = []
        share = 1.0
        for stood, fell in zip(self.stood, self.fell, strict=True):
            share *= stood / (stood + fell) if stood + fell else self.rate
            shares.append(share)
        return tuple(shares)

    def tokens_per_pass(self, draft_length: int) -> float:
        """Expected tokens of a round: the kept ones and the one that the target adds.

        Beyond the measured positions each further token stands with the rate so far. (With one rate
        a for all positions this is (1 - a^(K+1)) / (1 - a); Leviathan et al., arXiv 2211.17192.)
        """
        shares = list(self.kept_share[:draft_length])
        while len(shares) < draft_length:
            shares.append((shares[-1] if shares else 1.0) * self.rate)
        return 1 + sum(shares)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one block length promises.

    Attributes:
        draft_length: drafted tokens per block, K.
        tokens_per_pass: expected tokens per pass of the target.
        tokens_per_second: expected, for one sequence of the measured batch.
        speedup: over the target alone.
    """

    draft_length: int
    tokens_per_pass: float
    tokens_per_second: float
    speedup: float


def forecast(
    costs: Costs, acceptance: Acceptance, lengths: Sequence[int] = LENGTHS
) -> list[Forecast]:
    """Reckon block lengths from measured costs and acceptance."""
    rows: list[Forecast] = []
    for length in lengths:
        tokens = acceptance.tokens_per_pass(length)
        rate = tokens / costs.round(length)
        rows.append(Forecast(length, tokens, rate, rate * costs.plain_token))
    return rows


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, and what follows.

    Attributes:
        costs: measured seconds.
        acceptance: measured acceptance.
        forecasts: one per block length.
        best: the block length with the highest expected speed-up.
        measured_speedup: of the run whose block length is nearest to the best one, over the
            target alone; all of it, reading the prompts included.
        measured_length: the block length of that run.
        same_text_share: prompts for which speculation gave the target's own text.
        verdict: whether to use the pair.
        advice: the verdict in words, with its reason.
    """

    costs: Costs
    acceptance: Acceptance
    forecasts: list[Forecast]
    best: Forecast
    measured_speedup: float
    measured_length: int
    same_text_share: float
    verdict: Verdict
    advice: str


@dataclass(slots=True)
class Run:
    """Requests that ran under the same settings."""

    counters: Counters = field(default_factory=Counters)
    seconds: float = 0.0
    rounds: list[float] = field(default_factory=list[float])
    traces: list[RequestTrace] = field(default_factory=list[RequestTrace])

    def add(self, results: Sequence[Result], seconds: float) -> None:
        """Take in one batch of results and the time that all of it took."""
        for result in results:
            self.counters.add(result.counters)
            self.traces.append(result.trace)
        self.seconds += seconds
        passes = sum(result.counters.target_passes for result in results)
        inside = sum(
            result.counters.target_seconds + result.counters.draft_seconds for result in results
        )
        if passes:
            self.rounds.append(max(seconds - inside, 0.0) / passes)

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens per second of all requests together."""
        return self.counters.emitted_tokens / self.seconds if self.seconds else 0.0


def examine(
    pair: Pair,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    batch: int = 1,
    lengths: Sequence[int] = MEASURED,
    clock: Callable[[], float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Run, dict[int, Run]]:
    """Run the prompts with the target alone and with several block lengths.

    The settings take turns on each batch of prompts, so that a machine's drift hits all alike; the
    first batch is run once before, unmeasured, to warm up.

    Args:
        pair: the models.
        prompts: at least one.
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
        batch: prompts that are decoded together.
        lengths: block lengths to run.
        clock: seconds; for tests.
        on_progress: called with the finished and all batches.

    Returns:
        The run of the target alone, and one run per block length.

    Raises:
        OptionError: without prompts.
    """
    from time import perf_counter

    now = clock or perf_counter
    if not prompts:
        raise OptionError("There are no prompts to measure with; give a file that holds some.")
    batches = [list(prompts[i : i + batch]) for i in range(0, len(prompts), batch)]
    plain = Run()
    speculative = {length: Run() for length in lengths}

    def run(texts: list[str], policy: str, length: int, tokens: int) -> list[Result]:
        return pair.generate(
            texts,
            policy,
            draft_length=length,
            max_new_tokens=tokens,
            temperature=temperature,
        )

    runs: list[tuple[str, int, Run]] = [("target", 1, plain)]
    runs += [("exact", length, one) for length, one in speculative.items()]
    for policy, length, _ in runs:
        run(batches[0], policy, length, min(max_new_tokens, 16))
    done = 0
    for texts in batches:
        for policy, length, one in runs:
            start = now()
            results = run(texts, policy, length, max_new_tokens)
            one.add(results, now() - start)
            done += 1
            if on_progress:
                on_progress(done, len(batches) * len(runs))
    return plain, speculative


def costs_of(plain: Run, speculative: Mapping[int, Run]) -> Costs:
    """The costs of passes and rounds as counted in these runs.

    Raises:
        OptionError: where the target was never run after the prompts.
    """
    if not plain.counters.target_passes:
        raise OptionError("The answers are empty, so nothing can be measured; use other prompts.")
    target = {1: plain.counters.target_seconds / plain.counters.target_passes}
    draft_seconds = draft_passes = 0.0
    overheads: list[float] = []
    for length, run in speculative.items():
        if run.counters.target_passes:
            target[length + 1] = run.counters.target_seconds / run.counters.target_passes
        draft_seconds += run.counters.draft_seconds
        draft_passes += run.counters.draft_passes
        overheads += run.rounds
    return Costs(
        target=target,
        draft=draft_seconds / draft_passes if draft_passes else 0.0,
        overhead=median(overheads) if overheads else 0.0,
        plain_overhead=median(plain.rounds) if plain.rounds else 0.0,
    )


def diagnose(plain: Run, speculative: Mapping[int, Run]) -> Diagnosis:
    """Draw the conclusions from the runs of `examine`."""
    costs = costs_of(plain, speculative)
    # The longest blocks show most positions; how a block began does not depend on its length.
    longest = max(speculative)
    acceptance = Acceptance.of(speculative[longest].traces, longest)
    forecasts = forecast(costs, acceptance)
    best = max(forecasts, key=lambda row: row.speedup)
    nearest = min(speculative, key=lambda length: abs(length - best.draft_length))
    run = speculative[nearest]
    same = [a.text == b.text for a, b in zip(plain.traces, run.traces, strict=True)]
    verdict: Verdict = (
        "use" if best.speedup >= WORTH_IT else "marginal" if best.speedup >= 1 else "avoid"
    )
    return Diagnosis(
        costs=costs,
        acceptance=acceptance,
        forecasts=forecasts,
        best=best,
        measured_speedup=run.tokens_per_second / plain.tokens_per_second,
        measured_length=nearest,
        same_text_share=sum(same) / len(same),
        verdict=verdict,
        advice=_advice(verdict, best, costs, acceptance),
    )


def _advice(verdict: Verdict, best: Forecast, costs: Costs, acceptance: Acceptance) -> str:
    gain = f"{best.speedup:.2f}x at {best.draft_length} drafted tokens per block"
    if verdict == "use":
        return f"Use this pair: expect {gain}."
    if verdict == "marginal":
        head = f"This pair is hardly worth it: expect {gain}."
    else:
        head = f"Do not use this pair here: it would be slower than the target alone ({gain})."
    return f"{head} {_obstacle(costs, acceptance)}"


def _obstacle(costs: Costs, acceptance: Acceptance) -> str:
    """What stands in the way most: the one thing whose absence would help most."""

    def best(costs: Costs, acceptance: Acceptance) -> float:
        return max(row.speedup for row in forecast(costs, acceptance))

    flat = dict.fromkeys(costs.target, costs.target_pass(1))
    without = {
        f"The draft is kept too rarely here ({acceptance.rate:.0%} of its tokens): choose a draft "
        "trained on such text, or drafting by prompt lookup.": best(costs, Acceptance((1,), (0,))),
        "The draft is too slow beside this target (its pass takes "
        f"{costs.draft / costs.target_pass(1):.0%} of the target's): choose a smaller draft.": best(
            Costs(costs.target, 0.0, costs.overhead, costs.plain_overhead), acceptance
        ),
        "Checking several tokens at once is not cheap enough on this machine (a pass over 5 takes "
        f"{costs.target_pass(5) / costs.target_pass(1):.1f} times a pass over 1): use a smaller "
        "batch or faster hardware.": best(
            Costs(flat, costs.draft, costs.overhead, costs.plain_overhead), acceptance
        ),
        "A round costs too much beside the models, which are too small for this machine: choose a "
        "larger target, or compile.": best(Costs(costs.target, costs.draft), acceptance),
    }
    return max(without, key=lambda reason: without[reason])
