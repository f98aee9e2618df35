"""What is computed at mismatches alone, where that is enough: over a large vocabulary it counts."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.sampling import Sampler, SamplingParams
from stet.policies import CombinedPolicy, Ensemble, Exact, SpeculativeCascade
from stet.policies.combined import CombinedPolicy as Base
from stet.policies.mismatches import find_mismatches, mismatch_logprobs
from stet.policies.registry import check_class

pytestmark = pytest.mark.unit

ROWS, WIDTH, VOCABULARY = 24, 6, 5000
POLICIES = [
    Ensemble(0.0),
    Ensemble(0.3),
    Ensemble(0.6, "probs"),
    Ensemble(1.0),
    SpeculativeCascade("chow", 0.7),
    SpeculativeCascade("difference", 0.0),
    SpeculativeCascade("optimal", 0.1),
]


def blocks_of(params: SamplingParams, *, copied: bool = False) -> Blocks:
    """Blocks of a draft that mostly, and not always, has its target's first choice."""
    draw = torch.Generator().manual_seed(7)
    shared = torch.randn(ROWS, WIDTH + 1, VOCABULARY, generator=draw) * 2
    target = shared + torch.randn(shared.shape, generator=draw) * 0.5
    draft = (shared + torch.randn(shared.shape, generator=draw) * 0.5)[:, :-1]
    device = torch.device("cpu")
    histories = [[row, 5] for row in range(ROWS)]
    sampler = Sampler([params] * ROWS, histories, VOCABULARY, device, histories)
    drafted = torch.zeros(ROWS, 0, dtype=torch.int64)
    for place in range(WIDTH):  # each token is seen by the penalty of those after it
        edited = sampler.edit(draft[:, : place + 1], drafted)
        drafted = torch.cat([drafted, edited[:, -1].argmax(-1)[:, None]], 1)
    lengths = torch.tensor([place % (WIDTH + 1) for place in range(ROWS)])
    return Blocks(
        drafted=drafted,
        lengths=lengths,
        target_logits=target,
        sampler=sampler,
        uniforms=lambda slot, count: torch.zeros(ROWS, count),
        draft_logits=None if copied else draft,
    )


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize(
    ("params", "copied"),
    [
        (SamplingParams(), False),
        (SamplingParams(), True),
        (SamplingParams(repetition_penalty=1.3, logit_bias={3: 4.0}), False),
        (SamplingParams(frequency_penalty=1.0, presence_penalty=0.5), False),
    ],
    ids=["plain", "copied", "edited", "counted"],
)
def test_what_is_taken_at_mismatches_is_what_is_taken_everywhere(
    policy, params, copied, monkeypatch
):
    monkeypatch.setattr(type(policy), "unanimous", False)
    whole = policy.verify(blocks_of(params, copied=copied))
    monkeypatch.setattr(type(policy), "unanimous", True)
    found = policy.verify(blocks_of(params, copied=copied))
    assert torch.equal(found.accepted, whole.accepted)
    assert torch.equal(found.next_token, whole.next_token)
    kept = torch.arange(WIDTH + 1) <= whole.accepted[:, None]
    assert torch.equal(found.reasons[kept], whole.reasons[kept])
    assert len(set(whole.accepted.tolist())) > 2


def test_only_mismatches_up_to_the_first_that_is_rejected_are_combined(monkeypatch):
    asked = []
    combine = SpeculativeCascade.combine
    monkeypatch.setattr(
        SpeculativeCascade,
        "combine",
        lambda self, p, q: asked.append(p.shape[:2]) or combine(self, p, q),
    )
    blocks = blocks_of(SamplingParams())
    mismatch = (blocks.drafted != blocks.target_tokens[:, :-1]) & blocks.present
    found = SpeculativeCascade("chow", 0.7).verify(blocks)
    reached = torch.arange(WIDTH) <= found.accepted[:, None]
    assert len(asked) == int((mismatch & reached).sum()) < int(mismatch.sum())
    assert set(asked) == {(1, 1)}


def test_log_probabilities_are_those_of_both_models_at_mismatches():
    blocks = blocks_of(SamplingParams())
    mismatches = find_mismatches(blocks)
    found = mismatch_logprobs(blocks, mismatches)
    where = ~mismatches.agree & blocks.present
    own, target = blocks.drafted[..., None], mismatches.target[:, :WIDTH, None]
    for values, of, tokens in (
        (found.target_target, blocks.target_logprobs[:, :WIDTH], target),
        (found.target_draft, blocks.target_logprobs[:, :WIDTH], own),
        (found.draft_draft, blocks.draft_logprobs, own),
        (found.draft_target, blocks.draft_logprobs, target),
    ):
        assert torch.allclose(values[where], of.gather(2, tokens)[..., 0][where], atol=1e-5)
        assert not values[~where].any()


@dataclass(frozen=True)
class Contrary(CombinedPolicy):
    """Takes what both models like least: no first choice of theirs is its own."""

    name: ClassVar[str] = "contrary"

    def combine(self, target, draft):
        return -(target + draft)


def test_what_its_base_has_may_be_set_and_nothing_like_it():
    check_class(Ensemble)
    misspelt = type("Misspelt", (Contrary,), {"unanimously": True})
    with pytest.raises(OptionError, match="is it 'unanimous'"):
        check_class(misspelt)
    class_of_another_kind = type("Other", (Exact,), {"unanimous": True})
    with pytest.raises(OptionError, match="sets 'unanimous'"):
        check_class(class_of_another_kind)


def test_a_combination_that_says_nothing_of_first_choices_is_taken_everywhere():
    assert not Base.unanimous
    blocks = blocks_of(SamplingParams())
    found = Contrary().verify(blocks)
    assert found.accepted.tolist() == [0] * ROWS
    least = (blocks.target_logits.log_softmax(-1)[:, 0] + blocks.draft_logprobs[:, 0]).argmin(-1)
    drafted = blocks.lengths > 0
    assert torch.equal(found.next_token[drafted], least[drafted])
