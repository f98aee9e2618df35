"""What a training's first branches say is to be expected: more right answers, speed, or neither."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from stet.training.branches import Branches
from stet.training.outlook import Outlook, _best_bar, _changes, outlook


def branches(questions: int, seed: int, *, only_draft: float, telling: bool) -> Branches:
    """Five mismatches a question; the target's answer is right or wrong throughout a question."""
    generator = torch.Generator().manual_seed(seed)
    count = 5 * questions
    question = torch.arange(count) // 5
    right = (torch.rand(questions, generator=generator) < 0.6)[question]
    chance = torch.rand(count, generator=generator)
    with_draft = torch.where(right, chance < 0.9, chance < only_draft)
    features = torch.randn(count, 3, generator=generator)
    if telling:
        features[:, 1] += 3.0 * (with_draft & ~right) - 3.0 * (right & ~with_draft)
    return Branches(
        features=features,
        question=question,
        place=torch.arange(count) % 5 * 7,
        draft=torch.zeros(count, dtype=torch.long),
        target=torch.ones(count, dtype=torch.long),
        with_draft=with_draft,
        with_target=right,
    )


def test_a_pair_in_which_something_tells_may_beat_its_target() -> None:
    found = outlook(branches(400, 0, only_draft=0.3, telling=True))
    assert found is not None
    assert (found.questions, found.mismatches) == (400, 2000)
    assert found.draft_only == pytest.approx(0.12, abs=0.03)
    assert found.target_only == pytest.approx(0.06, abs=0.02)
    # Of the 40 % that the target answers wrong, most have a mismatch that would save them.
    assert 0.2 < found.gain < found.saved < 0.4
    assert 0 < found.low < found.gain < found.high
    assert "expect more right answers" in found.words
    assert f"{found.draft_only:.1%} of the mismatches" in found.words


def test_where_nothing_tells_no_gain_is_promised() -> None:
    found = outlook(branches(3000, 1, only_draft=0.01, telling=False))
    assert found is not None
    assert abs(found.gain) < 0.01
    assert "expect speed, not accuracy" in found.words
    few = outlook(branches(60, 2, only_draft=0.1, telling=False))
    assert few is not None
    assert "expect more right answers" not in few.words


def test_a_wide_interval_asks_for_more_questions() -> None:
    assert "take more questions" in Outlook(50, 200, 0.02, 0.05, 0.1, 0.0, -0.04, 0.04).words


def test_few_questions_say_nothing() -> None:
    assert outlook(branches(5, 3, only_draft=0.3, telling=True)) is None


def test_the_first_mismatch_above_the_bar_decides() -> None:
    one = branches(3, 4, only_draft=0.0, telling=False).where(torch.arange(15).flip(0))
    draft = torch.zeros(15, dtype=torch.bool)
    draft[one.place == 14] = True
    again = replace(one, with_draft=draft, with_target=one.place == 7)
    # By place: 0 and 28 are ties, 7 is lost, 14 is won.
    for accepted, change in (((14,), 1), ((7, 14), -1), ((0, 14), 0), ((14, 7), -1), ((), 0)):
        above = torch.isin(one.place, torch.tensor(accepted, dtype=torch.long)).float()
        assert _changes(again, above, 0.5).tolist() == [change] * 3
    assert 0 <= _best_bar(again, (one.place == 14).float()) < 1
    assert _best_bar(again, (one.place == 7).float()) == math.inf
