"""The oracle: what it says to be saved is, and nothing else is called saved."""

import pytest
import torch

from stet.arbiter import Arbiter, Network
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.training.oracle import Oracle
from stet.training.playing import Playing, play

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair():
    return load_pair(compile=False, max_batch=16)


def test_overrules_that_it_found_make_the_answer_right(pair):
    torch.manual_seed(0)
    arbiter = Arbiter(Network(2).requires_grad_(False), ("target_target", "draft_draft"))
    task = load_task("stories", split="validation", count=32)
    target = play(pair, task, range(32), Playing(arbiter, 1.0))
    found = Oracle(pair, task, arbiter, depth=2, width=2).search(range(32))
    wrong = [g.question for g in target if not g.right]
    assert wrong
    assert [s.question for s in found if s.overrules == ()] == [
        g.question for g in target if g.right
    ]
    saved = [s for s in found if s.overrules]
    assert len(saved) + sum(s.overrules is None for s in found) == len(wrong)
    assert saved, "nothing was saved, so nothing was tested"
    for item in saved:
        # The target writes; at the places found the draft's token stands instead.
        written: tuple[int, ...] = ()
        for place in item.overrules:
            (game,) = play(pair, task, [item.question], Playing(arbiter, 1.0), written=[written])
            dispute = dict(zip(game.places, game.disputes, strict=True))[place]
            written = (*game.tokens[:place], dispute.draft)
        (game,) = play(pair, task, [item.question], Playing(arbiter, 1.0), written=[written])
        assert game.right
        assert len(item.overrules) <= 2
