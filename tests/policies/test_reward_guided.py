"""Reward-guided decoding: which candidate is judged, what is accepted, and whole answers by it."""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch

import stet
import tiny
from stet.bundled import generate
from stet.core import trace
from stet.core.draft_length import FixedLength
from stet.core.errors import OptionError
from stet.core.limits import Limits
from stet.core.needs import Need
from stet.core.operations import Await
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.request import Request
from stet.policies import (
    Candidate,
    RewardGuided,
    Step,
    StepDecision,
    StepPolicy,
    available,
    parameters,
    resolve,
)
from stet.requests.methods import method_of
from stet.rewards import RewardHead
from stet.rewards.head import HeadNet

TARGET = tiny.llama(vocab=26, layers=1, seed=47)
DRAFT = tiny.near(TARGET, 0.05)
PROMPTS = [[(5 * i * i + n) % 26 for i in range(n)] for n in range(2, 6)]
COUNT = 24


class Given:
    """Gives the rewards it was made with."""

    name = "given"
    pair = None
    needs = frozenset[Need]()

    def __init__(self, *rewards: float) -> None:
        self.rewards = list(rewards)

    def rate(self, step: Step) -> Generator[Any, Any, list[float]]:
        assert len(step.candidates) == len(self.rewards)
        yield from ()
        return self.rewards


def judged(policy: RewardGuided, count: int = 1) -> StepDecision:
    many = [Candidate(TokenSequence([1]), letter) for letter in "abcdef"[:count]]
    with pytest.raises(StopIteration) as stop:
        next(policy.judge(Step(TokenSequence([1]), 0, many, tiny.unread, tiny.unasked)))
    return stop.value.value


def test_a_step_is_accepted_from_the_threshold_on():
    for reward, accepted in ((0.7, True), (0.6999, False), (1.0, True), (0.0, False)):
        acceptance = judged(RewardGuided(reward=Given(reward)))
        assert acceptance.accepted is accepted
        assert acceptance.reason == ("step rewarded" if accepted else "step rewritten")
        assert (acceptance.score, acceptance.threshold) == (reward, 0.7)
        assert acceptance.signals == acceptance.normalised == {"reward": reward}


def test_the_best_rewarded_candidate_is_judged_and_of_equals_the_first():
    policy = RewardGuided(reward=Given(0.2, 0.8, 0.8, 0.1), candidates=4, temperature=1.0)
    acceptance = judged(policy, 4)
    assert (acceptance.chosen, acceptance.score) == (1, 0.8)
    assert acceptance.details == [{"reward": r} for r in (0.2, 0.8, 0.8, 0.1)]


def test_of_the_targets_candidates_the_one_most_agree_on_is_taken():
    policy = RewardGuided(reward=Given(), target_candidates=4, temperature=1.0)
    said = [Candidate(TokenSequence([1]), text) for text in ("a = 1", "a = 2", "A =  2", "a = 3")]
    assert policy.select(said) == 1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"candidates": 0}, "candidates is 0"),
        ({"candidates": 2}, "temperature above 0"),
        ({"step_tokens": 0}, "step_tokens is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"delimiter": ""}, "delimiter is empty"),
        ({"reward": 3}, "reward is 3; give a name"),
        ({"reward": None}, "reward is None"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values: dict[str, Any], sentence: str):
    with pytest.raises(OptionError, match=sentence):
        RewardGuided(**{"reward": "bundled", **values})


def test_it_is_registered_with_the_published_threshold():
    assert RewardGuided in available()
    policy = resolve("reward-guided", {"delimiter": ["\n\n", "\n"]})
    assert isinstance(policy, StepPolicy)
    assert (policy.threshold, policy.lossless) == (0.7, False)
    assert policy.delimiter == ("\n\n", "\n")
    asked = SamplingParams(temperature=0.2, top_p=0.5, seed=7)
    assert policy.sampling(asked) == replace(asked, temperature=0.0, top_p=1.0)


def test_its_parameters_are_json_whatever_the_reward_is():
    def mine(prompt: str, steps: str, candidate: str) -> float:
        return 1.0

    for reward, name in (("a/b", "a/b"), (Given(1.0), "given"), (mine, mine.__qualname__)):
        written = json.loads(json.dumps(parameters(RewardGuided(reward=reward))))
        assert written["reward"] == name
    policy = RewardGuided(reward=mine)
    assert replace(policy, threshold=0.1).reward is policy.reward


# Whole answers


class Lines(tiny.Letters):
    """Letters, of which some are line breaks."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        text = super().decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text.translate({ord(c): "\n" for c in "abcdef"})


def request(place: int, policy: RewardGuided) -> Request:
    method = method_of(policy, None, has_draft=True)
    limits = Limits(COUNT, draft_length=FixedLength(4), room=240)
    sequence = TokenSequence(PROMPTS[place], SamplingParams(), limits, Lines())
    return Request(sequence, method.maker.program(sequence), rows=method.rows)


def run(*requests: Request) -> list[TokenSequence]:
    machine = tiny.engine(TARGET, DRAFT)
    tiny.run(machine, list(requests))
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())
    return [r.sequence for r in requests]


def by_length(prompt: str, steps: str, candidate: str) -> float:
    """Likes steps of even length."""
    return 0.9 if len(candidate) % 2 == 0 else 0.1


async def by_length_later(prompt: str, steps: str, candidate: str) -> float:
    return by_length(prompt, steps, candidate)


def expected(place: int) -> tuple[list[int], list[str]]:
    """Greedy text by the models alone, accepted where `by_length` likes it, and the decisions."""
    tokens, decisions = list(PROMPTS[place]), []
    while (room := len(PROMPTS[place]) + COUNT - len(tokens)) > 0:
        drafted = _step(DRAFT, tokens)
        accepted = by_length("", "", Lines().decode(drafted)) >= 0.7
        tokens += (drafted if accepted else _step(TARGET, tokens))[:room]
        decisions.append("accepted" if accepted else "rewritten")
    return tokens[len(PROMPTS[place]) :], decisions


def _step(model: Any, prefix: list[int]) -> list[int]:
    """A whole step, whatever there is room for."""
    written: list[int] = []
    while len(written) < 128:
        written += tiny.greedy(model, prefix + written, 1)
        text = Lines().decode(written)
        if text.strip("\n") and text.endswith("\n"):
            break
    return written


@pytest.mark.parametrize("reward", [by_length, by_length_later])
def test_rewarded_steps_are_the_drafts_and_the_others_the_targets(reward: Any):
    places = range(len(PROMPTS))
    sequences = run(*(request(n, RewardGuided(reward=reward)) for n in places))
    both = set()
    for place, sequence in zip(places, sequences, strict=True):
        answer, decisions = expected(place)
        assert sequence.answer == answer
        assert [s.decision for s in sequence.steps] == decisions
        assert [s.score for s in sequence.steps] == [
            0.9 if decision == "accepted" else 0.1 for decision in decisions
        ]
        both |= set(decisions)
    assert both == {"accepted", "rewritten"}


def test_a_shadow_run_writes_the_targets_text():
    (sequence,) = run(request(0, RewardGuided(reward=by_length, threshold=0.0, shadow=True)))
    assert sequence.answer == tiny.greedy(TARGET, PROMPTS[0], COUNT)
    assert {s.decision for s in sequence.steps} == {"accepted"}
    assert sequence.counters.accepted_steps == 0


def test_a_head_reads_the_states_that_the_candidates_tokens_were_drawn_from():
    torch.manual_seed(5)
    head = RewardHead(HeadNet(32, 8).eval(), None)
    (sequence,) = run(request(1, RewardGuided(reward=head, threshold=0.5)))
    tokens = list(PROMPTS[1])
    for record in sequence.steps:
        (candidate,) = record.candidates
        with torch.no_grad():
            whole = torch.tensor([[*tokens, *candidate.ids]])
            states = DRAFT.model(whole).last_hidden_state[0]
            chosen = states[len(tokens) - 1 : len(tokens) + len(candidate.ids) - 1]
            logit = head.net(chosen[None], torch.tensor([len(candidate.ids)]))
        assert record.score == pytest.approx(float(logit.sigmoid()), abs=1e-4)
        tokens = PROMPTS[1] + sequence.answer[: record.position + record.tokens]


def test_an_error_ends_its_own_request_alone():
    def fussy(prompt: str, steps: str, candidate: str) -> float:
        if len(prompt) == len(PROMPTS[1]):
            raise ValueError("too hard")
        return by_length(prompt, steps, candidate)

    machine = tiny.engine(TARGET, DRAFT)
    requests = [request(n, RewardGuided(reward=fussy)) for n in range(3)]
    for item in requests:
        machine.submit(item)
    while machine.busy:
        machine.step()
    assert "too hard" in str(requests[1].error)
    for place in (0, 2):
        assert requests[place].error is None
        assert requests[place].sequence.answer == expected(place)[0]
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())


# The bundled pair


@pytest.fixture(scope="module")
def pair() -> stet.Pair:
    return stet.load_pair(max_length=512, compile=False)


@pytest.mark.parametrize("reward", ["head", "bundled"])
def test_the_shipped_rewards_judge_the_bundled_pairs_steps(pair: stet.Pair, reward: str):
    prompts = [p.prompt for p in generate("stories", "validation", 4)]
    values = {"reward": reward}
    results = pair.generate(prompts, "reward-guided", policy_parameters=values, max_new_tokens=160)
    schema = trace.json_schema()
    for result in results:
        assert result.error is None
        record = json.loads(result.trace.to_json())
        jsonschema.validate(record, schema)
        assert record["settings"]["policy"]["reward"] == reward
        for step in record["steps"]:
            assert step["score"] == step["signals"]["reward"]
            assert (step["score"] >= 0.7) == (step["decision"] == "accepted")
    assert any(s.decision == "accepted" for r in results for s in r.trace.steps)


@pytest.mark.parametrize("reward", ["head", "bundled"])
def test_the_shipped_rewards_are_refused_by_another_pair(reward: str):
    pair = stet.load_pair(max_length=128, compile=False)
    pair.__dict__["fingerprint"] = "another"
    with pytest.raises(OptionError, match=f"The reward '{reward}' was trained for another pair"):
        pair.generate("x", RewardGuided(reward=reward))


def test_judging_by_text_asks_for_nothing_of_the_draft():
    policy = RewardGuided(reward=by_length)
    assert policy.needs == frozenset()
    program = policy.judge(
        Step(
            TokenSequence([1], decoder=Lines()),
            0,
            [Candidate(TokenSequence([1, 2], decoder=Lines()), "c")],
            tiny.unread,
            tiny.unasked,
        )
    )
    operation = next(program)
    assert isinstance(operation, Await)
    operation.awaitable.close()
