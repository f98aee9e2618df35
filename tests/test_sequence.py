"""A sequence: what it commits, where each token came from, and when it ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stet.core.acceptance import ACCEPTED_MISMATCH, Acceptance
from stet.core.block import Block
from stet.core.draft_length import FixedLength
from stet.core.limits import Limits
from stet.core.row import Row
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from tiny import Letters


def acceptance(drafted: list[int], accepted: int, following: int | None, **more) -> Acceptance:
    reasons = ["accepted"] * accepted + ["recovered"]
    return Acceptance(drafted, accepted, following, more.pop("reasons", reasons), **more)


def sequence(count: int = 20, **limits) -> TokenSequence:
    return TokenSequence([9, 9], limits=Limits(count, **limits), decoder=Letters())


def test_an_acceptance_appends_what_is_accepted_and_what_follows():
    s = sequence()
    s.commit(acceptance([1, 2, 3], 2, 7))
    assert s.answer == [1, 2, 7]
    assert s.origins == ["draft", "draft", "target"]
    assert s.reasons == ["accepted", "accepted", "recovered"]
    assert (s.round, s.remaining, s.finished) == (1, 17, False)
    assert s.text() == "bch"


def test_a_deferred_token_does_not_appear():
    s = sequence()
    s.commit(acceptance([1, 2, 3], 2, None))
    assert s.answer == [1, 2]
    assert s.blocks[0].next_token is None


def test_a_block_that_nobody_verifies_is_the_drafts_own():
    s = sequence()
    s.commit(Block(2, known=[4, 5]))
    assert s.answer == [4, 5]
    assert s.origins == ["draft"] * 2
    assert s.counters.drafted_tokens == 0
    assert s.counters.draft_passes == 2


def test_tokens_beyond_the_limit_are_dropped():
    s = sequence(4, probabilities=True)
    s.commit(acceptance([1, 2, 3], 3, 7, p_target=[0.1, 0.2, 0.3, 0.4]))
    assert (s.finish_reason, s.answer) == ("length", [1, 2, 3, 7])
    s = sequence(2, probabilities=True)
    s.commit(acceptance([1, 2, 3], 3, 7, p_target=[0.1, 0.2, 0.3, 0.4]))
    assert (s.finish_reason, s.answer) == ("length", [1, 2])
    assert [e.p_target for e in s.emitted] == [0.1, 0.2]
    assert (s.counters.accepted_tokens, s.counters.emitted_tokens) == (2, 2)


def test_nothing_follows_a_stop_token_and_its_text_is_left_out():
    s = sequence(stop_token_ids=frozenset({2, 5}))
    s.commit(acceptance([1, 2, 3], 3, 7))
    assert (s.finish_reason, s.answer, s.text()) == ("stop", [1, 2], "b")
    assert s.counters.accepted_per_position == [1, 1]


def test_a_stop_string_may_begin_in_one_acceptance_and_end_in_the_next():
    s = sequence(stop_strings=("cde",))
    s.commit(acceptance([1, 2], 2, 3))
    assert not s.finished
    s.commit(acceptance([4, 5], 2, 6))
    assert (s.finish_reason, s.answer, s.text()) == ("stop", [1, 2, 3, 4], "b")


def test_a_stop_on_the_last_token_is_a_stop():
    s = sequence(2, stop_token_ids=frozenset({3}))
    s.commit(acceptance([1], 1, 3))
    assert s.finish_reason == "stop"


def test_the_next_block_leaves_room_for_the_targets_token():
    s = sequence(6, draft_length=FixedLength(4))
    assert s.block_size() == 4
    s.commit(acceptance([1, 2], 2, 3))
    assert s.block_size() == 2
    s.commit(acceptance([1], 1, 3))
    assert s.block_size() == 0


def test_both_caches_agree_as_far_as_the_text_does():
    s = sequence()
    target, draft = Row(valid=6), Row(valid=5)
    s.rows = {"target": target, "draft": draft}
    s.commit(acceptance([1, 2, 3, 4], 1, 7))
    assert (target.valid, draft.valid) == (3, 3)
    target.valid = draft.valid = 20
    s.truncate(1)
    assert (target.valid, draft.valid) == (3, 3)


def test_accepted_mismatches_are_recorded():
    s = sequence()
    s.commit(
        acceptance([1, 2, 3], 3, 4, reasons=["accepted", ACCEPTED_MISMATCH, "accepted", "bonus"])
    )
    (block,) = s.blocks
    assert (block.position, block.drafted, block.accepted) == (0, [1, 2, 3], 3)
    assert (block.accepted_mismatches, block.next_token) == ([1], 4)


pieces = st.lists(
    st.tuples(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 4), st.integers(0, 5)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pieces, st.integers(0, 20), st.lists(st.sampled_from(["ab", "cc", "dab"]), max_size=2))
def test_truncating_is_as_if_the_rest_was_never_written(many: list, cut: int, stop: list[str]):
    limits = Limits(25, frozenset({5}), tuple(stop), probabilities=True, stream=True)
    s = TokenSequence([9], limits=limits, decoder=Letters())
    for drafted, accepted, following in many:
        if not s.finished:
            accepted = min(accepted, len(drafted))
            s.commit(acceptance(drafted, accepted, following, p_target=[0.5] * (accepted + 1)))
    before = list(s.answer)
    s.truncate(cut)
    assert s.answer == before[:cut]
    assert len(s.emitted) == len(s.answer)
    assert s.counters.emitted_tokens == len(s.answer)
    if cut < len(before):
        assert not s.finished
        # What ended it can end it again.
        for token in before[cut:]:
            s.commit(acceptance([], 0, token, p_target=[0.5]))
        assert s.answer == before


def test_forks_are_seeded_apart_and_repeatably():
    def seeds(seed: int) -> list[int]:
        found: list[int] = []
        s = TokenSequence([1], SamplingParams(seed=seed))
        for _ in range(3):
            with s.fork(3) as children:
                found += [c.sampling.seed for c in children]
            s.commit(acceptance([], 0, 1))
        return found

    assert seeds(4) == seeds(4)
    assert len(set(seeds(4) + seeds(5))) == 18


def test_a_candidate_counts_the_whole_answer_and_no_prompt():
    penalised = SamplingParams(presence_penalty=1.0)
    sequence = TokenSequence([1, 2, 3], penalised)
    assert sequence.counted == []
    sequence.commit(Block(2, known=[4, 5]))
    with sequence.fork(2) as (first, second):
        first.commit(Block(1, known=[6]))
        with first.fork(1) as (inner,):
            inner.commit(Block(1, known=[7]))
            assert inner.counted == [4, 5, 6, 7]
            assert inner.answer == [7]
        assert (first.counted, second.counted) == ([4, 5, 6], [4, 5])
        sequence.adopt(first)
    assert sequence.counted == sequence.answer == [4, 5, 6]
    assert TokenSequence([1, 2], SamplingParams(repetition_penalty=2.0)).counted == []


def test_adopting_a_candidate_takes_over_everything_it_wrote():
    s = sequence(10, probabilities=True, stop_strings=("zz",))
    s.commit(acceptance([1], 1, 2, p_target=[0.5, 0.6]))
    released: list[TokenSequence] = []
    s.release = released.append
    with s.fork(2) as children:
        assert [c.remaining for c in children] == [8, 8]
        children[1].commit(acceptance([3, 4], 1, 5, p_target=[0.1, 0.2]))
        s.adopt(children[1])
    assert released == children
    assert s.answer == [1, 2, 3, 5]
    assert s.origins == ["draft", "target", "draft", "target"]
    assert [e.p_target for e in s.emitted] == [0.5, 0.6, 0.1, 0.2]
    assert [b.position for b in s.blocks] == [0, 2]
    assert s.counters.emitted_tokens == 4
    assert s.counters.drafted_tokens == 3
    assert s.text() == "bcdf"


def test_a_finished_candidate_finishes_its_parent():
    s = sequence(10, stop_token_ids=frozenset({0}))
    with s.fork(1) as (child,):
        child.commit(acceptance([], 0, 0))
        s.adopt(child)
    assert s.finish_reason == "stop"


@pytest.mark.parametrize("reason", ["cancelled", "timeout", "error"])
def test_closing_does_not_change_how_it_ended(reason):
    s = sequence(1)
    s.commit(acceptance([], 0, 3))
    s.close(reason)
    assert s.finish_reason == "length"
    s = sequence()
    s.close(reason)
    assert s.finish_reason == reason


# Candidates and places in the caches


def test_a_single_candidate_works_in_its_parents_place_and_gives_it_back():
    s = sequence()
    s.commit(acceptance([], 0, 1))
    rows = s.rows = {"target": Row(valid=3), "draft": Row(valid=9)}
    own, released = dict(rows), []
    s.release = lambda child: released.append(dict(child.rows))
    with s.fork(1) as (child,):
        assert child.borrow("draft") is own["draft"]
        # Whatever the place held beyond the text both share is not the candidate's.
        assert (child.rows, s.rows) == ({"draft": own["draft"]}, {"target": own["target"]})
        assert own["draft"].valid == 3
        assert child.borrow("draft") is None
        own["draft"].valid = 5
    assert s.rows == own
    assert own["draft"].valid == 3
    assert released == [{}]


def test_an_adopted_candidate_keeps_the_place_that_it_borrowed():
    s = sequence()
    place = Row(valid=2)
    s.rows = {"draft": place}
    with s.fork(1) as (child,):
        child.borrow("draft")
        child.commit(acceptance([], 0, 4))
        place.valid = 3
        s.adopt(child)
    assert (s.rows, place.valid) == ({"draft": place}, 3)


def test_of_several_candidates_none_takes_its_parents_place():
    s = sequence()
    mine, theirs = Row(valid=2), [Row(valid=2), Row(valid=2)]
    s.rows = {"draft": mine}
    released: list[Row] = []
    s.release = lambda child: released.extend(child.rows.values())
    with s.fork(2) as children:
        assert [c.borrow("draft") for c in children] == [None, None]
        for child, row in zip(children, theirs, strict=True):
            child.rows["draft"] = row
            child.commit(acceptance([], 0, 4))
        s.adopt(children[1])
    assert s.rows == {"draft": theirs[1]}
    assert released == [theirs[0], mine]


@pytest.mark.parametrize(("scored", "valid"), [(False, 2), (True, 4)])
def test_a_cache_that_has_read_the_adopted_text_stays_as_far_as_it_did(scored: bool, valid: int):
    s = sequence()
    target = Row(valid=2)
    s.rows = {"target": target}
    with s.fork(1) as (child,):
        child.commit(Block(2, known=[3, 4]))
        target.valid = 4
        s.adopt(child, scored=scored)
    assert (s.rows, target.valid) == ({"target": target}, valid)


def test_a_stop_string_may_begin_before_the_candidate_that_completes_it():
    s = sequence(stop_strings=("cde",), stream=True)
    s.commit(acceptance([1, 2], 2, 3))
    with s.fork(1) as (child,):
        child.commit(acceptance([4, 5, 6], 3, 7))
        assert not child.finished
        s.adopt(child)
    assert (s.finish_reason, s.answer, s.text()) == ("stop", [1, 2, 3, 4], "b")
    assert (s.counters.emitted_tokens, s.counters.accepted_tokens) == (4, 3)
    assert len(s.origins) == len(s.reasons) == 4
    assert s.stream is not None
    assert s.stream.take(final=True) == "b"


def test_what_was_spent_on_other_candidates_is_charged():
    s = sequence()
    with s.fork(2) as (first, second):
        for child in (first, second):
            more = {"target_seconds": 0.5, "draft_seconds": 0.25, "draft_passes": 2}
            child.commit(acceptance([1, 2], 1, 3, **more))
        s.adopt(first)
        s.charge(second)
    assert (s.counters.target_passes, s.counters.draft_passes) == (2, 4)
    assert (s.counters.target_seconds, s.counters.draft_seconds) == (1.0, 0.5)
    # Tokens are counted where they are part of the answer.
    assert (s.counters.emitted_tokens, s.counters.drafts, s.counters.accepted_tokens) == (2, 1, 1)


def test_cutting_back_takes_accepted_tokens_off_the_counts():
    s = sequence()
    s.commit(
        acceptance(
            [1, 2, 3], 3, 4, reasons=["accepted", ACCEPTED_MISMATCH, ACCEPTED_MISMATCH, "bonus"]
        )
    )
    s.commit(acceptance([5, 6], 2, 7))
    s.truncate(5)
    assert (s.counters.accepted_tokens, s.counters.accepted_per_position) == (4, [2, 1, 1])
    assert [(b.accepted, b.next_token) for b in s.blocks] == [(3, 4), (1, None)]
    s.truncate(2)
    assert (s.counters.accepted_tokens, s.counters.accepted_per_position) == (2, [1, 1, 0])
    assert [(b.accepted, b.accepted_mismatches, b.next_token) for b in s.blocks] == [
        (2, [1], None),
        (0, [], None),
    ]
    assert s.counters.drafted_tokens == 5
