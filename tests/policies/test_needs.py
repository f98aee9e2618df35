"""A policy cannot read what it does not declare, whatever is kept for others of its batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

import tiny
from stet.core.draft_length import FixedLength
from stet.core.errors import StetError
from stet.core.limits import Limits
from stet.core.needs import AttentionCapture, Need
from stet.core.operations import Operation
from stet.core.policy import TokenPolicy
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.step_policy import StepPolicy
from stet.policies import (
    Blocks,
    Candidate,
    Exact,
    SpecGuard,
    Step,
    StepDecision,
    Verification,
)
from stet.policies.exact import greedy_match, rejection_sampling
from stet.policies.mismatches import find_mismatches
from stet.requests.methods import method_of

TARGET = tiny.llama(vocab=30, layers=1)
DRAFT = tiny.near(TARGET, 0.1)
LIMITS = Limits(12, draft_length=FixedLength(4), room=200)
ALL = frozenset(Need)


@dataclass(frozen=True)
class Reads(TokenPolicy):
    """The exact rule of a policy that also reads something."""

    read: Callable[[Blocks], Any]
    needs: frozenset[Need] = ALL

    name: ClassVar[str] = "reads"
    lossless: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = Exact.reasons

    def verify(self, blocks: Blocks) -> Verification:
        self.read(blocks)
        if blocks.all_greedy:
            return greedy_match(blocks, blocks.target_tokens)
        return rejection_sampling(blocks, blocks.target_probs)


READINGS: dict[str, tuple[Callable[[Blocks], Any], Need]] = {
    "draft_probs": (lambda b: b.draft_probs, Need.DRAFT_PROBS),
    "find_mismatches": (find_mismatches, Need.DRAFT_PROBS),
    "draft_logprobs": (lambda b: b.draft_logprobs, Need.DRAFT_LOGPROBS),
    "raw_draft_logits": (lambda b: b.raw_draft_logits, Need.DRAFT_LOGPROBS),
    "draft_logits": (lambda b: b.draft_logits, Need.DRAFT_LOGPROBS),
    "draft_row": (lambda b: b.draft_row(0, 0), Need.DRAFT_LOGPROBS),
    "draft_hidden": (lambda b: b.draft_hidden, Need.DRAFT_HIDDEN),
    "target_hidden": (lambda b: b.target_hidden, Need.TARGET_HIDDEN),
}
reading = pytest.mark.parametrize("name", READINGS)


@reading
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_reading_what_was_not_declared_fails_with_a_sentence(name: str, temperature: float):
    read, need = READINGS[name]
    sampling = SamplingParams(temperature=temperature, seed=3)
    mate = tiny.request([5, 2], Reads(lambda b: b.draft_probs), LIMITS, sampling)
    for company in ([], [mate]):
        guilty = tiny.request([1, 2, 3], Reads(read, ALL - {need}), LIMITS, sampling)
        # The exact rule itself reads probabilities.
        machine = tiny.engine(TARGET, DRAFT)
        for item in (guilty, *company):
            machine.submit(item)
        while machine.busy:
            machine.step()
        assert isinstance(guilty.error, StetError)
        assert str(guilty.error).endswith(f"add Need.{need.name} to its `needs`.")
        assert all(item.error is None for item in company)


@reading
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_declared_is_there_alone_and_in_company(name: str, temperature: float):
    read, need = READINGS[name]
    sampling = SamplingParams(temperature=temperature, seed=3)
    texts = []
    for policy in (Reads(read, frozenset({need, Need.DRAFT_PROBS})), Exact()):
        for company in (False, True):
            mates = [tiny.request([5, 2], Exact(), LIMITS)] * company
            own = tiny.request([1, 2, 3], policy, LIMITS, sampling)
            texts.append(tiny.run(tiny.engine(TARGET, DRAFT), [own, *mates])[0])
    assert all(text == texts[0] for text in texts)


def test_copied_text_is_certain_of_its_tokens_alone_and_in_company():
    seen: list[torch.Tensor] = []

    def read(blocks: Blocks) -> None:
        present = blocks.draft_probs[0, : int(blocks.lengths[0])]
        if len(present):
            seen.append(present)
            assert torch.equal(present, blocks.draft_logprobs[0, : len(present)].exp())

    prompt = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]
    sampling = SamplingParams(temperature=1.0)
    tiny.run(tiny.engine(TARGET, None), [tiny.request(prompt, Reads(read), LIMITS, sampling)])
    assert seen
    for probs in seen:
        assert torch.equal(probs.max(-1).values, torch.ones(len(probs)))


# Steps


@dataclass(frozen=True)
class ReadsSteps(StepPolicy):
    """Accepts all steps and reads something of each."""

    read: Callable[[Candidate], Any]
    needs: frozenset[Need] = frozenset()
    capture: AttentionCapture | None = None
    delimiter: str = "c"
    step_tokens: int = 4
    candidates: int = 1
    target_candidates: int = 1
    shadow: bool = False
    found: list[Any] = field(default_factory=list, compare=False)

    name: ClassVar[str] = "reads-steps"
    lossless: ClassVar[bool] = False

    def sampling(self, base: SamplingParams) -> SamplingParams:
        return base

    def select(self, candidates: Any) -> int:
        return 0

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        yield from ()
        self.found.append(self.read(step.candidates[0]))
        return StepDecision(0, accepted=True, reason="fine")


STEPS: dict[str, tuple[Callable[[Candidate], Any], dict[str, Any], str]] = {
    "statistics": (
        lambda c: c.statistics.logprobs,
        {"needs": frozenset({Need.DRAFT_LOGPROBS})},
        "add Need.DRAFT_LOGPROBS to its `needs`.",
    ),
    "hidden": (
        lambda c: c.hidden.tolist(),
        {"needs": frozenset({Need.DRAFT_HIDDEN})},
        "add Need.DRAFT_HIDDEN to its `needs`.",
    ),
    "attention": (
        lambda c: c.attention(0.01).tolist(),
        {"capture": AttentionCapture(1, frozenset({0.01}))},
        "have its `capture` return an AttentionCapture with this floor.",
    ),
    "another floor": (
        lambda c: c.attention(0.01).tolist(),
        {"capture": AttentionCapture(1, frozenset({0.01, 0.5}))},
        "have its `capture` return an AttentionCapture with this floor.",
    ),
}


def step_request(policy: Any) -> Any:
    method = method_of(policy, None, has_draft=True)
    sequence = TokenSequence([1, 2, 3], SamplingParams(), LIMITS, tiny.Letters())
    return tiny.Request(sequence, method.maker.program(sequence), rows=method.rows)


@pytest.mark.parametrize("name", STEPS)
def test_of_a_step_too_only_what_was_declared_can_be_read(name: str):
    read, declaring, sentence = STEPS[name]
    other = {"capture": AttentionCapture(1, frozenset({0.5}))} if name == "another floor" else {}
    greedy = SpecGuard(delimiter="c", signals=("min_logprob", "grounding"), threshold=0.0)
    mates = [greedy, SpecGuard(candidates=2, temperature=0.5, selector="medoid", delimiter="c")]
    for company in ([], mates):
        guilty = step_request(ReadsSteps(read, **other))
        others = [step_request(policy) for policy in company]
        machine = tiny.engine(TARGET, DRAFT)
        for item in (guilty, *others):
            machine.submit(item)
        while machine.busy:
            machine.step()
        assert isinstance(guilty.error, StetError)
        assert str(guilty.error).endswith(sentence)
        assert all(item.error is None for item in others)
        fine = ReadsSteps(read, **declaring)
        tiny.run(tiny.engine(TARGET, DRAFT), [step_request(fine), *map(step_request, company)])
        assert fine.found
