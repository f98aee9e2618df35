"""Policies by name: the built-in ones, a script's own, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from stet.core.errors import OptionError
from stet.policies import (
    BlockVerification,
    Exact,
    TokenPolicy,
    available,
    parameters,
    register,
    resolve,
)
from stet.policies.registry import POLICIES


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> type:
    """A policy with a parameter, registered for one test."""
    monkeypatch.setattr(POLICIES, "_classes", dict(POLICIES._classes))

    @register
    @dataclass(frozen=True)
    class Own(Exact):
        name: ClassVar[str] = "own"
        lossless: ClassVar[bool] = False
        limit: float = 0.5

    return Own


def test_the_built_in_policies_are_found_and_lossless():
    known = {cls.name: cls for cls in available()}
    assert known["exact"] is Exact
    assert known["block"] is BlockVerification
    for name in ("exact", "block"):
        policy = resolve(name)
        assert isinstance(policy, TokenPolicy)
        assert policy.lossless
        assert parameters(policy) == {}


def test_a_registered_policy_is_made_with_its_parameters(own: type):
    assert resolve("own") == own(0.5)
    assert parameters(resolve("own", {"limit": 0.7})) == {"limit": 0.7}
    assert own in available()


def test_a_finished_policy_passes_through(own: type):
    policy = own(0.3)
    assert resolve(policy) is policy
    with pytest.raises(OptionError, match="finished"):
        resolve(policy, {"limit": 0.1})


def test_unknown_names_and_parameters_are_refused_with_the_known_ones(own: type):
    with pytest.raises(OptionError, match=r"exact, .*own, .*typical"):
        resolve("exakt")
    with pytest.raises(OptionError, match="'threshold'; it has: limit"):
        resolve("own", {"threshold": 1})
    with pytest.raises(OptionError, match="it has: none"):
        resolve("exact", {"threshold": 1})


def test_two_policies_cannot_share_a_name(own: type):
    class Another(own):
        pass

    with pytest.raises(OptionError, match="exists already"):
        register(Another)


def test_a_class_of_the_same_name_elsewhere_does_not_take_a_policy_s_place():
    """A script's own `Typical` must not silently become everybody's `typical`."""

    @dataclass(frozen=True)
    class Typical(Exact):
        name: ClassVar[str] = "typical"

    Typical.__qualname__ = "Typical"
    with pytest.raises(OptionError, match=r"exists already \(stet.policies.typical\)"):
        register(Typical)


def test_an_entry_point_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch):
    @dataclass(frozen=True)
    class Elsewhere(Exact):
        name: ClassVar[str] = "elsewhere"

    class Entry:
        def load(self) -> type:
            return Elsewhere

    monkeypatch.setattr(POLICIES, "_classes", dict(POLICIES._classes))
    monkeypatch.setattr(POLICIES, "_entry_points_loaded", False)
    monkeypatch.setattr("stet.core.registry.entry_points", lambda group: [Entry()])
    assert resolve("elsewhere") == Elsewhere()


# What is refused at once


def test_a_class_that_derives_from_no_kind_of_policy_is_refused():
    class Plain:
        name: ClassVar[str] = "plain"

    with pytest.raises(OptionError, match="derive it from one of TokenPolicy, StepPolicy"):
        register(Plain)


def test_a_policy_without_its_method_is_refused():
    class Idle(TokenPolicy):
        name: ClassVar[str] = "idle"

    with pytest.raises(OptionError, match="no method 'verify'"):
        register(Idle)


def test_a_policy_without_a_name_is_refused():
    class Nameless(TokenPolicy):
        def verify(self, blocks):
            raise NotImplementedError

    with pytest.raises(OptionError, match="no `name`"):
        register(Nameless)


@pytest.mark.parametrize(
    ("attribute", "value", "advice"),
    [
        ("defer_bonus", True, "is it 'defers_bonus'"),
        ("need", frozenset(), "is it 'needs'"),
        ("block_invariance", property(lambda self: True), "is it 'block_invariant'"),
        ("verifys", lambda self, blocks: None, "is it 'verify'"),
        ("window", 3, "begin the names of your own with _"),
    ],
)
def test_a_misspelt_attribute_is_refused(attribute, value, advice):
    kind = type("Odd", (Exact,), {"name": "odd", attribute: value})
    with pytest.raises(OptionError, match=advice):
        register(kind)


def test_methods_and_private_names_of_its_own_are_a_policy_s_business(
    own: type, monkeypatch: pytest.MonkeyPatch
):
    kind = type("Fine", (own,), {"name": "fine", "_size": 3, "measure": lambda self: self._size})
    assert register(kind) in available()
