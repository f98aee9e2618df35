"""What the arbiter costs: the same texts with it and without, in turns within milliseconds.

With `threshold=1` and nothing held back, `cospec` writes what `exact` writes, block by block, and
differs from it only in reckoning features, asking its network, and keeping what that needs.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from _timed_pairs import Setting, bundled, wide

from stet.arbiter import DEFAULT, Arbiter, Network
from stet.draft_length import FixedLength
from stet.policies import CoSpec, Exact, TokenPolicy
from stet.programs import speculative
from stet.sequence import Limits
from stet.sequence import Sequence as TokenSequence

HIDDEN = (32,)
ANSWERS = {"bundled": 12, "wide": 2}
REPEATS = {"bundled": 7, "wide": 5}


def measured() -> list[dict[str, Any]]:
    """One row for each pair."""
    torch.manual_seed(0)
    arbiter = Arbiter(Network(len(DEFAULT), HIDDEN).requires_grad_(False), DEFAULT)
    policies: dict[str, TokenPolicy] = {
        "exact": Exact(),
        "again": Exact(),  # what the measurement itself is worth
        "cospec": CoSpec(arbiter, threshold=1.0, hold=False),
    }
    return [_row(make(False), policies) for make in (bundled, wide)]


def _row(setting: Setting, policies: dict[str, TokenPolicy]) -> dict[str, Any]:
    """Seconds summed over answers, of the fastest of several repeats of each."""
    seconds = dict.fromkeys(policies, 0.0)
    rounds = disputes = 0
    in_target = 0.0
    for number in range(ANSWERS[setting.name]):
        best = dict.fromkeys(policies, float("inf"))
        target = float("inf")
        for repeat in range(REPEATS[setting.name]):
            names = list(policies)
            turn = repeat % len(names)
            for name in (*names[turn:], *names[:turn]):
                sequence = _sequence(setting, number)
                start = time.perf_counter()
                setting.run(speculative(sequence, policies[name]), sequence)
                best[name] = min(best[name], time.perf_counter() - start)
                if name == "exact":
                    target = min(target, sequence.counters.target_seconds)
                written = sequence if name == "cospec" else None
                if written is not None and repeat == 0:
                    rounds += len(written.blocks)
                    disputes += sum(len(b.disputes) for b in written.blocks)
        in_target += target
        for name, value in best.items():
            seconds[name] += value
    extra = seconds["cospec"] - seconds["exact"]
    return {
        "pair": setting.name,
        "answers": ANSWERS[setting.name],
        "rounds": rounds,
        "disagreements_decided": disputes,
        "milliseconds_of_a_round": round(1000 * seconds["exact"] / rounds, 4),
        "milliseconds_of_the_target": round(1000 * in_target / rounds, 4),
        "milliseconds_of_the_arbiter": round(1000 * extra / rounds, 4),
        "share_of_a_round": round(extra / seconds["exact"], 4),
        "share_of_the_target": round(extra / in_target, 4),
        "share_of_a_round_same_twice": round(seconds["again"] / seconds["exact"] - 1, 4),
    }


def _sequence(setting: Setting, number: int) -> TokenSequence:
    limits = Limits(
        max_new_tokens=setting.limits.max_new_tokens,
        stop_token_ids=setting.limits.stop_token_ids,
        draft_length=FixedLength(5),
    )
    return setting.sequence(number, limits)
