"""The plug-in in real engines of vLLM, on both model runners."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from engines import (
    Job,
    greedy,
    own_logprobs,
    prompts,
    run_engine,
    texts_equal,
    token_policies,
)

POLICIES = token_policies()
RUNNERS = {"older": False, "newer": True}
EVEN = str(Path(__file__).parents[3] / "benchmarks" / "pairs" / "draft-specialised")
"""A draft for the bundled target whose heads can be divided by two."""


@cache
def answers(newer: bool) -> Job:
    """All prompts by every policy, each policy in a batch of its own; then all policies mixed."""
    count = 4 if newer else len(prompts())  # interpreted kernels are slow
    some = [list(prompt) for prompt in prompts()[:count]]
    batches = [[greedy(prompt, policy) for prompt in some] for policy in POLICIES]
    mixed = [greedy(some[i % count], POLICIES[i % len(POLICIES)]) for i in range(16)]
    return run_engine([*batches, mixed], newer=newer)


def of(found: Job, policy: str) -> list[Job]:
    count = (len(found["found"]) - 16) // len(POLICIES)
    at = POLICIES.index(policy) * count
    return found["found"][at : at + count]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("policy", POLICIES)
def test_texts_are_those_of_stets_engine(runner, policy):
    found = of(answers(RUNNERS[runner]), policy)
    assert texts_equal(found, policy) == len(found)


@pytest.mark.parametrize("runner", RUNNERS)
def test_policies_differ_from_the_target(runner):
    found = answers(RUNNERS[runner])
    exact = [one["tokens"] for one in of(found, "exact")]
    differing = sum(
        [one["tokens"] for one in of(found, policy)] != exact
        for policy in ("top-k", "cospec", "confident")
    )
    assert differing


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_mixed_batch_decides_as_each_alone(runner):
    found = answers(RUNNERS[runner])
    count = (len(found["found"]) - 16) // len(POLICIES)
    for place, one in enumerate(found["found"][-16:]):
        alone = of(found, POLICIES[place % len(POLICIES)])[place % count]
        assert one["tokens"] == alone["tokens"]
        assert one["stet"] == alone["stet"]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("policy", ["exact", "top-k", "cospec"])
def test_each_token_says_who_wrote_it_and_why(runner, policy):
    found = of(answers(RUNNERS[runner]), policy)
    seen: Counter[tuple[str, str]] = Counter()
    for one in found:
        record = one["stet"]
        assert (record["policy"], record["lossless"]) == (policy, policy == "exact")
        assert [token["id"] for token in record["tokens"]] == one["tokens"]
        assert record["tokens"][0]["reason"] == "undrafted"
        seen.update((token["origin"], token["reason"]) for token in record["tokens"])
    assert seen["draft", "accepted"] > seen["target", "recovered"] > 0
    assert (seen["draft", "accepted_mismatch"] > 0) == (policy != "exact")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("policy", ["exact", "top-k"])
def test_metrics_count_what_policies_accepted(runner, policy):
    for one in of(answers(RUNNERS[runner]), policy):
        metrics = one["metrics"]
        from_draft = sum(token["origin"] == "draft" for token in one["stet"]["tokens"])
        # A stop may cut an answer inside its last block.
        assert 0 <= metrics["num_accepted_draft_tokens"] - from_draft < 6
        assert sum(metrics["per_step_accepted"]) == metrics["num_accepted_draft_tokens"]
    if policy == "top-k":
        whole = [of(answers(RUNNERS[runner]), policy)]
        blocks = [
            s for group in whole for one in group for s in one["metrics"]["per_step_accepted"]
        ]
        assert max(blocks) == 6  # a whole block that is held counts whole


def test_counters_of_the_engine_are_the_sum_of_its_requests():
    found = answers(newer=False)
    total = found["counters"]["vllm:spec_decode_num_accepted_tokens"]
    assert total == sum(one["metrics"]["num_accepted_draft_tokens"] for one in found["found"])


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_policy_that_raises_ends_nothing(runner):
    newer = RUNNERS[runner]
    some = [list(prompt) for prompt in prompts()[: 3 if newer else 8]]
    batch = [greedy(prompt, name) for prompt in some for name in ("failing", "exact")]
    found = run_engine([batch], newer=newer)["found"]
    failing, exact = found[::2], found[1::2]
    assert [one["tokens"] for one in failing] == [one["tokens"] for one in exact]
    told = [one["stet"].get("problem", "") for one in failing]
    assert any("ZeroDivisionError: two were accepted; 'exact' decided instead" in p for p in told)
    assert not any("problem" in one["stet"] for one in exact)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_request_is_refused_where_it_comes_in(runner):
    prompt = list(prompts()[0])
    batches = [[greedy(prompt, name)] for name in ("nope", "top-k", "specguard", "exact")]
    found = run_engine(batches, newer=RUNNERS[runner], settings={})["found"]
    assert "There is no policy 'nope'" in found[0]["refused"]
    assert "'top-k' is not allowed" in found[1]["refused"]
    assert "whole steps or answers" in found[2]["refused"]
    assert found[3]["tokens"]


def test_an_engine_that_does_not_ask_is_vllms_own():
    prompt = list(prompts()[0])
    found = run_engine([[greedy(prompt, "nope")]], settings=None)["found"]
    assert found[0]["tokens"]
    assert found[0]["stet"] is None


@pytest.mark.parametrize("runner", RUNNERS)
def test_penalties_change_what_is_decided_about(runner):
    newer = RUNNERS[runner]
    some = [list(prompt) for prompt in prompts()[: 2 if newer else 8]]
    batch = [
        greedy(prompt, "exact", presence_penalty=1.5, repetition_penalty=1.3) for prompt in some
    ]
    drafted = run_engine([batch], newer=newer)["found"]
    alone = run_engine([batch], newer=newer, draft=None, settings=None)["found"]
    assert [one["tokens"] for one in drafted] == [one["tokens"] for one in alone]


@pytest.mark.parametrize("runner", RUNNERS)
def test_log_probabilities_are_the_targets(runner):
    """Of each token, also where a whole block is held."""
    newer = RUNNERS[runner]
    some = [list(prompt) for prompt in prompts()[: 2 if newer else 8]]
    batch = [greedy(prompt, name, logprobs=1) for prompt in some for name in ("exact", "top-k")]
    found = run_engine([batch], newer=newer)["found"]
    for one in found:
        assert len(one["logprobs"]) == len(one["tokens"])
    for prompt, one in zip([p for p in some for _ in "ab"], found, strict=True):
        own = own_logprobs(prompt, one["tokens"])
        assert one["logprobs"] == pytest.approx(own, abs=1e-3)


def test_the_newer_runner_plans_ahead():
    """With asynchronous scheduling, texts and records are the same."""
    some = [list(prompt) for prompt in prompts()[:3]]
    batch = [greedy(prompt, name) for prompt in some for name in ("exact", "top-k")]
    ahead = run_engine([batch], newer=True, async_scheduling=True)
    plain = run_engine([batch], newer=True)
    assert ahead["found"] == plain["found"]
    assert ahead["ahead"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_ranks_rule_alike():
    """Of a tensor-parallel engine each rank decides; if they disagreed, texts would go astray."""
    some = [list(prompt) for prompt in prompts()[:6]]
    batch = [greedy(prompt, name) for prompt in some for name in ("exact", "top-k")]
    hot = {"temperature": 1.0, "seed": 3, "max_tokens": 24}
    batch += [greedy(prompt, name, **hot) for prompt in some for name in ("exact", "block")]
    two = run_engine([batch], ranks=2, draft=EVEN)["found"]
    one = run_engine([batch], draft=EVEN)["found"]
    equal = [a["tokens"] == b["tokens"] for a, b in zip(two, one, strict=True)]
    assert all(equal[:12])
    assert sum(equal[12:]) >= 10  # products of two halves are rounded otherwise


def test_the_end_of_the_context_is_reached():
    """There vLLM drafts without asking the draft."""
    prompt = list(prompts()[0])
    most = len(prompt) + 30
    names = ["exact", "top-k", "cospec"]
    batch = [greedy(prompt, name, max_tokens=30, ignore_eos=True) for name in names]
    found = run_engine([batch], max_model_len=most)["found"]
    assert [len(one["tokens"]) for one in found] == [30] * 3
