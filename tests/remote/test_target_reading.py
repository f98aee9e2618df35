"""A remote target that says how probable steps are, or is asked about them: as the one here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from front import Body, Front, remote_pair
from stet.core.errors import OptionError, StetError
from stet.core.result import Result
from stet.pair import Pair
from stet.policies import SpecGuard, SpecReason, StepPolicy
from stet.programs.remote import ACCEPTED, UNANSWERED, UNREAD
from stet.programs.remote_writer import WRITTEN
from stet.programs.target_side import PREFERRED

pytestmark = pytest.mark.slow

LIMIT = 96
THRESHOLDS = (0.0, 0.1, 0.3, 0.7, 0.95, 1.0)
RATINGS = (0.0, 2.0, 4.0, 4.5, 9.0)


def no_prompt_logprobs(body: Body) -> str | None:
    return "no prompt_logprobs" if "prompt_logprobs" in body else None


def nothing_read(body: Body) -> str | None:
    return no_prompt_logprobs(body) or ("no echo" if "echo" in body else None)


def no_logprobs(body: Body) -> str | None:
    return "no logprobs" if "logprobs" in body or "prompt_logprobs" in body else None


def no_tokens(body: Body) -> str | None:
    return "texts only" if not isinstance(body["prompt"], str) else None


def no_tokens_and_echo_alone(body: Body) -> str | None:
    return no_tokens(body) or no_prompt_logprobs(body)


def writes_something(body: Body) -> str | None:
    return no_prompt_logprobs(body) or (None if body["max_tokens"] else "max_tokens is 0")


def few(body: Body) -> str | None:
    return "at most 5" if body.get("logprobs", 0) > 5 else None


FORMS = {
    "vllm": lambda body: None,
    "vllm, texts": no_tokens,
    "openai": no_prompt_logprobs,
    "openai, texts": no_tokens_and_echo_alone,
    "openai, a token at least": writes_something,
}


def same(
    away: Pair, here: Pair, texts: list[str], policy: StepPolicy, *, exactly: bool = True
) -> list[list[Result]]:
    """Results of both, which must decide and write alike.

    Args:
        away: the pair whose target is away.
        here: the same pair here.
        texts: what both are asked.
        policy: what both decide by.
        exactly: whether the same tokens are read; as texts, ends are not.
    """
    both = [p.generate(texts, policy, max_new_tokens=LIMIT) for p in (away, here)]
    for one, other in zip(*both, strict=True):
        assert one.error is None
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.token_ids == other.token_ids
        for mine, theirs in zip(one.steps, other.steps, strict=True):
            assert (mine.decision, mine.reason) == (theirs.decision, theirs.reason)
            assert mine.signals.keys() == theirs.signals.keys()
            if exactly:
                assert mine.signals == pytest.approx(theirs.signals, abs=2e-3)
    return both


def decisions(results: list[Result]) -> set[str]:
    return {step.decision for result in results for step in result.steps}


def test_read_steps_are_decided_as_here_at_every_threshold(
    away: Pair, here: Pair, texts: list[str], before: Front
):
    seen = set()
    for threshold in THRESHOLDS:
        policy = SpecGuard(scorer="target", target_threshold=threshold)
        results, _ = same(away, here, texts[:3], policy)
        seen |= decisions(results)
        for result in results:
            read = [s for s in result.steps if "target_min_margin" in s.signals]
            counters = result.counters
            assert read == result.steps
            rewritten = sum(s.decision == "rewritten" for s in result.steps)
            assert counters.target_requests == len(read) + rewritten
            sizes = [result.prompt_tokens + s.position + len(s.candidates[0].ids) for s in read]
            assert counters.target_read_tokens == sum(sizes)
            assert 0 < counters.target_read_seconds <= counters.target_seconds
            assert counters.target_passes == 0
    assert seen == {"accepted", "rewritten"}
    # What was read was given as tokens, so that none is cut otherwise.
    assert all(isinstance(b["prompt"], list) for b in before.seen if "prompt_logprobs" in b)


def test_a_band_between_two_thresholds_is_read(away: Pair, here: Pair, texts: list[str]):
    seen = set()
    for threshold, lower in ((0.8, 0.0), (0.95, 0.3)):
        policy = SpecGuard(threshold=threshold, lower=lower, target_threshold=0.3)
        results, _ = same(away, here, texts, policy)
        seen |= {step.reason for result in results for step in result.steps}
    assert {"step accepted", "step confirmed by the target", "step refused by the target"} <= seen


def test_what_the_target_agrees_with_is_not_written_again(
    before: Front, here: Pair, texts: list[str]
):
    policy = SpecGuard(scorer="target", target_threshold=1.0)
    with remote_pair(before.url) as away:
        results, _ = same(away, here, texts[:3], policy)
        continued = [b for b in before.seen if b.get("stop")]
        # What is written on from is the draft's own tokens, where there are any.
        assert {type(b["prompt"]) for b in continued} == {str, list}
        begun = 0
        for result in results:
            for step in (s for s in result.steps if s.decision == "rewritten"):
                stood = result.tokens[step.position : step.position + step.tokens]
                drafted = [t.id for t in stood if t.origin == "draft"]
                assert drafted == step.candidates[0].ids[: len(drafted)]
                assert {t.reason for t in stood[: len(drafted)]} <= {ACCEPTED}
                assert {t.reason for t in stood[len(drafted) :]} == {WRITTEN}
                assert all(t.p_target is None for t in stood)
                begun += bool(drafted)
        assert begun == sum(isinstance(b["prompt"], list) for b in continued) > 0
        # Where nothing is certain, all of it is the server's.
        before.tell()
        away.generate(texts[0], policy, max_new_tokens=LIMIT, presence_penalty=0.5)
        assert all(isinstance(b["prompt"], str) for b in before.seen if b.get("stop"))


@pytest.mark.parametrize("limit", [5, 23])
def test_limits_and_stop_strings_cut_what_was_agreed_on(
    away: Pair, here: Pair, texts: list[str], limit: int
):
    policy = SpecGuard(scorer="target", target_threshold=1.0)
    options: list[dict[str, Any]] = [
        {"max_new_tokens": limit},
        {"stop": " = ", "max_new_tokens": 60},
    ]
    for more in options:
        one, other = (p.generate(texts[1], policy, **more) for p in (away, here))
        assert (one.text, one.finish_reason, one.error) == (other.text, other.finish_reason, None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_reading_says_the_same(
    before: Front, here: Pair, texts: list[str], form: str
):
    before.tell(refuses=FORMS[form])
    with remote_pair(before.url) as away:
        for threshold in (0.3, 0.95):
            policy = SpecGuard(scorer="target", target_threshold=threshold)
            same(away, here, texts[:2], policy, exactly="texts" not in form)
    (*_, last) = (b for b in before.seen if b.get("prompt_logprobs") or b.get("echo"))
    assert isinstance(last["prompt"], str) == ("texts" in form)
    assert ("echo" in last) == ("openai" in form)


def test_several_candidates_are_read_where_one_is_chosen(away: Pair, here: Pair, texts: list[str]):
    policy = SpecGuard(candidates=3, temperature=0.7, scorer="target", target_threshold=0.2)
    for one, other in zip(
        *(p.generate(texts[:3], policy, max_new_tokens=40, seed=5) for p in (away, here)),
        strict=True,
    ):
        assert one.error is None
        first, second = one.steps[0], other.steps[0]
        assert [c.ids for c in first.candidates] == [c.ids for c in second.candidates]
        assert (first.decision, first.chosen) == (second.decision, second.chosen)
        assert first.score == pytest.approx(second.score, abs=2e-3)


# Questions


def test_questions_are_rated_as_here_at_every_threshold(
    away: Pair, here: Pair, texts: list[str], before: Front
):
    seen = set()
    for scoring in ("expected", "likeliest"):
        for threshold in RATINGS:
            results, _ = same(away, here, texts[:3], SpecReason(threshold, scoring))
            seen |= decisions(results)
            assert all(r.counters.target_requests >= len(r.steps) for r in results)
            assert all(r.counters.target_read_tokens > 0 for r in results)
    assert seen == {"accepted", "rewritten"}


def lists_two_answers(body: Body, answer: Any) -> None:
    """As if eight of the ten were not among its most probable tokens."""
    logprobs = answer["choices"][0]["logprobs"]
    if body["max_tokens"] == 1 and "echo" not in body and logprobs:
        logprobs["top_logprobs"] = [
            {token: p for token, p in top.items() if token in "12"}
            for top in logprobs["top_logprobs"]
        ]


@pytest.mark.parametrize("refuses", [few, no_tokens, no_prompt_logprobs])
def test_answers_that_are_not_listed_are_read(
    before: Front, here: Pair, texts: list[str], refuses: Any
):
    before.tell(refuses=refuses, alters=lists_two_answers)
    with remote_pair(before.url) as away:
        results, _ = same(away, here, texts[:1], SpecReason(4.5))
    assert results[0].counters.target_requests >= 9 * len(results[0].steps)


def test_where_nothing_is_read_what_is_listed_decides(before: Front, texts: list[str]):
    before.tell(refuses=nothing_read)
    with remote_pair(before.url) as away:
        (result,) = away.generate(texts[:1], SpecReason(0.0), max_new_tokens=LIMIT)
    assert result.error is None
    # The bundled target does not answer questions: often no digit is among its twenty.
    for step in result.steps:
        if step.reason == UNANSWERED:
            assert (step.decision, step.signals) == ("rewritten", {})
        else:
            assert 0 < step.signals["digit_probability"] <= 1


def test_a_target_that_lists_no_answer_writes_the_step(before: Front, here: Pair, texts: list[str]):
    def alters(body: Body, answer: Any) -> None:
        logprobs = answer["choices"][0]["logprobs"]
        if logprobs and logprobs["top_logprobs"]:
            logprobs["top_logprobs"] = [{"no": -0.1} for _ in logprobs["top_logprobs"]]

    before.tell(refuses=nothing_read, alters=alters)
    with remote_pair(before.url) as away:
        (result,) = away.generate(texts[:1], SpecReason(0.0), max_new_tokens=LIMIT)
    assert result.text == here.generate(texts[0], "target", max_new_tokens=LIMIT).text
    assert {(s.decision, s.reason) for s in result.steps} == {("rewritten", UNANSWERED)}


# Both steps


@pytest.mark.parametrize("refuses", [FORMS["vllm"], no_prompt_logprobs])
def test_both_steps_are_compared_as_here(before: Front, here: Pair, texts: list[str], refuses: Any):
    before.tell(refuses=refuses)
    reasons = set()
    with remote_pair(before.url) as away:
        for value in (-1000.0, 0.02, 1000.0):
            results, _ = same(away, here, texts[:3], SpecGuard.overruling(overrule=value))
            reasons |= {step.reason for result in results for step in result.steps}
    assert PREFERRED in reasons
    asked = [b for b in before.seen if b.get("stop")]
    # A step with which the target agrees to its end is not asked for.
    assert 0 < len(asked) < sum(len(r.steps) for r in results) * 3
    assert all(b["logprobs"] == 1 for b in asked)


def test_what_the_server_does_not_say_of_its_own_step_is_read(
    before: Front, here: Pair, texts: list[str]
):
    before.tell(refuses=lambda body: "no" if "logprobs" in body else None)
    with remote_pair(before.url) as away:
        same(away, here, texts[:3], SpecGuard.overruling(overrule=0.02))
    # Once refused, log-probabilities are not asked for again.
    assert sum("logprobs" in body for body in before.seen) <= len(texts)


# What a server writes


def test_the_trace_has_the_targets_probabilities_of_what_it_writes(
    away: Pair, here: Pair, texts: list[str], before: Front
):
    options: dict[str, Any] = {"max_new_tokens": LIMIT, "probabilities": True}
    for policy in ("target", SpecGuard(threshold=0.6)):
        both = [p.generate(texts[:4], policy, **options) for p in (away, here)]
        known = total = 0
        for one, other in zip(*both, strict=True):
            for mine, theirs in zip(one.tokens, other.tokens, strict=True):
                if mine.origin == "target":
                    total += 1
                    if mine.p_target is not None:
                        known += 1
                        assert mine.p_target == pytest.approx(theirs.p_target, abs=1e-3)
        assert known == total > 50
    before.tell()
    away.generate(texts[:1], "target", max_new_tokens=10)
    assert not any("logprobs" in body for body in before.seen)


def test_a_server_without_log_probabilities_writes_all_the_same(before: Front, texts: list[str]):
    before.tell(refuses=no_logprobs)
    with remote_pair(before.url) as away:
        results = [
            away.generate(texts[0], "target", max_new_tokens=20, probabilities=True)
            for _ in range(2)
        ]
    assert all(token.p_target is None for result in results for token in result.tokens)
    assert sum("logprobs" in body for body in before.seen) == 1


# What cannot be had


@pytest.mark.parametrize(
    ("policy", "refuses", "said"),
    [
        (SpecGuard(scorer="target"), nothing_read, "'specguard' has the target read steps.*lower"),
        (SpecGuard(threshold=0.9, lower=0.1), nothing_read, "does not say how probable a text is"),
        (SpecGuard.overruling(), nothing_read, "no overrule"),
        (SpecGuard.overruling(), no_tokens, "'specguard' compares .* leave out overrule"),
        (SpecReason(), no_logprobs, "'spec-reason' asks the target .* choose specguard"),
    ],
)
def test_what_a_server_cannot_say_is_told_before_anything_is_written(
    before: Front, texts: list[str], policy: StepPolicy, refuses: Any, said: str
):
    def refusing(body: Body) -> str | None:
        return nothing_read(body) or refuses(body) if refuses is no_logprobs else refuses(body)

    before.tell(refuses=refusing)
    with remote_pair(before.url) as away:
        for result in away.generate(texts, policy):
            assert re.search(said, result.error or "")
            assert before.url in (result.error or "")
            assert (result.text, result.counters.draft_passes) == ("", 0)
        with pytest.raises(OptionError, match=said):
            away.generate(texts[0], policy)
        count = len(before.seen)
        # The draft's own signals do.
        assert away.generate(texts[0], SpecGuard(threshold=0.6)).error is None
    assert count <= 8
    assert not any(body["max_tokens"] > 1 for body in before.seen[:count])


@dataclass(frozen=True)
class Undeclared(SpecGuard):
    """Has the target read steps, and does not say so."""

    @property
    def reads_target(self) -> bool:
        return False


def test_a_policy_that_does_not_say_what_it_asks_is_told_at_its_first_step(
    before: Front, texts: list[str]
):
    policy = Undeclared(scorer="target", target_threshold=0.0)
    before.tell(refuses=nothing_read)
    with remote_pair(before.url) as away, pytest.raises(StetError, match="does not say how prob"):
        away.generate(texts[0], policy)
    before.tell()
    with remote_pair(before.url) as away:
        assert away.generate(texts[0], policy, max_new_tokens=20).error is None


def test_a_server_that_cannot_be_asked_is_an_error_of_its_own(before: Front, texts: list[str]):
    before.tell(fails=lambda body: 503)
    with remote_pair(before.url, retries=1) as away:
        with pytest.raises(StetError, match="failed 2 times .*status 503"):
            away.generate(texts[0], SpecGuard(scorer="target"))
        before.tell()
        assert away.generate(texts[0], SpecGuard(scorer="target"), max_new_tokens=20).text


def test_a_step_that_begins_inside_a_token_is_written_by_the_target(
    before: Front, here: Pair, texts: list[str]
):
    """As by a target whose tokens are others, which are not cut where the draft's steps begin."""
    marks = "\n3 * 12"  # of the text by which a server shows what it can do

    def alters(body: Body, answer: Any) -> None:
        entries = answer["choices"][0].get("prompt_logprobs")
        if entries is None or marks in body["prompt"]:
            return
        places = [i for i, e in enumerate(entries) if e and _own(e)["decoded_token"] == "\n"]
        for place in places:
            if place + 1 < len(entries):  # a token for each line break and what follows it
                own, after = _own(entries[place]), _own(entries[place + 1])
                after["decoded_token"] = own["decoded_token"] + after["decoded_token"]
                own["decoded_token"] = ""

    before.tell(refuses=no_tokens, alters=alters)
    with remote_pair(before.url) as away:
        policy = SpecGuard(scorer="target", target_threshold=0.0)
        result = away.generate(texts[0], policy, max_new_tokens=LIMIT)
    assert result.text == here.generate(texts[0], "target", max_new_tokens=LIMIT).text
    assert {(s.decision, s.reason) for s in result.steps} == {("rewritten", UNREAD)}
    assert result.counters.target_read_tokens > 0


def _own(entry: dict[str, Any]) -> dict[str, Any]:
    return next(iter(entry.values()))


def test_a_server_with_other_tokens_is_sent_texts(before: Front, texts: list[str]):
    def alters(body: Body, answer: Any) -> None:
        if not isinstance(body["prompt"], str):  # these ids are other texts there
            for entry in answer["choices"][0].get("prompt_logprobs") or ():
                for of in (entry or {}).values():
                    of["decoded_token"] = "x" + of["decoded_token"]

    before.tell(alters=alters)
    with remote_pair(before.url) as away:
        policy = SpecGuard(scorer="target", target_threshold=0.3)
        assert away.generate(texts[0], policy, max_new_tokens=LIMIT).error is None
    read = [body["prompt"] for body in before.seen if "prompt_logprobs" in body]
    assert isinstance(read[0], list)
    assert all(isinstance(prompt, str) for prompt in read[1:])
    assert len(read) > 2
