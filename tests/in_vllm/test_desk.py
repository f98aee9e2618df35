"""Which policy decides about a request inside vLLM."""

from __future__ import annotations

import json

import pytest

from stet.arbiter import Arbiter
from stet.bundled import COSPEC
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.policies import CoSpec, Exact, TopK
from stet_vllm.desk import ENTRY, Desk, Settings, read_settings, usable


def desk(**settings) -> Desk:
    return Desk(read_settings(settings))


def test_by_default_the_exact_rule_decides():
    assert desk().choose(None).policy == Exact()
    assert desk().choose({"other": 1}).policy == Exact()


def test_the_operator_chooses_the_default():
    chosen = desk(policy="top-k:k=5,delta=0.5").choose({})
    assert (chosen.name, chosen.policy) == ("top-k", TopK(k=5, delta=0.5))


def test_a_request_chooses_by_name_with_parameters():
    some = desk(allow=["top-k"])
    assert some.choose({ENTRY: "top-k"}).policy == TopK()
    assert some.choose({ENTRY: "top-k:k=7"}).policy == TopK(k=7)
    assert some.choose({ENTRY: {"policy": "top-k", "delta": 2.0}}).policy == TopK(delta=2.0)
    assert some.choose({ENTRY: "block"}).name == "block"


def test_what_is_not_lossless_has_to_be_allowed():
    with pytest.raises(OptionError, match=r"'top-k' is not allowed.*block, exact"):
        desk().choose({ENTRY: "top-k"})
    assert desk(allow=["all"]).choose({ENTRY: "cospec"}).name == "cospec"
    # The operator's own default needs no permission, and gives none to others.
    lenient = desk(policy="cospec")
    assert lenient.choose(None).name == "cospec"
    with pytest.raises(OptionError, match="not allowed"):
        lenient.choose({ENTRY: "cospec:threshold=0.1"})


def test_named_policies_need_no_permission(tmp_path):
    Arbiter.load(COSPEC).save(tmp_path / "own")
    path = str(tmp_path / "own")
    some = desk(policy="mine", named={"mine": {"policy": "cospec", "arbiter": path}, "k": "top-k"})
    assert some.choose(None).policy == CoSpec(path)
    assert some.choose({ENTRY: "mine:threshold=0.9"}).policy == CoSpec(path, threshold=0.9)
    assert some.choose({ENTRY: "k"}).policy == TopK()
    assert [choice.name for choice in some.policies] == ["mine", "mine", "k"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("nope", "There is no policy 'nope'"),
        ("target", "There is no policy 'target'"),
        ("/etc/passwd.json", "There is no policy"),
        ("specguard", "whole steps or answers"),
        ("cascade", "whole steps or answers"),
        ("top-k:k=0", "k is 0"),
        ("top-k:k", "not of the form parameter=value"),
        ("top-k:size=3", "'size' of policy 'top-k' does not exist"),
        ("cospec:arbiter=/etc/passwd", "is set by the server's operator"),
        ("top-k:k=99999999999", "out of any range"),
        ("x" * 5000, "5000 characters"),
        (3, "is '3'; give a policy"),
        ({"k": 3}, "give a policy"),
        (["top-k"], "give a policy"),
    ],
)
def test_a_request_is_refused_in_one_sentence(asked, why):
    with pytest.raises(OptionError) as caught:
        desk(allow=["all"]).choose({ENTRY: asked})
    assert why in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"polcy": "exact"}, "polcy"),
        ({"policy": "specguard"}, "whole steps"),
        ({"policy": "nope"}, "nope"),
        ({"allow": ["nope"]}, "nope"),
        ({"allow": ["specguard"]}, "whole steps"),
        ({"named": {"mine": {"arbiter": "x"}}}, "names no policy"),
        ({"policy": "mine:k=3", "named": {"mine": "top-k"}}, "where it is named"),
        ({"trace": "yes"}, "trace"),
        ("cospec", "cannot be used"),
    ],
)
def test_settings_are_refused_in_one_sentence(settings, why):
    with pytest.raises(OptionError, match=why) as caught:
        Desk(read_settings(settings))
    assert "\n" not in str(caught.value)


class Looks(Exact):
    """A rule that reads what vLLM keeps to itself."""

    name = "looks"
    needs = frozenset({Need.TARGET_HIDDEN})


def test_what_vllm_does_not_hand_over_is_named():
    with pytest.raises(OptionError, match="'looks' reads the target's hidden states, which vLLM"):
        usable(Looks())


def test_settings_are_plain_json():
    given = {"policy": "cospec", "allow": ["top-k"], "named": {"a": "typical"}, "trace": False}
    assert read_settings(json.loads(json.dumps(given))) == Settings(**given)
