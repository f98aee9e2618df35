"""A limit or a stop string only ever cuts: what is written before it does not change."""

from __future__ import annotations

from typing import Any

import pytest

from stet.bundled import generate
from stet.load import load_pair
from stet.pair import Pair
from stet.policies import available

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "target": ("target", {}),
    "draft": ("draft", {}),
    "exact": ("exact", {}),
    "block": ("block", {}),
    "random": ("random", {"rate": 0.5}),
    "confident": ("confident", {}),
    "ensemble": ("ensemble", {}),
    "speculative-cascade": ("speculative-cascade", {}),
    "typical": ("typical", {}),
    "top-k": ("top-k", {}),
    "cosd": ("cosd", {}),
    "fuzzy": ("fuzzy", {}),
    "fly": ("fly", {"window": 3}),
    "cospec": ("cospec", {}),
    "cospec, not deferring": ("cospec", {"defers_bonus": False}),
    "autojudge": ("autojudge", {}),
    "specguard": ("specguard", {"threshold": 0.7}),
    "specguard, band": ("specguard", {"threshold": 0.9, "lower": 0.0}),
    "specguard, several": (
        "specguard",
        {
            "candidates": 3,
            "target_candidates": 2,
            "temperature": 0.8,
            "threshold": 0.6,
        },
    ),
    "specguard, fly": ("specguard", {"threshold": 0.95, "inner": "fly"}),
    "specguard, alone": ("specguard", {"threshold": 0.9, "speculate": False}),
    "specguard, entropy": ("specguard", {"signals": ("max_entropy",), "threshold": 0.6}),
    "reward-guided": ("reward-guided", {}),
    "spec-reason": ("spec-reason", {"threshold": 4.5, "step_tokens": 24}),
}
LIMITS = (1, 5, 13, 22, 40)
STOPS = ("\n", "=", " the ")
WHOLE = 64

QUICK = {"exact", "block", "fly", "cospec, not deferring", "specguard", "reward-guided"}
names = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in POLICIES]
)
samplings = pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.8, "seed": 7}], ids=["greedy", "sampled"]
)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair(compile=False, max_rows=40)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [p.prompt for p in generate("stories", "validation", 8)]


def test_every_policy_is_here():
    """Except those that decide about whole answers, of which the limit is a part."""
    names = {
        p.name for p in available() if not isinstance(p, type) or not hasattr(p, "accepts_answer")
    }
    assert names == {name for name, _ in POLICIES.values()} - {"target", "draft"}


@names
@samplings
def test_a_smaller_limit_cuts_the_same_text(
    pair: Pair, prompts: list[str], name: str, sampling: dict[str, Any]
):
    policy, parameters = POLICIES[name]
    options = {"policy_parameters": parameters, **sampling}
    whole = pair.generate(prompts, policy, max_new_tokens=WHOLE, **options)
    for count in LIMITS:
        for one, other in zip(
            pair.generate(prompts, policy, max_new_tokens=count, **options), whole, strict=True
        ):
            assert one.token_ids == other.token_ids[:count], f"at {count} tokens"
            assert one.error is None
            if count < len(other.token_ids):
                assert one.finish_reason == "length"


@names
@samplings
def test_a_stop_string_cuts_the_same_text(
    pair: Pair, prompts: list[str], name: str, sampling: dict[str, Any]
):
    policy, parameters = POLICIES[name]
    options = {"policy_parameters": parameters, "max_new_tokens": WHOLE, **sampling}
    whole = pair.generate(prompts, policy, **options)
    met = 0
    for stop in STOPS:
        for one, other in zip(
            pair.generate(prompts, policy, stop=[stop], **options), whole, strict=True
        ):
            assert one.text == other.text.partition(stop)[0], stop
            assert one.token_ids == other.token_ids[: len(one.token_ids)]
            if stop in other.text:
                met += 1
                assert one.finish_reason == "stop"
    assert met


@pytest.mark.parametrize(
    "name", ["specguard", "specguard, several", "specguard, fly", "reward-guided"]
)
@samplings
def test_steps_go_on_to_the_end_of_the_context_and_no_further(
    pair: Pair, prompts: list[str], name: str, sampling: dict[str, Any]
):
    policy, parameters = POLICIES[name]
    options = {"policy_parameters": parameters, "ignore_eos": True, "draft_length": 12, **sampling}
    small = load_pair(
        compile=False, max_rows=40, max_length=len(pair.tokenizer(prompts[0])["input_ids"]) + 40
    )
    result = small.generate(prompts[0], policy, **options)
    assert (len(result.token_ids), result.finish_reason) == (40, "length")
    whole = pair.generate(prompts[0], policy, max_new_tokens=WHOLE, **options)
    assert result.token_ids[:20] == whole.token_ids[:20]
