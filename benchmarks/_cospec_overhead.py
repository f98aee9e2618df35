"""What the arbiter costs: every round of an answer with it and without, in turns.

With `threshold=1` and the bonus token not deferred, `cospec` decides as `exact` does, and differs
from it only in computing features, running its network, and keeping what that needs. So a round
can be drafted and verified again and again, by each in turn, before the answer goes on: what is
compared lies milliseconds apart. It is the processor's time, on which other work weighs less.
`everywhere` asks the arbiter at all positions at once, as on an accelerator: what it takes beyond
`cospec` is what looking only at mismatches that are reached saves on a CPU.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from _timed_pairs import Setting, bundled, wide

from stet.arbiter import DEFAULT, Arbiter, Network
from stet.core.blocks import Blocks
from stet.core.draft_length import FixedLength
from stet.core.limits import Limits
from stet.core.operations import Draft, Program, Score
from stet.core.sequence import TokenSequence
from stet.core.verification import Verification
from stet.policies import CoSpec, Exact, TokenPolicy
from stet.policies.arbiter_inference import Above, arbitrate

HIDDEN = (32,)
LENGTH = 5
PAIRS: dict[str, tuple[Callable[[bool], Setting], int, int]] = {
    "bundled": (bundled, 10, 12),
    "wide": (wide, 2, 9),
}
"""For each pair how it is made, how many answers are written, and how often each round is run."""


class Everywhere(CoSpec):
    """`cospec` that asks at all positions at once."""

    def verify(self, blocks: Blocks) -> Verification:
        return arbitrate(blocks, self._arbiter, Above(1.0), defers_bonus=False, everywhere=True)


@dataclass
class Times:
    """Processor seconds of `exact`, or what another policy takes beyond them, over all rounds.

    Attributes:
        draft: drafting, and keeping what the policy needs.
        target: the target's pass, and the verification.
    """

    draft: float = 0.0
    target: float = 0.0


@dataclass
class Timed:
    """The times that were measured, and how much work they are of.

    Attributes:
        times: of each policy.
        rounds: how many were timed.
        mismatches: those that the arbiter was asked about.
    """

    times: dict[str, Times]
    rounds: int = 0
    mismatches: int = 0


def measure_overhead() -> list[dict[str, Any]]:
    """Measure the overhead on every pair; one row for each."""
    torch.manual_seed(0)
    arbiter = Arbiter(Network(len(DEFAULT), HIDDEN).requires_grad_(False), DEFAULT)
    policies: dict[str, TokenPolicy] = {
        "exact": Exact(),
        "again": Exact(),  # what the measurement itself is worth
        "cospec": CoSpec(arbiter, threshold=1.0, defers_bonus=False),
        "everywhere": Everywhere(arbiter, threshold=1.0, defers_bonus=False),
    }
    return [_measure_pair(name, policies) for name in PAIRS]


def _measure_pair(name: str, policies: dict[str, TokenPolicy]) -> dict[str, Any]:
    make, answers, repeats = PAIRS[name]
    setting = make(False)
    timed = Timed({policy: Times() for policy in policies})
    for number in range(answers):
        sequence = _sequence(setting, number)
        setting.run(_rounds(sequence, policies, repeats, timed), sequence)
        print(f"overhead, {name}: {number + 1} of {answers} answers", flush=True)
    exact, again, ours, everywhere = (timed.times[policy] for policy in policies)
    whole, in_target = exact.draft + exact.target, exact.target
    extra, noise = ours.draft + ours.target, again.draft + again.target
    more = everywhere.draft + everywhere.target
    return {
        "pair": name,
        "answers": answers,
        "rounds": timed.rounds,
        "disagreements_decided": timed.mismatches,
        "milliseconds_of_a_round": round(1000 * whole / timed.rounds, 4),
        "milliseconds_of_the_target": round(1000 * in_target / timed.rounds, 4),
        "milliseconds_of_the_arbiter": round(1000 * extra / timed.rounds, 4),
        "of_which_while_drafting": round(1000 * ours.draft / timed.rounds, 4),
        "share_of_a_round": round(extra / whole, 4),
        "share_of_the_target": round(extra / in_target, 4),
        "milliseconds_everywhere": round(1000 * more / timed.rounds, 4),
        "share_of_a_round_everywhere": round(more / whole, 4),
        "share_of_a_round_same_twice": round(noise / whole, 4),
    }


def _rounds(
    sequence: TokenSequence, policies: dict[str, TokenPolicy], repeats: int, timed: Timed
) -> Program:
    """An answer, each round of it by every policy in turn.

    Added are the medians over the repeats: of the seconds of `exact`, and of what the others took
    beyond them in the same repeat.
    """
    names = list(policies)
    order = random.Random(sequence.sampling.seed)
    while not sequence.finished:
        size = sequence.block_size(bonus=True)
        seen: dict[str, list[Times]] = {name: [] for name in names}
        acceptance = None
        for repeat in range(repeats):
            # At random: what one leaves in the caches and the allocator meets whoever is next.
            for name in order.sample(names, len(names)):
                policy = policies[name]
                began = time.thread_time()
                block = yield Draft(sequence, size, needs=policy.needs)
                drafted = time.thread_time()
                acceptance = yield Score(sequence, block, policy)
                seen[name].append(Times(drafted - began, time.thread_time() - drafted))
                if name == "cospec" and not repeat:
                    timed.mismatches += len(acceptance.mismatches)
        base = seen["exact"]
        for name, times in seen.items():
            if name != "exact":
                pairs = list(zip(times, base, strict=True))
                times = [Times(t.draft - b.draft, t.target - b.target) for t, b in pairs]
            timed.times[name].draft += median(t.draft for t in times)
            timed.times[name].target += median(t.target for t in times)
        timed.rounds += 1
        assert acceptance is not None
        sequence.commit(acceptance)


def _sequence(setting: Setting, number: int) -> TokenSequence:
    limits = Limits(
        max_new_tokens=setting.limits.max_new_tokens,
        stop_token_ids=setting.limits.stop_token_ids,
        draft_length=FixedLength(LENGTH),
    )
    return setting.sequence(number, limits)
