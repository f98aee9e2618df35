"""Telling pairs apart."""

from copy import deepcopy

import pytest
import torch

from stet.models.fingerprint import fingerprint
from tiny import llama, loaded, near

pytestmark = pytest.mark.unit


def test_the_same_weights_are_the_same_model_in_any_precision():
    model = llama()
    rounded = deepcopy(model).to(torch.bfloat16)
    wide = deepcopy(rounded).float()
    assert fingerprint(loaded(rounded)) == fingerprint(loaded(wide))


def test_other_weights_sizes_and_orders_are_other_pairs():
    model = llama()
    one, other = loaded(model), loaded(near(model, 0.1))
    large = loaded(llama(layers=3))
    found = {
        fingerprint(one, other),
        fingerprint(other, one),
        fingerprint(one, one),
        fingerprint(one, None),
        fingerprint(one, large),
    }
    assert len(found) == 5
    assert fingerprint(one, other) == fingerprint(loaded(model), loaded(near(model, 0.1)))
