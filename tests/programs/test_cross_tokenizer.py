"""Two models whose tokenizers differ, step by step: texts, costs, rows and records."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import torch

import stet
import tiny
import tongues
from feeding import Fed
from stet.core import trace
from stet.core.draft_length import FixedLength
from stet.core.errors import OptionError, TokenizerMismatch
from stet.core.operations import Await, Operation
from stet.core.sequence import TokenSequence
from stet.core.step_policy import StepPolicy
from stet.core.steps import LoopGuard, StepReader, ends_of
from stet.engine.drafting import OVERLAP
from stet.models.defaults import GenerationDefaults
from stet.models.loading import prepare_model
from stet.models.tokenizers import difference
from stet.pair import Pair
from stet.policies import RewardGuided, SpecGuard, SpecReason, Step, StepDecision
from stet.programs.cross_tokenizer import UNREADABLE, UNTRANSLATABLE
from stet.programs.target_side import CUT_SHORT
from stet.requests.chat import Rendered
from stet.requests.options import read_options
from stet.text.vocabulary import Vocabulary

COUNT, LENGTH = 40, 400
ENDS = (" ", "\n", "e", ".")
"""Delimiters that random models write now and then."""

ACCEPT = SpecGuard(threshold=0.0, delimiter=ENDS, step_tokens=6)
REWRITE = SpecGuard(threshold=1.0, delimiter=ENDS, step_tokens=6)
SOMETIMES = SpecGuard(threshold=0.12, delimiter=ENDS, step_tokens=6)
BAND = SpecGuard(threshold=0.4, lower=0.02, target_threshold=1e-4, delimiter=ENDS, step_tokens=6)
VOTING = SpecGuard(candidates=3, temperature=0.8, threshold=0.05, delimiter=ENDS, step_tokens=6)

PAIRS = [
    ("byte-level", "smaller"),
    ("byte-level", "unigram"),
    ("unigram", "byte-level"),
    ("byte-fallback", "prefix-space"),
    ("unigram", "byte-fallback"),
]
names = pytest.mark.parametrize("kinds", PAIRS, ids=" writes for ".join)
PROMPT = tongues.TEXTS[0]


@cache
def model(role: str, kind: str, wild: bool = False) -> Any:
    """A random model, which seldom writes what is no plain text unless it is wild."""
    tokenizer = tongues.KINDS[kind]()
    made = tiny.llama(vocab=len(tokenizer), layers=1, seed=5 if role == "target" else 6)
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    strange = torch.tensor([not text.replace("\n", " ").isprintable() for text in texts])
    strange |= torch.tensor([not text.isascii() for text in texts])
    made.lm_head.bias = torch.nn.Parameter((0.0 if wild else -4.0) * strange)
    # As configured, token 2 would be an end of the text, which is no special token here.
    made.config.eos_token_id = made.generation_config.eos_token_id = None
    return made


def loaded(role: Any, kind: str, wild: bool = False) -> Any:
    found = tiny.deepcopy(model(role, kind, wild))
    return prepare_model(
        found, tongues.KINDS[kind](), name=f"tiny-{role}", role=role, self_check=False
    )


def pair_of(kinds: tuple[str, str], wild: bool = False, **more: Any) -> Pair:
    target, draft = loaded("target", kinds[0], wild), loaded("draft", kinds[1], wild)
    apart = difference(target, draft)
    assert apart is not None
    sizes = {"max_length": LENGTH, "max_batch": 4, "compile": False, "difference": apart}
    return Pair(target, draft, **(sizes | more))


@cache
def pair(kinds: tuple[str, str], wild: bool = False) -> Pair:
    return pair_of(kinds, wild)


def decoded(kind: str, tokens: list[int]) -> str:
    return tongues.KINDS[kind]().decode(tokens, skip_special_tokens=True)


# What the program should do, by the models alone


@cache
def logits(role: str, kind: str, tokens: tuple[int, ...], wild: bool = False) -> torch.Tensor:
    with torch.inference_mode():
        return model(role, kind, wild)(torch.tensor([tokens])).logits[0, -1]


class Side:
    """The list of tokens of one model, written to greedily and without a cache."""

    def __init__(self, role: str, kind: str, prompt: str, wild: bool = False) -> None:
        self.role, self.kind, self.wild = role, kind, wild
        self.vocabulary = Vocabulary(loaded(role, kind))
        self.tokens = self.vocabulary.read(prompt)

    def step(self, room: int) -> list[int]:
        reader = StepReader(self.vocabulary.tokenizer, ends_of(ENDS), 6)
        written: list[int] = []
        while len(written) < room:
            written.append(self.next(written))
            if written[-1] in self.vocabulary.ends or reader.push(written[-1]):
                break
        return written

    def next(self, written: list[int]) -> int:
        return int(self.logits(written).argmax())

    def logits(self, written: list[int]) -> torch.Tensor:
        return logits(self.role, self.kind, (*self.tokens, *written), self.wild)

    def least(self, written: list[int]) -> float:
        found = [self.logits(written[:i]).softmax(-1)[t].item() for i, t in enumerate(written)]
        return min(found, default=1.0)

    def read(self, written: list[int]) -> str:
        return self.vocabulary.tokenizer.decode(written, skip_special_tokens=True)

    def ratio(self, written: list[int]) -> float:
        """The smallest ratio of a token's probability to that of the best one."""
        found = []
        for i, token in enumerate(written):
            probs = self.logits(written[:i]).softmax(-1)
            found.append((probs[token] / probs.max()).item())
        return min(found, default=1.0)

    def text(self, written: list[int]) -> str | None:
        return self.vocabulary.codec.text_after([*self.tokens, *written], len(self.tokens))

    def tokens_for(self, text: str | None) -> list[int] | None:
        return None if text is None else self.vocabulary.codec.tokens_after(self.tokens, text)


@dataclass
class Expected:
    answer: list[int]
    accepted: list[bool] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


def expected(
    kinds: tuple[str, str], prompt: str, policy: SpecGuard, count: int, wild: bool = False
) -> Expected:
    target, draft = (
        Side(role, kind, prompt, wild)
        for role, kind in zip(("target", "draft"), kinds, strict=True)
    )
    found = Expected([])
    answer, ends = found.answer, target.vocabulary.ends
    alone, guard = False, LoopGuard()
    while len(answer) < count and not (answer and answer[-1] in ends):
        if alone:
            answer.append(target.next([]))
            target.tokens.append(answer[-1])
            continue
        candidate = draft.step(10**6)
        ended = candidate[-1] in draft.vocabulary.ends
        translated = target.tokens_for(draft.text(candidate))
        accepted = False
        if translated is not None:
            translated += [target.vocabulary.end] if ended else []
            score = draft.least(candidate)
            accepted = score >= policy.threshold
            if not accepted and policy.lower is not None and score >= policy.lower:
                accepted = target.ratio(translated) >= policy.target_threshold
        if accepted:
            assert translated is not None
            written = translated[: count - len(answer)]
            draft.tokens += candidate
        else:
            written = target.step(count - len(answer))
            while (
                target.text(written) is None
                and len(answer) + len(written) < count
                and written[-1] not in ends
            ):
                written.append(target.next(written))
            text = target.text(written)
            heard = draft.tokens_for(text)
            alone = heard is None
            draft.tokens += heard or []
        answer += written
        target.tokens += written
        found.accepted.append(accepted)
        found.lengths.append(len(written))
        read = draft.read(candidate) if accepted else target.read(written)
        if guard.push(read, drafted=accepted) or (ended and accepted):
            break
    return found


# The program at work


@dataclass(frozen=True)
class Comparing(StepPolicy):
    """Accepts and rewrites in turns, and compares both lists of tokens at every step."""

    kinds: tuple[str, str]
    seen: list[tuple[str, str]] = field(default_factory=list)
    delimiter: tuple[str, ...] = ENDS
    step_tokens: int = 6
    candidates: int = 1
    target_candidates: int = 1
    shadow: bool = False
    needs: frozenset = frozenset()

    name: ClassVar[str] = "comparing"
    lossless: ClassVar[bool] = False

    def sampling(self, base):
        return base

    def select(self, candidates):
        return len(candidates) - 1

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        side = step.candidates[0].sequence.parent
        self.compare(step.sequence, side)
        candidate = step.candidates[0]
        both = zip(
            (side.tokens + candidate.tokens, step.sequence.tokens + candidate.target_tokens),
            (side, step.sequence),
            reversed(self.kinds),
            strict=True,
        )
        added = {
            decoded(kind, whole).removeprefix(decoded(kind, sequence.tokens))
            for whole, sequence, kind in both
        }
        assert len(added) == 1
        return StepDecision(0, accepted=bool(step.index % 3), reason="in turns")
        yield

    def compare(self, main: Any, side: Any) -> None:
        texts = []
        for kind, sequence in zip(self.kinds, (main, side), strict=True):
            prompt = decoded(kind, sequence.tokens[: sequence.prompt_length])
            whole = decoded(kind, sequence.tokens)
            assert whole.startswith(prompt)
            texts.append(whole[len(prompt) :])
        self.seen.append((texts[0], texts[1]))


@names
def test_both_lists_read_alike_at_every_step(kinds: tuple[str, str]):
    steps = 0
    for n, prompt in enumerate(tongues.TEXTS):
        policy = Comparing(kinds)
        sampling = {"temperature": 1.0, "seed": n} if n % 2 else {}
        pair(kinds).generate(prompt, policy, max_new_tokens=80, ignore_eos=True, **sampling)
        for main, side in policy.seen:
            assert main == side
        steps += len(policy.seen)
    assert steps > 20


@names
@pytest.mark.parametrize("wild", [False, True], ids=["plain", "wild"])
@pytest.mark.parametrize("policy", [ACCEPT, REWRITE, SOMETIMES, BAND], ids="arsb")
def test_greedy_texts_are_what_the_models_say_without_a_cache(
    kinds: tuple[str, str], policy: SpecGuard, wild: bool
):
    prompts = list(tongues.TEXTS[wild:2])
    results = pair(kinds, wild).generate(prompts, policy, max_new_tokens=COUNT)
    for prompt, result in zip(prompts, results, strict=True):
        assert result.error is None
        reference = expected(kinds, prompt, policy, COUNT, wild)
        assert result.token_ids == reference.answer
        steps = result.trace.steps
        assert [s.tokens for s in steps] == reference.lengths
        assert [s.decision == "accepted" for s in steps] == reference.accepted
    runners = pair(kinds, wild).engine.runners.values()
    assert all(runner.rows_in_use == 0 for runner in runners)


@names
def test_a_text_depends_on_nothing_but_its_own_request(kinds: tuple[str, str]):
    prompts, options = list(tongues.TEXTS[:3]), {"max_new_tokens": 30, "seed": 3}
    many = pair_of(kinds, max_rows=20)
    together = many.generate(prompts, VOTING, **options)
    for prompt, result in zip(prompts, together, strict=True):
        alone = many.generate(prompt, VOTING, max_new_tokens=30, seed=result.seed)
        assert alone.token_ids == result.token_ids
        texts = [[c.text for c in r.trace.steps[0].candidates] for r in (alone, result)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("policy", [SOMETIMES, BAND, VOTING], ids="sbv")
def test_a_limit_only_cuts(policy: SpecGuard):
    prompts = list(tongues.TEXTS[:2])
    machine = pair_of(PAIRS[0], max_rows=20)
    options = {"seed": 3, "ignore_eos": True}
    whole = machine.generate(prompts, policy, max_new_tokens=COUNT, **options)
    for count in (1, 4, 9, 17, 30):
        cut = machine.generate(prompts, policy, max_new_tokens=count, **options)
        assert [r.token_ids for r in cut] == [r.token_ids[:count] for r in whole]


def test_a_draft_that_goes_in_circles_is_stopped_and_the_target_is_not():
    options = {"max_new_tokens": COUNT, "ignore_eos": True}
    for policy, ending in ((ACCEPT, "loop"), (REWRITE, "length")):
        # Where one step of the draft's is one too many, the first that is accepted is a circle.
        result = pair(PAIRS[0]).generate(PROMPT, replace(policy, loop_after=1), **options)
        assert result.finish_reason == ending
        assert (len(result.trace.steps) == 1) == (ending == "loop")


def test_a_candidate_that_breaks_off_is_rejected_whatever_the_policy_says():
    kinds = PAIRS[0]
    policy = tiny.Stumps(delimiter="no such text", step_tokens=6)
    options = {"max_new_tokens": COUNT, "ignore_eos": True}
    result = pair(kinds).generate(PROMPT, policy, draft_length=2, **options)
    target = pair(kinds).generate(PROMPT, "target", **options)
    assert max(len(s.candidates[0].ids) for s in result.trace.steps) < 6
    assert {(s.decision, s.reason) for s in result.trace.steps} == {("rewritten", CUT_SHORT)}
    assert result.token_ids == target.token_ids


# Policies that read what was written


@names
def test_a_reward_is_shown_the_text_by_whoever_wrote_it(kinds: tuple[str, str]):
    shown: list[tuple[str, str, str]] = []

    def reward(prompt: str, steps: str, candidate: str) -> float:
        shown.append((prompt, steps, candidate))
        return len(shown) % 2

    policy = RewardGuided(reward=reward, delimiter=ENDS, step_tokens=6)
    result = pair(kinds).generate(PROMPT, policy, max_new_tokens=COUNT)
    assert result.error is None
    own = tongues.KINDS[kinds[0]]()
    prompt = own(PROMPT)["input_ids"]
    start = own.decode(prompt, skip_special_tokens=True)
    judged = [s for s in result.trace.steps if s.signals]
    assert len(judged) == len(shown) > 3
    for (before, steps, candidate), record in zip(shown, judged, strict=True):
        upto = [*prompt, *result.token_ids[: record.position]]
        assert before == start
        assert before + steps == own.decode(upto, skip_special_tokens=True)
        span = result.token_ids[record.position :][: record.tokens]
        if record.decision == "accepted" and record is not result.trace.steps[-1]:
            assert own.decode([*upto, *span], skip_special_tokens=True) == (
                before + steps + candidate
            )


def test_the_target_rates_a_step_in_its_own_tokens():
    kinds = ("byte-level", "unigram")
    question = "\nRate:\n"
    policy = SpecReason(
        question=question,
        threshold=4.5,
        scoring="expected",
        candidates=2,
        temperature=0.9,
        delimiter=ENDS,
        step_tokens=6,
    )
    machine = pair_of(kinds, max_rows=12)
    result = machine.generate(PROMPT, policy, max_new_tokens=24, ignore_eos=True)
    assert result.error is None
    own = tongues.KINDS["byte-level"]()
    codec = Vocabulary(loaded("target", "byte-level")).codec
    asked = own(question)["input_ids"]
    digits = [own(digit)["input_ids"][0] for digit in "0123456789"]
    rated = 0
    for record in result.trace.steps:
        upto = [*own(PROMPT)["input_ids"], *result.token_ids[: record.position]]
        for candidate in record.candidates:
            # A space that this draft's decoder strips where a text begins may have stood here.
            found = []
            for text in (candidate.text, " " + candidate.text):
                said = codec.tokens_after(upto, text) or []
                probabilities = logits("target", "byte-level", (*upto, *said, *asked))[
                    digits
                ].softmax(-1)
                found.append((probabilities * torch.arange(10)).sum().item())
            near = [abs(value - candidate.signals["utility"]) < 1e-3 for value in found]
            assert any(near)
            rated += 1
    assert rated > 6
    assert result.counters.target_passes >= rated


# Ends


def test_a_step_that_ends_the_drafts_answer_ends_the_answer():
    kinds = ("byte-level", "unigram")
    target, draft = pair(kinds).tokenizer, tongues.KINDS["unigram"]()
    end = draft.eos_token_id
    biased = pair_of(kinds)
    runner = biased.engine.runners["draft"]
    # Its own end is what this draft likes best from the start.
    runner.model.head.linear.bias.data[end] = 1e4
    result = biased.generate(PROMPT, ACCEPT, max_new_tokens=20)
    assert (result.text, result.finish_reason) == ("", "stop")
    assert result.token_ids == [target.eos_token_id]
    (step,) = result.trace.steps
    assert (step.tokens, step.draft_tokens, step.candidates[0].ids) == (1, 1, [end])
    judged = biased.generate(PROMPT, SpecGuard(scorer="target", target_threshold=0.0))
    assert judged.token_ids == [target.eos_token_id]
    asked = logits("target", kinds[0], tuple(target(PROMPT)["input_ids"])).log_softmax(-1)
    found = judged.trace.steps[0].signals["target_min_logprob"]
    assert found == pytest.approx(asked[target.eos_token_id].item(), rel=1e-3)
    # Where ends are ignored this draft says nothing at all, and goes in circles.
    endless = biased.generate(PROMPT, ACCEPT, max_new_tokens=20, ignore_eos=True)
    assert (endless.token_ids, endless.finish_reason) == ([], "loop")


@names
def test_an_answer_is_as_long_as_asked_for(kinds: tuple[str, str]):
    for policy in (ACCEPT, REWRITE):
        for count in (1, 7, 8):
            result = pair(kinds).generate(PROMPT, policy, max_new_tokens=count, ignore_eos=True)
            assert (len(result.token_ids), result.finish_reason) == (count, "length")


def test_a_token_that_ends_the_drafts_answers_may_occur_in_the_targets_text():
    kinds = ("byte-level", "smaller")
    ends = range(1, len(tongues.KINDS["smaller"]()), 2)
    machine = pair_of(kinds)
    machine.draft.model.generation_config.eos_token_id = list(ends)
    policy = SpecGuard(threshold=1.0, delimiter=ENDS, step_tokens=6)
    result = machine.generate(PROMPT, policy, max_new_tokens=COUNT)
    assert result.token_ids == expected(kinds, PROMPT, policy, COUNT).answer
    accepted = machine.generate(PROMPT, ACCEPT, max_new_tokens=COUNT)
    assert accepted.finish_reason == "stop"
    # Of such a token the text is no part.
    last = accepted.trace.steps[-1].candidates[0]
    assert last.ids[-1] in ends
    assert accepted.text.endswith(decoded("smaller", last.ids[:-1]))
    assert accepted.token_ids[-1] == machine.tokenizer.eos_token_id


def test_a_full_list_of_the_drafts_tokens_ends_the_answer():
    # The draft's tokens are shorter, so its list is full first.
    narrow = pair_of(("byte-level", "smaller"), max_length=140)
    side = len(tongues.KINDS["smaller"]()(PROMPT)["input_ids"])
    main = len(tongues.KINDS["byte-level"]()(PROMPT)["input_ids"])
    assert side > main
    result = narrow.generate(PROMPT, ACCEPT, ignore_eos=True)
    assert result.finish_reason == "length"
    assert sum(s.draft_tokens for s in result.trace.steps) == 140 - side
    assert len(result.token_ids) < 140 - main
    with pytest.raises(OptionError, match="leaves no room for an answer"):
        pair_of(("byte-level", "smaller"), max_length=side).generate(PROMPT, ACCEPT)


@names
@pytest.mark.parametrize("policy", [ACCEPT, REWRITE, SOMETIMES], ids="ars")
def test_stop_strings_end_the_answer(kinds: tuple[str, str], policy: SpecGuard):
    whole = pair(kinds).generate(PROMPT, policy, max_new_tokens=COUNT).text
    for width in (1, 5):
        stop = whole[len(whole) // 2 :][:width]
        options = {"stop": stop, "max_new_tokens": COUNT}
        result = pair(kinds).generate(PROMPT, policy, **options)
        assert result.text == whole[: whole.index(stop)]
        assert result.finish_reason == "stop"
        pieces = list(pair(kinds).stream(PROMPT, policy, **options))
        assert "".join(chunk.text for chunk in pieces) == result.text


# Where text cannot be exchanged


def test_a_step_that_the_target_cannot_say_is_rewritten():
    # This target has no bytes, so what the draft writes in them means nothing to it.
    result = pair(("unigram", "byte-level"), wild=True).generate(
        list(tongues.TEXTS), ACCEPT, max_new_tokens=COUNT
    )
    steps = [s for r in result for s in r.trace.steps]
    rewritten = [s for s in steps if s.decision == "rewritten"]
    assert rewritten
    assert {s.reason.removesuffix(UNREADABLE) for s in rewritten} == {UNTRANSLATABLE}
    assert {s.decision for s in steps} == {"accepted", "rewritten"}
    assert all(s.signals == {} and s.draft_tokens for s in rewritten)


def test_behind_a_step_that_the_draft_cannot_read_the_target_writes_alone():
    found = 0
    for result in pair(("byte-level", "unigram"), wild=True).generate(
        list(tongues.TEXTS), REWRITE, max_new_tokens=COUNT, ignore_eos=True
    ):
        last = result.trace.steps[-1]
        if last.reason.endswith(UNREADABLE):
            found += 1
            assert last.position + last.tokens < COUNT == len(result.token_ids)
            assert {t.origin for t in result.tokens[last.position :]} <= {"target", "draft"}
    assert found


# What it costs


@names
def test_accepted_steps_cost_the_target_nothing_and_the_draft_reads_each_token_once(
    kinds: tuple[str, str], fed: Fed
):
    result = pair(kinds).generate(PROMPT, ACCEPT, max_new_tokens=COUNT)
    steps, counters = result.trace.steps, result.counters
    if any(s.decision == "rewritten" for s in steps):
        pytest.skip("a step could not be said in the target's tokens")
    prompt = len(tongues.KINDS[kinds[1]]()(PROMPT)["input_ids"])
    written = sum(s.draft_tokens for s in steps)
    assert fed.target == counters.target_passes == 0
    assert fed.draft == prompt - OVERLAP + written + fed.drafts
    assert counters.draft_passes == written


@names
def test_neither_model_reads_a_prefix_again(kinds: tuple[str, str], fed: Fed):
    for prompt in tongues.TEXTS[:3]:
        fed.target = fed.draft = fed.drafts = 0
        result = pair(kinds).generate(prompt, SOMETIMES, max_new_tokens=COUNT)
        steps, counters = result.trace.steps, result.counters
        target, draft = (len(tongues.KINDS[kind]()(prompt)["input_ids"]) for kind in kinds)
        accepted = sum(s.tokens for s in steps if s.decision == "accepted")
        assert fed.target <= target + accepted + counters.drafted_tokens + counters.target_passes
        written = sum(s.draft_tokens for s in steps)
        codec = Vocabulary(loaded("draft", kinds[1])).codec
        told = [codec.tokens_after([1], t) or [] for s in steps for t in s.target_candidates]
        # An overlap more for each step that begins behind tokens which others wrote.
        overlaps = fed.drafts + sum(s.decision == "rewritten" for s in steps)
        # Text that follows other tokens may be cut a little differently.
        slack = 2 * len(told)
        assert fed.draft <= draft + written + sum(map(len, told)) + overlaps + slack
        assert accepted or told


def test_a_band_has_the_target_read_a_step_once(fed: Fed):
    kinds = ("byte-level", "smaller")
    policy = SpecGuard(
        threshold=1.0, lower=0.0, target_threshold=0.0, delimiter=ENDS, step_tokens=6
    )
    result = pair(kinds).generate(PROMPT, policy, max_new_tokens=COUNT, ignore_eos=True)
    steps = result.trace.steps
    prompt = len(tongues.KINDS["byte-level"]()(PROMPT)["input_ids"])
    read = [s for s in steps if s.decision == "accepted"]
    assert len(read) > 3
    assert {s.reason for s in read} == {"step confirmed by the target"}
    if len(read) == len(steps):
        assert result.counters.target_passes == len(steps)
        cut = fed.target - (prompt - 1 + COUNT + len(steps))
        assert 0 <= cut < 6  # of the last step, what was over the limit
    for record in read[:-1]:
        own = result.token_ids[record.position :][: record.tokens]
        before = Side("target", "byte-level", PROMPT)
        before.tokens += result.token_ids[: record.position]
        found = record.signals["target_min_logprob"]
        asked = torch.tensor(before.least(own)).log().item()
        assert found == pytest.approx(asked, rel=1e-3)


def test_a_rejected_step_opens_the_rewrite_and_changes_no_text():
    kinds = ("byte-level", "smaller")
    for result in pair(kinds).generate(list(tongues.TEXTS), REWRITE, max_new_tokens=COUNT):
        counters = result.counters
        assert counters.drafts <= counters.steps
        assert counters.accepted_tokens == [t.origin for t in result.tokens].count("draft")
        # One token follows each block; the others were passes of their own.
        passes = counters.emitted_tokens - counters.accepted_tokens
        assert passes <= counters.target_passes <= passes + counters.steps


# Records


@names
@pytest.mark.parametrize("policy", [SOMETIMES, BAND, VOTING], ids="sbv")
def test_records_say_what_happened(kinds: tuple[str, str], policy: SpecGuard, tmp_path: Path):
    machine = pair_of(kinds, max_rows=20)
    results = machine.generate(
        list(tongues.TEXTS[:3]), policy, max_new_tokens=COUNT, probabilities=True
    )
    for result in results:
        assert result.error is None
        position, accepted = 0, 0
        steps, counters = result.trace.steps, result.counters
        for record in steps:
            assert record.position == position
            span = result.tokens[position : position + record.tokens]
            position += record.tokens
            assert record.draft_tokens >= sum(len(c.ids) for c in record.candidates)
            if record.decision == "accepted":
                accepted += 1
                assert {t.origin for t in span} <= {"draft"}
                assert {t.reason for t in span} <= {record.reason}
                assert (record.target_candidates, record.target_tokens) == ([], 0)
                assert all(t.p_draft is None and t.p_target is None for t in span)
            else:
                assert record.target_tokens == record.tokens
                assert {t.reason for t in span} <= {"accepted", "recovered", "bonus"}
                assert all(t.p_target is not None for t in span)
        alone = result.tokens[position:]
        assert {t.origin for t in alone} <= {"target"}
        assert not alone or steps[-1].reason.endswith(UNREADABLE)
        assert len(result.token_ids) == counters.emitted_tokens
        assert (counters.steps, counters.accepted_steps) == (len(steps), accepted)
        assert counters.draft_passes == sum(s.draft_tokens for s in steps)
        assert sum(s.draft_seconds for s in steps) == pytest.approx(counters.draft_seconds)
        assert alone or sum(s.target_seconds for s in steps) == pytest.approx(
            counters.target_seconds
        )
    trace.write([r.trace for r in results], tmp_path / "trace.jsonl")
    for line in (tmp_path / "trace.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), trace.json_schema())


# Failures and refusals


@dataclass(frozen=True)
class Failing(Comparing):
    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        if step.index == 2:
            yield Await(fail())
        return StepDecision(0, accepted=True, reason="accepted")


async def fail() -> None:
    raise OSError("gone")


def test_a_failure_keeps_finished_steps_and_frees_all_rows():
    kinds = ("byte-level", "smaller")
    (result,) = pair(kinds).generate([PROMPT], Failing(kinds))
    assert result.error == "OSError: gone"
    assert len(result.trace.steps) == 2
    assert len(result.token_ids) == sum(s.tokens for s in result.trace.steps) > 0
    engine = pair(kinds).engine
    assert all(runner.rows_in_use == 0 for runner in engine.runners.values())


def test_an_abandoned_stream_frees_all_rows():
    machine = pair(("unigram", "byte-level"))
    stream: Iterator[Any] = machine.stream(PROMPT, SOMETIMES)
    next(stream)
    stream.close()
    runners = machine.engine.runners.values()
    assert machine.between_rounds(lambda: [r.rows_in_use for r in runners]) == [0, 0]


@pytest.mark.parametrize("policy", ["exact", "block", "ensemble", "confident", "cascade"])
def test_policies_on_tokens_are_refused(policy: str):
    with pytest.raises(TokenizerMismatch, match=r"Token \d+ is .* for tiny-target and .* a step"):
        pair(("byte-level", "unigram")).generate(PROMPT, policy)


def test_one_model_alone_speaks_its_own_tokens():
    for kinds in PAIRS[:4]:
        for role, kind in zip(("target", "draft"), kinds, strict=True):
            result = pair(kinds).generate(PROMPT, role, max_new_tokens=20, ignore_eos=True)
            prompt = tongues.KINDS[kind]()(PROMPT)["input_ids"]
            assert result.token_ids == tiny.greedy(model(role, kind), prompt, 20)
            assert result.text == decoded(kind, result.token_ids)


def test_a_bias_on_tokens_is_refused():
    with pytest.raises(OptionError, match="logit_bias names tokens"):
        pair(PAIRS[0]).generate(PROMPT, ACCEPT, logit_bias={3: 1.0})


def test_prompts_of_tokens_and_chats_reach_both_models():
    kinds = ("byte-level", "unigram")
    machine = pair_of(kinds)
    target, draft = (tongues.KINDS[kind]() for kind in kinds)
    text = machine.generate(PROMPT, SOMETIMES, max_new_tokens=30)
    tokens = machine.generate([target(PROMPT)["input_ids"]], SOMETIMES, max_new_tokens=30)
    assert tokens[0].token_ids == text.token_ids

    chat = [{"role": "user", "content": "Ann has 3."}]
    machine.tokenizer = machine._vocabularies["target"].tokenizer = with_template(target, "T: ")
    rendered = machine.render(chat)
    assert isinstance(rendered, Rendered)
    assert decoded(kinds[0], rendered) == "T: Ann has 3."
    assert decoded(kinds[1], rendered.draft) == "T: Ann has 3."
    machine._vocabularies["draft"].tokenizer = with_template(draft, "D: ")
    assert decoded(kinds[1], machine.render(chat).draft) == "D: Ann has 3."
    # Arguments are of the target's template, and the draft has its own.
    loud = with_template(target, "{{ '!' if loud }}")
    machine._vocabularies["target"].tokenizer = loud
    asked = machine.render(chat, loud=True)
    assert decoded(kinds[0], asked) == "!Ann has 3."
    assert decoded(kinds[1], asked.draft) == "D: Ann has 3."
    asked = machine.render(chat, chat_template="{{ messages[0].content }}?")
    assert decoded(kinds[0], asked) == "Ann has 3.?"
    assert decoded(kinds[1], asked.draft) == "D: Ann has 3."
    both = machine.generate([machine.render(chat)], "draft", max_new_tokens=8, ignore_eos=True)
    prompt = draft("D: Ann has 3.")["input_ids"]
    assert both[0].token_ids == tiny.greedy(model("draft", kinds[1]), prompt, 8)


def test_tokens_that_the_targets_authors_suppress_are_not_the_drafts_of_these_numbers():
    kinds = ("byte-level", "smaller")
    prompt = tongues.KINDS["smaller"]()(PROMPT)["input_ids"]
    wanted = tiny.greedy(model("draft", "smaller"), prompt, 8)
    beyond = pair(kinds)._vocabularies["draft"].size
    assert beyond < pair(kinds)._vocabularies["target"].size
    suppressed = dict.fromkeys((*wanted, beyond), -math.inf)
    machine = pair_of(kinds, generation_defaults=GenerationDefaults(logit_bias=suppressed))
    alone = machine.generate(PROMPT, "draft", max_new_tokens=8, ignore_eos=True)
    assert alone.token_ids == wanted
    targets = machine.generate(PROMPT, "target", max_new_tokens=8, ignore_eos=True)
    assert targets.trace.settings.sampling["logit_bias"] == {str(t): -math.inf for t in suppressed}


def test_the_draft_stops_at_its_own_token_of_a_name_that_was_asked_for():
    machine = pair_of(("byte-level", "unigram"))
    ends = {
        role: machine._vocabularies[role].tokenizer.eos_token_id for role in ("target", "draft")
    }
    for options, ending in (({}, True), ({"ignore_eos": True}, False)):
        for stop in ((), (tongues.END,)):
            asked = read_options({**options, "stop": stop})
            special = machine._vocabularies["target"].special
            limits = asked.limits(frozenset({ends["target"]}), FixedLength(), False, special)
            sequence = TokenSequence([1], limits=limits)
            crossing = machine._prompts.cross_tokenizer_target(PROMPT, sequence, asked)
            stops = ending or bool(stop)
            assert (ends["draft"] in crossing.drafted.limits.stop_token_ids) == stops
            assert crossing.end == (ends["target"] if stops else None)
            assert (ends["target"] in limits.stop_token_ids) == stops


def with_template(tokenizer: Any, start: str) -> Any:
    copy = tiny.deepcopy(tokenizer)
    copy.chat_template = start + "{{ messages[0].content }}"
    return copy


# From disk


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    found = []
    for role, kind in (("target", "byte-level"), ("draft", "unigram")):
        folder = tmp_path_factory.mktemp(role)
        made = tiny.deepcopy(model(role, kind))
        made.lm_head.bias = None  # no Llama has one
        made.save_pretrained(folder)
        tongues.KINDS[kind]().save_pretrained(folder)
        found.append(folder)
    return found[0], found[1]


def test_such_a_pair_loads_and_is_told_from_others(folders: tuple[Path, Path]):
    found = stet.load_pair(*folders, max_length=300, compile=False)
    assert found.difference is not None
    result = found.generate(PROMPT, SpecGuard(threshold=0.01, step_tokens=8), max_new_tokens=20)
    assert result.error is None
    assert result.trace.settings.draft_length["rule"] == "FixedLength"
    with pytest.raises(TokenizerMismatch, match="or a step policy, which works over text"):
        found.generate(PROMPT)


def test_commands_that_measure_blocks_refuse_it(folders: tuple[Path, Path]):
    from typer.testing import CliRunner

    from stet.cli import app

    models = ["-t", str(folders[0]), "-d", str(folders[1]), "--max-length", "300"]
    for command, message in (
        (["doctor"], "measures blocks of tokens, which these models do not share"),
        (["calibrate", "--problems", "20"], "the target continues from the draft"),
        (["generate", "Ann"], "or a step policy"),
    ):
        refused = CliRunner().invoke(app, [*command, *models])
        assert refused.exit_code == 2, refused.output
        assert message in " ".join(refused.stderr.split())
    fine = CliRunner().invoke(app, ["generate", "Ann", "-p", "specguard", "-n", "8", *models])
    assert fine.exit_code == 0, fine.output


# Penalties


def test_each_model_counts_the_answer_in_its_own_tokens():
    """Steps of the draft's that all stand are its own text, rewritten ones the target's."""
    together = pair(PAIRS[0])
    options: dict[str, Any] = {"frequency_penalty": 1.0, "presence_penalty": 1.5}
    options |= {"max_new_tokens": 40}
    for policy, alone in ((ACCEPT, "draft"), (replace(REWRITE, speculate=False), "target")):
        wanted = together.generate(PROMPT, alone, **options).text
        found = together.generate(PROMPT, policy, **options).text
        least = min(len(wanted), len(found))
        assert least > 20
        assert found[:least] == wanted[:least]
        assert found != together.generate(PROMPT, policy, max_new_tokens=40).text


# Reading


@names
def test_texts_are_read_in_the_targets_tokens(kinds: tuple[str, str]):
    together = pair(kinds)
    for prompt, found in zip(tongues.TEXTS[:3], together.read(tongues.TEXTS[:3]), strict=True):
        tokens = Vocabulary(loaded("target", kinds[0])).read(prompt)
        assert found.token_ids == tokens
        with torch.inference_mode():
            own = model("target", kinds[0])(torch.tensor([tokens])).logits[0].log_softmax(-1)
        expected = [own[i, token].item() for i, token in enumerate(tokens[1:])]
        assert found.logprobs[1:] == pytest.approx(expected, abs=1e-4)
