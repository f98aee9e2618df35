"""SpecGuard: what it asks for, how it picks a candidate, and how it scores one."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from stet.arbiter import Arbiter, Network
from stet.bundled import generate
from stet.core.block import Block, Reading, Statistics
from stet.core.errors import OptionError, StetError
from stet.core.needs import Need
from stet.core.operations import Operation, Score
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.load import load_pair
from stet.policies import (
    Candidate,
    Confident,
    CoSpec,
    SpecGuard,
    Step,
    StepDecision,
    StepPolicy,
    TokenPolicy,
    available,
    parameters,
    resolve,
)
from stet.requests.methods import method_of
from stet.signals import SIGNALS, centrality


def candidate(
    text: str = "", logprobs: tuple[float, ...] = (-0.5,), hidden: Tensor | None = None, **more
) -> Candidate:
    """A candidate; `hidden` is the mean over its tokens."""
    sequence = TokenSequence([1, 2])
    sequence.tokens += range(10, 10 + len(logprobs))
    numbers = Statistics(list(logprobs), [0.3] * len(logprobs), [1.0] * len(logprobs))
    states = None if hidden is None else torch.stack([hidden - 1, hidden + 1])
    return Candidate(sequence, text, more.pop("statistics", numbers), states, **more)


def judged(policy: SpecGuard, *candidates: Candidate, target: Any = None) -> StepDecision:
    """The decision; where the policy asks the target, these are its margins."""

    def read(place: int) -> Generator[Operation, Any, Reading]:
        assert target is not None, "the target was asked"
        assert place == policy.select(candidates)
        reading: Reading = yield Score(TokenSequence([1]), Block(1, known=[0]), None)
        return reading

    program = policy.judge(Step(TokenSequence([1, 2]), 0, candidates, read, tiny.unasked))
    try:
        next(program)
        program.send(Reading([-9.0, *target], list(target)))
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the target is asked once")


# Parameters

MANY: dict[str, Any] = {"temperature": 0.5}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"candidates": 0}, "candidates is 0; it must be a whole number from 1 on"),
        ({"candidates": 2.5, **MANY}, "candidates is 2.5"),
        ({"target_candidates": 0}, "target_candidates is 0"),
        ({"step_tokens": 0}, "step_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"candidates": 2}, "temperature above 0"),
        ({"target_candidates": 2}, "temperature above 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"selector": "best"}, "selector is 'best'; choose from vote, medoid, first"),
        ({"scorer": "both"}, "scorer is 'both'; choose from draft, target"),
        ({"signals": ()}, "signals is empty"),
        ({"signals": ("min_logprob", "luck")}, "no signal 'luck'; choose from .*agreement"),
        ({"signals": "luck"}, "no signal 'luck'"),
        ({"signals": ("min_logprob", "min_logprob")}, "'min_logprob' is named twice"),
        ({"weights": (1.0, 2.0)}, "weights has 2 entries for 1 signals"),
        ({"weights": (-1.0,)}, "weights must not be negative"),
        ({"weights": (0.0,)}, "nor all 0"),
        ({"weights": (math.nan,)}, "weights"),
        ({"ranges": ((0.0, 1.0),) * 2}, "ranges has 2 entries for 1 signals"),
        ({"ranges": ((1.0, 1.0),)}, "range of min_logprob needs two different numbers"),
        ({"ranges": ((1.0,),)}, "range of min_logprob"),
        ({"ranges": (3.0,)}, "range of min_logprob"),
        ({"ranges": (("a", "b"),)}, "range of min_logprob"),
        ({"ranges": ((0.0, math.inf),)}, "range of min_logprob"),
        ({"threshold": 1.1}, "threshold is 1.1; it must be between 0 and 1"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"lower": -0.1}, "lower is -0.1"),
        ({"lower": 0.8, "threshold": 0.7}, "lower is 0.8, above the threshold of 0.7"),
        ({"target_threshold": 2.0}, "target_threshold is 2.0"),
        ({"delimiter": ""}, "delimiter is empty"),
        ({"delimiter": []}, "delimiter is empty"),
        ({"delimiter": 3}, "delimiter is 3"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values: dict[str, Any], sentence: str):
    with pytest.raises(OptionError, match=sentence):
        SpecGuard(**values)


def test_values_at_the_ends_of_their_ranges_are_taken():
    SpecGuard(threshold=0.0, lower=0.0, target_threshold=1.0, step_tokens=1)
    SpecGuard(threshold=1.0, lower=1.0, signals=(), scorer="target")
    SpecGuard(weights=(0.0, 2), signals=("min_logprob", "agreement"), ranges=((1, 0), (0, 1)))


def test_lists_as_json_has_them_become_tuples():
    values = {
        "signals": ["min_logprob", "max_entropy"],
        "weights": [1, 3],
        "ranges": [[-2.0, 0.0], [3.0, 0.5]],
        "delimiter": ["\n\n", "\n"],
        "candidates": 4,
        "temperature": 0.7,
    }
    policy = resolve("specguard", json.loads(json.dumps(values)))
    assert policy == SpecGuard(
        signals=("min_logprob", "max_entropy"),
        weights=(1, 3),
        ranges=((-2.0, 0.0), (3.0, 0.5)),
        delimiter=("\n\n", "\n"),
        candidates=4,
        temperature=0.7,
    )
    assert len({policy, resolve("specguard", values)}) == 1
    assert resolve("specguard", parameters(policy)) == policy


def test_a_single_signal_may_be_given_by_itself():
    assert SpecGuard(signals="max_entropy").signals == ("max_entropy",)
    assert resolve("specguard", {"signals": "agreement"}) == SpecGuard(signals=("agreement",))


def test_it_is_registered_as_a_step_policy():
    assert SpecGuard in available()
    policy = resolve("specguard")
    assert isinstance(policy, StepPolicy)
    assert not isinstance(policy, TokenPolicy)
    assert not policy.lossless
    with pytest.raises(OptionError, match="no parameter 'tau'; it has: candidates"):
        resolve("specguard", {"tau": 1})


def test_it_needs_a_draft_model():
    with pytest.raises(OptionError, match="'specguard' needs a draft model"):
        method_of("specguard", None, has_draft=False)


@pytest.mark.parametrize(("draft", "target", "rows"), [(1, 1, 1), (2, 1, 3), (1, 4, 5), (6, 4, 7)])
def test_several_candidates_need_a_row_each_beside_their_parents(
    draft: int, target: int, rows: int
):
    values = {"candidates": draft, "target_candidates": target, "temperature": 1.0}
    method = method_of("specguard", values, has_draft=True)
    assert method.rows == rows
    assert method.settings["candidates"] == draft
    assert not method.lossless


def test_it_asks_for_what_its_signals_and_its_selector_use_and_no_more():
    logprobs, hidden = Need.DRAFT_LOGPROBS, Need.DRAFT_HIDDEN
    many = {"candidates": 2, "temperature": 1.0, "signals": "agreement"}
    assert SpecGuard().needs == {logprobs}
    assert SpecGuard(signals="agreement").needs == set()
    assert SpecGuard(selector="medoid").needs == {logprobs}
    assert SpecGuard(**many, selector="first").needs == set()
    assert SpecGuard(**many).needs == {logprobs}  # of equals the surest
    assert SpecGuard(**many, selector="medoid").needs == {logprobs, hidden}


def test_candidates_are_sampled_as_the_policy_says_and_otherwise_as_the_request_does():
    asked = SamplingParams(temperature=0.2, top_p=0.5, seed=7, repetition_penalty=1.2)
    found = SpecGuard(candidates=2, temperature=0.9, top_p=0.8).sampling(asked)
    assert found == SamplingParams(temperature=0.9, top_p=0.8, seed=7, repetition_penalty=1.2)


# Files


def write(path: Path, record: Any) -> Path:
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def test_a_calibration_is_loaded_as_it_was_saved(tmp_path: Path):
    policy = SpecGuard(
        signals=("min_logprob", "mean_entropy"),
        weights=(0.3, 0.7),
        ranges=((-3.0, -0.1), (2.0, 0.1)),
        threshold=0.42,
        lower=0.2,
        delimiter=("\n\n",),
    )
    record = {"policy": "specguard", "parameters": parameters(policy), "about": "anything"}
    loaded = SpecGuard.load(write(tmp_path / "policy.json", record))
    assert loaded == policy
    assert hash(loaded) == hash(policy)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ("{", "holds no policy"),
        ("[1, 2]", "holds no policy"),
        ({"policy": "specguard"}, "holds no policy"),
        ({"policy": "specguard", "parameters": 3}, "holds no policy"),
        ({"policy": "specguard", "parameters": [1]}, "holds no policy"),
        ({"policy": "exact", "parameters": {}}, "holds policy 'exact', not 'specguard'"),
        ({"policy": "specguard", "parameters": {"tau": 1}}, "parameter 'tau'"),
        ({"policy": "specguard", "parameters": {"threshold": 7}}, "threshold is 7"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, record: Any, sentence: str):
    with pytest.raises(OptionError, match=sentence):
        SpecGuard.load(write(tmp_path / "policy.json", record))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match=r"nothing\.json cannot be read"):
        SpecGuard.load(tmp_path / "nothing.json")
    with pytest.raises(OptionError, match="cannot be read"):
        SpecGuard.load(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match="holds no policy"):
        SpecGuard.load(tmp_path / "bytes.json")


# Picking


def picked(selector: str, *candidates: Candidate) -> int:
    return SpecGuard(candidates=9, temperature=1.0, selector=selector).select(candidates)


def test_the_vote_goes_to_what_most_candidates_say():
    texts = ["a = 3", "a = 4", "A =  4\n", "a = 5"]
    assert picked("vote", *(candidate(t) for t in texts)) == 1


def test_of_equals_the_surest_is_picked_and_then_the_first():
    def sure(text: str, p: float) -> Candidate:
        return candidate(text, (-0.1, math.log(p)))

    assert picked("vote", sure("a", 0.2), sure("b", 0.6), sure("c", 0.5)) == 1
    assert picked("vote", sure("a", 0.2), sure("b", 0.9), sure("a", 0.3)) == 2
    assert picked("vote", sure("a", 0.4), sure("b", 0.4)) == 0
    assert picked("vote", *(candidate(t, statistics=None) for t in "cab")) == 0


def test_the_first_is_the_first():
    assert picked("first", candidate("a", (-9.0,)), candidate("b"), candidate("b")) == 0


@pytest.mark.parametrize("count", [3, 4, 7])
def test_the_medoid_is_the_published_one(count: int):
    for seed in range(30):
        hidden = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
        cosine = torch.tensor(
            [[float(torch.dot(a, b) / a.norm() / b.norm()) for b in hidden] for a in hidden]
        )
        own = [float(cosine[j].exp()[j] / cosine[j].exp().sum()) for j in range(count)]
        found = picked("medoid", *(candidate("", hidden=h) for h in hidden))
        assert found == min(range(count), key=own.__getitem__)


def test_two_candidates_are_always_equally_central():
    hidden = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    first, second = centrality(hidden)
    assert first == pytest.approx(second)
    surer = [candidate("", (-2.0,), hidden=hidden[0]), candidate("", (-1.0,), hidden=hidden[1])]
    assert picked("medoid", *surer) == 1
    assert picked("medoid", *surer[::-1]) == 0


def test_rounding_does_not_choose_between_equals():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    noise = torch.tensor([3e-7, -2e-7])
    for sign in (-1, 1):
        around = [one, other, one + sign * noise, other - sign * noise]
        assert picked("medoid", *(candidate("", hidden=h) for h in around)) == 0


def test_without_hidden_states_the_medoid_is_a_vote():
    assert picked("medoid", candidate("a"), candidate("b"), candidate("b")) == 1


def test_an_encoder_of_ones_own_makes_the_embeddings():
    def encoder(texts: Any) -> list[list[float]]:
        return [[1.0, 0.1] if "a" in text else [0.0, 1.0] for text in texts]

    policy = SpecGuard(candidates=3, temperature=1.0, selector="medoid", encoder=encoder)
    assert Need.DRAFT_HIDDEN not in policy.needs
    away = torch.randn(4)
    candidates = [candidate("b", hidden=away), candidate("a 1", hidden=away), candidate("a 2")]
    assert awaited(policy.select(candidates)) == 1
    wrong = SpecGuard(candidates=3, temperature=1.0, selector="medoid", encoder=lambda t: [0.0])
    with pytest.raises(OptionError, match=r"shape \[1\] for 3 texts; it must be \[3, D\]"):
        awaited(wrong.select(candidates))
    failing = SpecGuard(candidates=3, temperature=1.0, selector="medoid", encoder=lambda t: 1 / 0)
    with pytest.raises(StetError, match="The encoder failed"):
        awaited(failing.select(candidates))


def awaited(program: Any) -> int:
    """What a program that awaits once returns."""
    operation = next(program)
    with pytest.raises(StopIteration) as stop:
        program.send(asyncio.run(operation.awaitable))
    return int(stop.value.value)


def test_one_candidate_has_no_others_to_be_close_to():
    assert centrality(torch.randn(1, 4)) == [0.0]
    assert picked("medoid", candidate("a", hidden=torch.randn(4))) == 0


# Scoring


def test_a_probability_is_its_own_score_without_a_calibration():
    acceptance = judged(SpecGuard(threshold=0.5), candidate("a", (math.log(0.6), math.log(0.9))))
    assert acceptance.score == pytest.approx(0.6)
    assert acceptance.signals == {"min_logprob": pytest.approx(math.log(0.6))}
    assert acceptance.normalised == {"min_logprob": pytest.approx(0.6)}
    assert (acceptance.accepted, acceptance.chosen) == (True, 0)
    assert (acceptance.reason, acceptance.threshold) == ("step accepted", 0.5)


@pytest.mark.parametrize(("p", "accepted"), [(0.69, False), (0.71, True)])
def test_a_step_is_accepted_from_the_threshold_on(p: float, accepted: bool):
    acceptance = judged(SpecGuard(threshold=0.7), candidate("a", (math.log(p),)))
    assert acceptance.accepted is accepted
    assert acceptance.reason == ("step accepted" if accepted else "step rewritten")
    exactly = judged(SpecGuard(threshold=0.5, ranges=((-2.0, 0.0),)), candidate("a", (-1.0,)))
    assert exactly.accepted


def test_the_score_is_the_weighted_mean_of_signals_in_their_ranges():
    policy = SpecGuard(
        signals=("min_logprob", "max_entropy", "min_margin"),
        weights=(1.0, 2.0, 5.0),
        ranges=((-2.0, 0.0), (0.8, 0.0), (0.0, 4.0)),
    )
    acceptance = judged(policy, candidate("a", (-0.5, -0.1)))
    # (-0.5 + 2) / 2, (0.3 - 0.8) / -0.8 and 1.0 / 4.
    assert acceptance.normalised == pytest.approx(
        {"min_logprob": 0.75, "max_entropy": 0.625, "min_margin": 0.25}
    )
    assert acceptance.score == pytest.approx((0.75 + 2 * 0.625 + 5 * 0.25) / 8)
    equal = SpecGuard(signals=policy.signals, ranges=policy.ranges)
    assert judged(equal, candidate("a", (-0.5, -0.1))).score == pytest.approx(1.625 / 3)


@pytest.mark.parametrize(("value", "unit"), [(-9.0, 0.0), (-2.0, 0.0), (-0.5, 1.0), (-0.1, 1.0)])
def test_values_outside_a_range_count_as_its_ends(value: float, unit: float):
    policy = SpecGuard(ranges=((-2.0, -0.5),))
    assert judged(policy, candidate("a", (value,))).score == unit


def test_every_signal_maps_to_the_unit_interval_by_itself():
    many = [candidate("a", (-3.0, -0.2)), candidate("b", (-0.1,))]
    for name, signal in SIGNALS.items():
        if signal.capture is None:
            policy = SpecGuard(candidates=2, temperature=1.0, signals=name)
            acceptance = judged(policy, *many)
            assert 0 <= acceptance.normalised[name] <= 1
            assert acceptance.signals[name] == signal.measure(many)[acceptance.chosen]


def test_the_chosen_candidate_is_judged_and_all_are_recorded():
    policy = SpecGuard(candidates=3, temperature=1.0, signals=("min_logprob", "agreement"))
    many = [candidate("a", (-0.1,)), candidate("b", (-3.0,)), candidate("b", (-2.0,))]
    acceptance = judged(policy, *many)
    assert acceptance.chosen == 2
    assert acceptance.signals == {"min_logprob": -2.0, "agreement": pytest.approx(2 / 3)}
    assert [d["min_logprob"] for d in acceptance.details] == [-0.1, -3.0, -2.0]
    assert acceptance.score == pytest.approx((math.exp(-2) + 2 / 3) / 2)


def test_with_a_signal_that_is_no_number_nothing_is_accepted():
    assert not judged(SpecGuard(threshold=0.0), candidate("a", (math.nan,))).accepted


# The target's own look


@pytest.mark.parametrize(
    ("p", "asked", "target", "accepted"),
    [
        (0.8, False, 0.0, True),
        (0.5, True, 0.4, True),
        (0.5, True, 0.2, False),
        (0.1, False, 1, False),
    ],
)
def test_between_the_thresholds_the_target_reads_the_step(
    p: float, asked: bool, target: float, accepted: bool
):
    policy = SpecGuard(threshold=0.7, lower=0.3, target_threshold=0.3)
    margins = (0.7, math.log(target)) if asked else None
    acceptance = judged(policy, candidate("a", (math.log(p), -0.01)), target=margins)
    assert acceptance.accepted == accepted
    assert acceptance.score == pytest.approx(p)
    assert ("target_min_margin" in acceptance.signals) == asked
    if asked:
        assert acceptance.signals["target_min_margin"] == pytest.approx(math.log(target))
        assert acceptance.signals["target_min_logprob"] == -9.0
        assert acceptance.reason == f"step {'confirmed' if accepted else 'refused'} by the target"


@pytest.mark.parametrize("signals", [(), ("min_logprob",)])
@pytest.mark.parametrize(("p", "accepted"), [(0.31, True), (0.29, False)])
def test_the_target_may_read_every_step(signals: tuple[str, ...], p: float, accepted: bool):
    policy = SpecGuard(scorer="target", signals=signals, target_threshold=0.3)
    acceptance = judged(policy, candidate("a", (-9.0, -9.0)), target=(math.log(p), 0.0))
    assert (acceptance.accepted, acceptance.threshold) == (accepted, 0.3)
    assert acceptance.score == pytest.approx(p)
    assert len(acceptance.details) == len(signals)


def test_what_the_target_would_have_written_itself_has_its_full_trust():
    policy = SpecGuard(scorer="target", target_threshold=1.0)
    assert judged(policy, candidate(), target=(0.0, 3.0)).score == 1.0
    assert judged(policy, candidate(), target=(0.0, 3.0)).accepted
    assert not judged(policy, candidate(), target=(-0.01, 3.0)).accepted


# Doubt


GREEDY_STEPS = [
    (-0.1, -0.7, -0.01, -2.0, -0.3),
    (-0.01,),
    (-1.5, -0.001),
    (-0.0, -0.0, -0.0, -3.0),
]


@pytest.mark.parametrize("signal", ["min_logprob", "sum_logprob", "worst_logprob", "max_entropy"])
@pytest.mark.parametrize("logprobs", GREEDY_STEPS)
def test_no_end_of_a_step_is_better_than_what_its_beginning_allows(
    signal: str, logprobs: tuple[float, ...]
):
    found = SIGNALS[signal]
    assert found.best is not None
    # A distribution whose best token has probability p has at least -log p of entropy.
    entropies = [-p * 1.0001 for p in logprobs]
    for length in range(1, len(logprobs) + 1):
        numbers = Statistics(list(logprobs[:length]), entropies[:length], [1.0] * length)
        (value,) = found.measure([candidate("", statistics=numbers)])
        for seen in range(length + 1):
            assert found.sign * found.best(logprobs[:seen]) >= found.sign * value - 1e-9


def test_doubt_never_refuses_what_would_have_stood():
    policy = SpecGuard(signals=("worst_logprob", "agreement"), weights=(3.0, 1.0), threshold=0.8)
    doubt = policy.doubt(SamplingParams())
    assert doubt is not None
    assert not doubt([])
    assert not doubt([-0.1])
    assert doubt([-3.0])
    for logprobs in GREEDY_STEPS:
        accepted = judged(policy, candidate("a", logprobs)).accepted
        assert not (accepted and any(doubt(logprobs[:n]) for n in range(len(logprobs))))


@pytest.mark.parametrize(
    "values",
    [
        {"shadow": True},
        {"whole": True},
        {"scorer": "target"},
        {"lower": 0.1},
        {"candidates": 2, "temperature": 0.5},
        {"temperature": 0.5},
    ],
)
def test_a_candidate_is_written_out_where_its_whole_is_looked_at(values: dict[str, Any]):
    assert SpecGuard(**values).doubt(SamplingParams()) is None


EDITS = [
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(frequency_penalty=0.1),
    SamplingParams(presence_penalty=-0.1),
    SamplingParams(logit_bias={7: 2.0}),
]


@pytest.mark.parametrize("sampling", EDITS, ids=["repetition", "frequency", "presence", "bias"])
def test_where_other_tokens_than_the_likeliest_are_written_their_surprise_bounds_no_entropy(
    sampling: SamplingParams,
):
    assert SpecGuard(signals=("max_entropy",)).doubt(sampling) is None
    both = SpecGuard(signals=("max_entropy", "min_logprob"), threshold=0.8)
    doubt, plain = both.doubt(sampling), both.doubt(SamplingParams())
    assert doubt is not None
    assert plain is not None
    # exp(-0.4) is 0.67: (0.67 + 0.67) / 2 is below the threshold, (1 + 0.67) / 2 is not.
    assert plain([-0.4])
    assert not doubt([-0.4])
    # (1 + exp(-0.6)) / 2 = 0.774
    assert doubt([-0.6])


def test_a_range_that_calls_little_good_knows_no_bound():
    upright, reversed_ = (
        SpecGuard(signals=("min_logprob",), ranges=(ends,), threshold=0.5)
        for ends in ((-2.0, 0.0), (0.0, -2.0))
    )
    doubt = upright.doubt(SamplingParams())
    assert doubt is not None
    assert doubt([-1.5])
    assert reversed_.doubt(SamplingParams()) is None
    assert judged(reversed_, candidate("a", [-1.5])).accepted


@pytest.mark.parametrize("sampling", [{"repetition_penalty": 1.3}, {"logit_bias": "colon"}])
def test_a_step_that_breaks_off_is_accepted_under_no_penalty_or_bias(sampling: dict[str, Any]):
    pair = load_pair(compile=False)
    prompts = [p.prompt for p in generate("stories", "validation", 12)]
    if "logit_bias" in sampling:
        banned = {t for word in ("=", "1", "2", "3") for t in pair.tokenizer.encode(word)}
        sampling = {"logit_bias": dict.fromkeys(banned, -4.0)}
    for signal in ("max_entropy", "min_logprob", "worst_logprob"):
        policy = SpecGuard(signals=(signal,), threshold=0.1)
        early, late = (
            pair.generate(prompts, p, max_new_tokens=60, **sampling)
            for p in (policy, replace(policy, whole=True))
        )
        for a, b in zip(early, late, strict=True):
            assert a.token_ids == b.token_ids
            for step in a.trace.steps[:-1]:
                assert step.decision == "rewritten" or step.candidates[0].text.endswith("\n")


# What verifies blocks inside rewritten steps


def test_inside_a_rewritten_step_another_token_policy_may_rule():
    pair = load_pair(compile=False)
    prompts = [p.prompt for p in generate("stories", "validation", 6)]
    rewrite = {"threshold": 1.0, "signals": ("min_logprob",)}
    options = {"max_new_tokens": 200, "draft_length": 5}
    plain = pair.generate(prompts, SpecGuard(**rewrite), **options)
    target = pair.generate(prompts, "target", max_new_tokens=200)
    assert [r.token_ids for r in plain] == [r.token_ids for r in target]
    lenient = pair.generate(prompts, SpecGuard(**rewrite, inner=Confident(-1.0)), **options)
    assert [r.token_ids for r in lenient] != [r.token_ids for r in target]
    reasons = {t.reason for r in lenient for t in r.trace.tokens}
    assert "accepted_mismatch" in reasons
    assert lenient[0].trace.settings.policy["inner"] == "confident"
    assert sum(r.counters.target_passes for r in lenient) < sum(
        r.counters.target_passes for r in plain
    )


def test_what_rules_inside_must_be_a_token_policy_of_the_same_pair():
    pair = load_pair(compile=False)
    for inner, sentence in (
        ("specguard", "inner is 'specguard'; it must be a token policy"),
        ("luck", "There is no policy 'luck'"),
        (
            CoSpec(Arbiter(Network(1), ("target_target",), pair="another")),
            "The arbiter 'arbiter' was trained for another pair",
        ),
    ):
        with pytest.raises(OptionError, match=sentence):
            pair.generate("1 + 1 =", SpecGuard(inner=inner), max_new_tokens=4)
