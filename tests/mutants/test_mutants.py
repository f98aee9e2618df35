"""The checks have teeth: each of these faults makes the named check fail.

A mutant is the smallest change that brings a known fault back. It is shown to the same functions
that prove the real code lossless.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

import tiny
from engine import scripts
from lossless import chains, law
from lossless.law import Case
from stet.core.block import whole
from stet.core.draft_length import FixedLength
from stet.core.sampling import Sampler, SamplingParams, draw
from stet.core.sequence import TokenSequence
from stet.engine import scoring
from stet.engine.addresses import slots_of
from stet.engine.drafting import ModelDrafter
from stet.engine.pages import Pages
from stet.engine.runner import Runner
from stet.policies import (
    ACCEPT,
    NEXT,
    Blocks,
    BlockVerification,
    Exact,
    Need,
    Verification,
    at,
    prefix_length,
)
from stet.policies import block as block_module
from stet.policies import exact as exact_module

Patch = pytest.MonkeyPatch

CAUGHT = 1e-6
"""A mutant counts as caught if the law's test fails at this level."""


def accept_always(patch: Patch) -> Case:
    def verify(self, blocks):
        p = at(blocks.target_probs, blocks.lengths)
        return Verification(blocks.lengths, draw(p, blocks.uniform(NEXT, 1)[:, 0]))

    patch.setattr(Exact, "verify", verify)
    return Case()


def skip_the_residual(patch: Patch) -> Case:
    # After a rejection, draw from p itself.
    patch.setattr(exact_module, "or_else", lambda residual, p: p)
    return Case(draft="other")


def skip_the_residual_of_a_block(patch: Patch) -> Case:
    patch.setattr(block_module, "or_else", lambda residual, p: p)
    return Case(policy=BlockVerification(), draft="other")


def draw_the_bonus_from_the_residual(patch: Patch) -> Case:
    # After a whole block nothing was drafted, so the draft has no share to take.
    def draft_share(self, position):
        if not self.drafted.shape[1]:
            return torch.zeros_like(self.target_probs[:, 0])
        return at(self.draft_probs, position.clamp(max=self.drafted.shape[1] - 1))

    patch.setattr(Blocks, "draft_share", draft_share)
    return Case(draft=0.0, length=FixedLength(1))


def discard_a_drawn_token_of_low_confidence(patch: Patch) -> Case:
    write = ModelDrafter._write

    def discarding(self, drafts, needs):
        lengths, batch = write(self, drafts, needs | {Need.DRAFT_LOGPROBS})
        for row, item in enumerate(drafts):
            last = lengths[row] - 1
            token = batch.tokens[row, last]
            if whole(batch.logits)[row, last].softmax(-1)[token] < item.sequence.floor():
                lengths[row] = last
        return lengths, batch

    patch.setattr(ModelDrafter, "_write", discarding)
    return Case(draft=0.05, length=FixedLength(3, min_confidence=0.3))


def ignore_the_blocks_own_prefix_in_penalties(patch: Patch) -> Case:
    edit = Sampler.edit
    patch.setattr(Sampler, "edit", lambda self, logits, block=None: edit(self, logits, None))
    return Case(draft=0.0, sampling=SamplingParams(temperature=1.0, repetition_penalty=3.0))


COUNTING = SamplingParams(temperature=1.0, frequency_penalty=1.5, presence_penalty=0.5)


def count_the_prompt_in_penalties_of_the_answer(patch: Patch) -> Case:
    patch.setattr(TokenSequence, "counted", property(lambda self: self.tokens))
    return Case(draft=0.0, sampling=COUNTING)


def forget_the_blocks_own_tokens_in_penalties_of_the_answer(patch: Patch) -> Case:
    subtract = Sampler._subtract
    patch.setattr(
        Sampler, "_subtract", lambda self, logits, block, *a: subtract(self, logits, None, *a)
    )
    return Case(draft=0.0, sampling=COUNTING)


def forget_the_answer_of_tokens_that_a_block_repeats(patch: Patch) -> Case:
    patch.setattr(Sampler, "_count", lambda self, tokens, answered: torch.zeros(tokens.shape))
    return Case(draft=0.0, count=5, vocab=3, sampling=COUNTING)


def take_draft_probabilities_before_the_transforms(patch: Patch) -> Case:
    write = ModelDrafter._write

    def untransformed(self, drafts, needs):
        lengths, batch = write(self, drafts, needs | {Need.DRAFT_LOGPROBS})
        return lengths, dataclasses.replace(batch, probs=whole(batch.logits).softmax(-1))

    patch.setattr(ModelDrafter, "_write", untransformed)
    return Case(sampling=SamplingParams(temperature=0.5))


def keep_a_stale_cache_after_a_rewind(patch: Patch) -> Case:
    forward = Runner.forward
    written: dict[int, int] = {}

    def stale(self, rows, tokens, starts, counts=None, **options):
        """Slots that were written once keep what they held, as if never rewound."""
        caches = (*self.cache.keys, *self.cache.values)
        before = []
        for row, start in zip(rows, starts, strict=True):
            slots = slots_of(row)[start : written.get(id(row), 0)]
            before.append([cache[slots].clone() for cache in caches])
        result = forward(self, rows, tokens, starts, counts, **options)
        for row, saved, start in zip(rows, before, starts, strict=True):
            slots = slots_of(row)[start : start + len(saved[0])]
            for cache, old in zip(caches, saved, strict=True):
                cache[slots] = old
            written[id(row)] = max(written.get(id(row), 0), row.valid)
        return result

    patch.setattr(Runner, "forward", torch.inference_mode()(stale))
    return Case(draft="other", sampling=SamplingParams(temperature=1.0), samples=512)


def stop_at_the_first_rejection_of_a_block(patch: Patch) -> Case:
    verify = BlockVerification.verify

    def impatient(self, blocks):
        rows, width = blocks.drafted.shape
        if not width:
            return verify(self, blocks)
        joint = block_module.joint_ratios(blocks)
        u = blocks.uniform(ACCEPT, width)
        accepted = []
        for i in range(1, width + 1):
            left = block_module.left_over(blocks, joint[:, i], torch.full((rows,), i)).sum(-1)
            ahead = left / (left + 1 - joint[:, i]).clamp(min=1e-30)
            accepted.append(u[:, i - 1] < torch.where(blocks.lengths == i, joint[:, i], ahead))
        accepted = prefix_length(torch.stack(accepted, 1) & blocks.present)
        p = at(blocks.target_probs, accepted)
        rest = block_module.left_over(blocks, joint.gather(1, accepted[:, None])[:, 0], accepted)
        weights = torch.where(
            (accepted == blocks.lengths)[:, None], p, exact_module.or_else(rest, p)
        )
        return Verification(accepted, draw(weights, blocks.uniform(NEXT, 1)[:, 0]))

    patch.setattr(BlockVerification, "verify", impatient)
    return Case(policy=BlockVerification(), draft="other")


def share_one_number_between_accepting_and_choosing(patch: Patch) -> Case:
    numbers = scoring.uniforms

    def shared(seeds, rounds, first_slot, count):
        return numbers(seeds, rounds, ACCEPT if first_slot == NEXT else first_slot, count)

    patch.setattr(scoring, "uniforms", shared)
    return Case(draft="other", length=FixedLength(1), sampling=SamplingParams(temperature=2.0))


MUTANTS: list[Callable[[Patch], Case]] = [
    accept_always,
    skip_the_residual,
    skip_the_residual_of_a_block,
    draw_the_bonus_from_the_residual,
    discard_a_drawn_token_of_low_confidence,
    ignore_the_blocks_own_prefix_in_penalties,
    count_the_prompt_in_penalties_of_the_answer,
    forget_the_blocks_own_tokens_in_penalties_of_the_answer,
    forget_the_answer_of_tokens_that_a_block_repeats,
    take_draft_probabilities_before_the_transforms,
    keep_a_stale_cache_after_a_rewind,
    stop_at_the_first_rejection_of_a_block,
    share_one_number_between_accepting_and_choosing,
]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_law_of_whole_answers_catches(mutant: Callable[[Patch], Case], monkeypatch: Patch):
    case = mutant(monkeypatch)
    assert law.sample(case).p_value < CAUGHT


@pytest.mark.slow
def test_the_unmutated_code_passes_where_the_mutants_fail():
    with pytest.MonkeyPatch.context() as patch:
        cases = []
        for mutant in MUTANTS:
            cases.append(mutant(patch))
            patch.undo()
    for case in cases:
        assert law.sample(case).p_value > law.FAMILY_ALPHA / len(cases), law.name(case)


def test_the_law_of_consecutive_rounds_catches_numbers_keyed_by_token_position():
    # A position drafted again after a rejection gets the number that was just used for it.
    assert chains.p_value(BlockVerification(), seed=1, block=3) > law.FAMILY_ALPHA
    assert chains.p_value(BlockVerification(), seed=1, block=3, numbers=chains.by_position) < CAUGHT


def test_the_rewinding_scripts_catch_a_cache_that_is_never_rewound(monkeypatch: Patch):
    script = [("draft", 4), ("truncate", 2), ("target", 1), ("draft", 3), ("speculate", 4, 1)] * 3
    assert scripts.answer(script) == scripts.reference(script)
    monkeypatch.setattr(TokenSequence, "rewind", lambda self, length, target=None: None)
    assert scripts.answer(script) != scripts.reference(script)


def _is_right_after_others_part_from_it() -> bool:
    """Whether a row still holds its text after a fork of it went another way, and ended."""
    model = tiny.loaded(scripts.TARGET)
    text = torch.arange(50)[None] % scripts.VOCAB

    def next_logits(runner: Runner) -> torch.Tensor:
        row = runner.allocate()
        runner.forward([row], text[:, :40], [0])
        (fork,) = runner.fork(row, 1)
        runner.forward([fork], text.flip(1)[:, :30], [10])
        runner.release(fork)
        other = runner.allocate()
        runner.forward([other], text.flip(1), [0])
        return runner.forward([row], text[:, 40:], [40]).logits

    found = next_logits(Runner(model, max_rows=3, max_length=64))
    expected = scripts.TARGET(text).logits[:, 40:]
    return bool(torch.allclose(found, expected, atol=1e-4))


def test_shared_pages_catch_one_that_is_written_to_and_one_that_is_freed_too_early(
    monkeypatch: pytest.MonkeyPatch,
):
    assert _is_right_after_others_part_from_it()
    with monkeypatch.context() as patch:
        patch.setattr(Pages, "own", lambda self, page: True)
        assert not _is_right_after_others_part_from_it()
    drop = Pages.drop

    def too_early(self: Pages, page: int, *, keep: bool = True) -> None:
        self._holders[page] = min(self._holders[page], 1)
        if self._holders[page]:
            drop(self, page, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(Pages, "drop", too_early)
        assert not _is_right_after_others_part_from_it()
