"""The memory plan against what is held at most, of two models with a vocabulary of today."""

from __future__ import annotations

import pytest
import torch

from counting import VOCAB, peak
from held import CASES, model, prepared
from stet.engine.scoring import most_positions
from stet.models import plan_memory

DEAREST = "sampled step"
"""What the plan is for, where there are several requests."""


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("case", CASES)
def test_no_more_is_held_than_planned(case: str, batch: int) -> None:
    work, needed = prepared(case, batch)
    held = peak(work)
    assert held <= needed
    if case == DEAREST and batch == 4:  # of more rows, more could draft at once than do here
        assert needed < 2.5 * held


def test_longer_blocks_take_more_of_the_draft() -> None:
    plans = [
        plan_memory(model("target"), model("draft"), max_rows=2, max_length=200, block=n)
        for n in (16, 32)
    ]
    short, long = (plan.models[1].workspace for plan in plans)
    assert long - short == 2 * 16 * 4 * 4 * VOCAB


def test_a_pass_has_no_more_logits_than_it_may() -> None:
    """Steps of many requests are read in several passes, blocks of tokens in one."""
    most = most_positions(VOCAB, torch.device("cpu"))
    assert 16 * 16 < most < 4 * 129
