"""The page of a training: whole, escaped, and the same each time."""

import html

import pytest

from stet.arbiter import DEFAULT, FEATURES, Network
from stet.training.importance import importance
from stet.training.report import page
from training.record_example import example
from training.test_learning import world


def test_the_page_holds_everything_and_nothing_from_outside():
    text = page(example())
    for part in ("branches", "thresholds", "gradient", "features", "repeat"):
        assert f'id="{part}"' in text
    for name in DEFAULT:
        assert html.escape(FEATURES[name].says.split("'")[0]) in text
    assert "171" in text  # the chosen threshold's right answers
    assert "<b>sums</b>" not in text
    assert "&lt;b&gt;sums&lt;/b&gt;" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert page(example()) == text


def test_without_policy_gradient_there_is_no_such_section():
    text = page(example(rounds=0))
    assert 'id="gradient"' not in text
    assert "after policy gradient" not in text


def test_importance_is_what_shuffling_loses():
    import torch

    made = Network(2)
    with torch.no_grad():
        made.layers[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        made.layers[0].bias.fill_(-5.0)
    found = importance(made, world(2000, 0), [1, 1], 0.0)
    # Half of the decisions matter; shuffled, half of those come out wrong, of which half are
    # accepted that should not be and half the reverse.
    assert found[0] == pytest.approx(25, abs=4)
    assert found[1] == 0
    assert importance(made, world(2000, 0), [2], 0.0)[0] == pytest.approx(found[0], abs=3)
