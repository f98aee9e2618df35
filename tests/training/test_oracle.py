"""The oracle: what it says to be saved is, and nothing else is called saved."""

import pytest
import torch

from stet.arbiter import Arbiter, Network
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.training.oracle import Oracle, TargetsOthers
from stet.training.rollout_policy import RolloutPolicy, roll_out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair():
    return load_pair(compile=False, max_batch=16)


def test_the_accepted_mismatches_that_it_found_make_the_answer_right(pair):
    torch.manual_seed(0)
    arbiter = Arbiter(Network(2).requires_grad_(False), ("target_target", "draft_draft"))
    task = load_task("stories", split="validation", count=32)
    target = roll_out(pair, task, range(32), RolloutPolicy(arbiter, 1.0))
    found = Oracle(pair, task, arbiter, depth=2, width=2).search(range(32))
    wrong = [g.question for g in target if not g.right]
    assert wrong
    assert [s.question for s in found if s.accepted_mismatches == ()] == [
        g.question for g in target if g.right
    ]
    saved = [s for s in found if s.accepted_mismatches]
    assert len(saved) + sum(s.accepted_mismatches is None for s in found) == len(wrong)
    assert saved, "nothing was saved, so nothing was tested"
    for item in saved:
        # The target writes; at the places found the draft's token is accepted instead.
        written: tuple[int, ...] = ()
        for place in item.accepted_mismatches:
            (rollout,) = roll_out(
                pair, task, [item.question], RolloutPolicy(arbiter, 1.0), written=[written]
            )
            mismatch = dict(zip(rollout.places, rollout.mismatches, strict=True))[place]
            written = (*rollout.tokens[:place], mismatch.draft)
        (rollout,) = roll_out(
            pair, task, [item.question], RolloutPolicy(arbiter, 1.0), written=[written]
        )
        assert rollout.right
        assert len(item.accepted_mismatches) <= 2


def test_other_tokens_of_the_target_are_tried_at_the_same_places(pair):
    arbiter = Arbiter(Network(2).requires_grad_(False), ("target_target", "draft_draft"))
    task = load_task("stories", split="validation", count=12)
    others = TargetsOthers(pair, seed=3)
    tried = 0
    for rollout in roll_out(pair, task, range(12), RolloutPolicy(arbiter, 1.0)):
        found = others(rollout)
        assert found == others(rollout)
        assert tuple(other.place for other in found) == rollout.places
        assert all(rollout.tokens[other.place] != other.token for other in found)
        tried += len(found)
    assert tried
    searched = Oracle(pair, task, arbiter, depth=1, alternatives=others).search(range(12))
    assert all(s.accepted_mismatches is None or len(s.accepted_mismatches) < 2 for s in searched)
