"""Telling pairs apart."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

import stet
from stet.core.errors import OptionError
from stet.models.fingerprint import fingerprint
from tiny import llama, loaded, near

pytestmark = pytest.mark.unit


def test_a_copy_is_the_same_model():
    model = llama()
    assert fingerprint(loaded(model)) == fingerprint(loaded(deepcopy(model)))


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


def test_the_same_weights_in_another_dtype_or_format_are_another_pair():
    """Also where no number changes: it is computed with in another way."""
    rounded = llama().to(torch.bfloat16)
    wide = deepcopy(rounded).float()
    half = deepcopy(wide).half()
    packed = deepcopy(wide)
    linear = packed.model.layers[0].mlp.up_proj
    # As quantised layers keep them: numbers and scales that are no parameters.
    weight = linear.weight.detach()
    del linear.weight
    linear.register_buffer("weight", weight)
    rescaled = deepcopy(packed)
    rescaled.model.layers[0].mlp.up_proj.register_buffer("scale", torch.ones(1))
    other = deepcopy(rescaled)
    other.model.layers[0].mlp.up_proj.scale *= 2
    found = [fingerprint(loaded(m)) for m in (rounded, wide, half, rescaled, other)]
    assert len(set(found)) == len(found)


def test_an_adapter_makes_another_pair():
    """Its own hash is part of it: what it changes may lie between the samples."""
    model = loaded(llama())
    one, other = (replace(model, adapter=name) for name in ("a", "b"))
    assert len({fingerprint(m) for m in (model, one, other)}) == 3


def test_what_was_fitted_to_the_bundled_pair_is_for_its_default_dtype():
    """In another one it is refused, with what to do about it."""
    for dtype in ("auto", "float32"):
        pair = stet.load_pair(dtype=dtype, compile=False)
        for policy in ("specguard.bundled", "cospec", "reward-guided"):
            assert pair.generate("1 + 1 = ", policy, max_new_tokens=4).error is None
    half = stet.load_pair(dtype="bfloat16", compile=False)
    for policy, advice in (
        ("specguard.bundled", "calibrate it for this one"),
        ("cospec", "train one for this pair"),
        ("reward-guided", "train a reward for this pair"),
    ):
        with pytest.raises(OptionError, match=f"{advice}.*another dtype.* makes another pair"):
            half.generate("1 + 1 = ", policy, max_new_tokens=4)
    assert half.generate("1 + 1 = ", max_new_tokens=4).error is None
