"""Who may have measured costs choose its blocks: text that is the same wherever they end."""

from __future__ import annotations

import pytest

from stet.arbiter import Arbiter, Network
from stet.core.draft_length import LONGEST, SHARED
from stet.load import load_pair
from stet.policies import CoSpec, resolve


@pytest.mark.unit
def test_policies_that_depend_on_where_blocks_end_do_not_claim_otherwise():
    """A coin is thrown per block, `fly` looks at what is left of one; for the others see
    tests/policies, where each writes the same text with blocks of several lengths.
    """
    plain = ("confident", "ensemble", "speculative-cascade", "cosd", "fuzzy", "top-k", "typical")
    for name in ("exact", "block", *plain):
        assert resolve(name).block_invariant, name
    for name in ("random", "fly", "cascade", "specguard"):
        assert not resolve(name).block_invariant, name


@pytest.mark.unit
def test_an_arbiter_that_looks_at_its_block_or_defers_no_bonus_is_not_block_invariant():
    assert CoSpec().block_invariant
    assert not CoSpec(defers_bonus=False).block_invariant
    looks = Arbiter(Network(1).requires_grad_(False), ("place",))
    assert not CoSpec(looks).block_invariant


def test_blocks_may_be_longer_for_one_request_at_a_time():
    """And for several where the engine fits them to rounds, on a CPU."""
    alone, together = (load_pair(compile=False, max_batch=n) for n in (1, 2))
    assert alone.auto_length().longest == LONGEST - 1
    assert alone.auto_length(lossless=False).longest == LONGEST - 1
    assert together.auto_length().longest == LONGEST - 1
    assert together.auto_length(lossless=False).longest == LONGEST - 1
    assert together.auto_length(block_invariant=False).longest == SHARED
    # Other texts depend on where blocks end, and stay the same whatever the pair was loaded for.
    assert alone.auto_length(block_invariant=False) == together.auto_length(block_invariant=False)
    assert alone.auto_length(greedy=False) == together.auto_length(greedy=False)


def test_in_a_recorded_run_lenient_blocks_stay_as_the_rule_wants_them(tmp_path):
    pair = load_pair(compile=False, max_batch=2)
    with pair.costs_of_run(tmp_path / "profile.json"):
        recorded = [pair.auto_length(lossless=lossless) for lossless in (True, False)]
        asked = pair.generate("1 + 1 =", "ensemble", max_new_tokens=1)
    assert [rule.fits for rule in recorded] == [True, False]
    assert [rule.longest for rule in recorded] == [LONGEST - 1, SHARED]
    assert asked.trace.settings.draft_length["fits"] is False
    assert pair.auto_length(lossless=False).fits
    assert not pair.auto_length(fits=False).fits


def test_only_what_the_target_would_write_anyway_may_be_left_to_it():
    pair = load_pair(compile=False)
    for name, rests in (("exact", True), ("ensemble", False), ("random", False)):
        asked = pair.generate("1 + 1 =", name, max_new_tokens=1, temperature=0.0)
        assert asked.trace.settings.draft_length["may_rest"] is rests, name
