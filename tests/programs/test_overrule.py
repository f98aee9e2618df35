"""Steps that both models write, and that both decide about."""

from dataclasses import dataclass, field

import pytest
import torch
from transformers import AutoModelForCausalLM

from stet import bundled
from stet.core.errors import OptionError
from stet.core.step_policy import ReadStep
from stet.evaluation.tasks import load_task
from stet.load import load_pair
from stet.policies import SpecGuard
from stet.policies.specguard import PREFERENCE
from stet.programs.target_side import PREFERRED
from stet.requests.methods import method_of

ALWAYS, NEVER, SOMETIMES = (
    SpecGuard.overruling(overrule=value) for value in (-1000.0, 1000.0, 0.02)
)
"""Whose rejected step stands."""


@pytest.fixture(scope="module")
def pair():
    return load_pair(compile=False, dtype="float32", max_batch=8)


@pytest.fixture(scope="module")
def prompts():
    return [q.prompt for q in load_task("stories", split="validation", count=12).questions]


def texts(pair, prompts, policy, **options):
    return [r.text for r in pair.generate(prompts, policy, **{"max_new_tokens": 96} | options)]


def test_at_its_ends_it_writes_what_one_model_does(pair, prompts):
    target, draft = (texts(pair, prompts, name) for name in ("exact", "draft"))
    assert target != draft
    assert texts(pair, prompts, NEVER) == target
    assert texts(pair, prompts, ALWAYS) == draft
    assert texts(pair, prompts, SpecGuard.overruling(overrule=1000.0, speculate=False)) == target
    between = texts(pair, prompts, SOMETIMES)
    assert between not in (target, draft)


def test_what_stands_after_all_is_the_drafts_and_says_so(pair, prompts):
    results = pair.generate(prompts, SOMETIMES, max_new_tokens=96)
    steps = [(r, s) for r in results for s in r.trace.steps]
    preferred = [(r, s) for r, s in steps if s.reason == PREFERRED]
    assert 0 < len(preferred) < len(steps)
    for result, step in steps:
        written = result.tokens[step.position : step.position + step.tokens]
        # A score of 1 is a step that stands at once.
        assert step.target_candidates or step.score == 1
        if step.reason == PREFERRED:
            assert step.decision == "accepted"
            assert {t.origin for t in written} == {"draft"}
            assert {t.reason for t in written} == {PREFERRED}
            assert step.target_candidates != [step.candidates[0].text]
    for result in results:
        accepted = sum(s.decision == "accepted" for s in result.trace.steps)
        assert result.counters.accepted_steps == accepted
        assert result.counters.steps == len(result.trace.steps)


@dataclass(frozen=True)
class Recording(SpecGuard):
    """Records what it compares."""

    seen: list[tuple[ReadStep, ReadStep]] = field(default_factory=list, compare=False)

    def compare(self, draft, target):
        self.seen.append((draft, target))
        return super().compare(draft, target)


@torch.no_grad()
def logprobs(model, before: list[int], step: list[int]) -> torch.Tensor:
    out = model(input_ids=torch.tensor([before + step])).logits[0].log_softmax(-1)
    return out[len(before) - 1 : -1].gather(1, torch.tensor(step)[:, None])[:, 0]


@pytest.mark.parametrize("lower", [None, 0.0])
def test_both_steps_are_compared_by_what_the_models_say_of_them(pair, prompts, lower):
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (bundled.TARGET, bundled.DRAFT)
    ]
    compared = 0
    for prompt in prompts[:4]:
        policy = Recording(threshold=1.0, overrule=0.02, lower=lower, target_threshold=1.0)
        result = pair.generate(prompt, policy, max_new_tokens=96)
        seen = iter(policy.seen)
        tokens = [*pair.tokenizer(prompt)["input_ids"], *result.token_ids]
        for step in result.trace.steps:
            before = tokens[: len(tokens) - len(result.token_ids) + step.position]
            theirs = step.candidates[0].ids
            stood = before + list(theirs)
            own = tokens[len(before) : len(before) + step.tokens]
            if not step.target_candidates or step.target_candidates == [step.candidates[0].text]:
                continue
            draft, target = next(seen)
            compared += 1
            for found, model in ((draft.target, models[0]), (draft.draft, models[1])):
                expected = logprobs(model, before, stood[len(before) :])
                assert torch.allclose(torch.tensor(found), expected, atol=1e-4)
            if step.decision == "rewritten":
                for found, model in ((target.target, models[0]), (target.draft, models[1])):
                    expected = logprobs(model, before, own)
                    assert torch.allclose(torch.tensor(found), expected, atol=1e-4)
            values = [
                (sum(of.target) + sum(of.draft)) / (2 * len(of.target)) for of in (draft, target)
            ]
            assert (step.reason == PREFERRED) == (values[0] - values[1] >= 0.02)
            assert step.signals[PREFERENCE] == pytest.approx(values[0] - values[1])
    assert compared > 8


def test_neighbours_pieces_and_limits_change_nothing(pair, prompts):
    together = texts(pair, prompts, SOMETIMES)
    assert [texts(pair, [p], SOMETIMES)[0] for p in prompts[:4]] == together[:4]
    for prompt, text in zip(prompts[:3], together, strict=False):
        pieces = [c.text for c in pair.stream(prompt, SOMETIMES, max_new_tokens=96)]
        assert "".join(pieces) == text
        for limit in (5, 13, 30):
            assert text.startswith(texts(pair, [prompt], SOMETIMES, max_new_tokens=limit)[0])
        whole = pair.generate(prompt, SOMETIMES, max_new_tokens=96).token_ids
        assert pair.generate(prompt, SOMETIMES, max_new_tokens=20).token_ids == whole[:20]


def test_with_several_candidates_the_selected_ones_are_compared(pair, prompts):
    policy = SpecGuard.overruling(
        candidates=3, target_candidates=2, temperature=0.8, overrule=-1000.0
    )
    results = pair.generate(prompts[:4], policy, max_new_tokens=64, seed=1)
    reasons = {s.reason for r in results for s in r.trace.steps}
    assert all(r.error is None for r in results)
    assert PREFERRED in reasons


def test_a_shadow_run_compares_nothing(pair, prompts):
    shadow = SpecGuard.overruling(overrule=-1000.0, shadow=True)
    assert texts(pair, prompts[:4], shadow) == texts(pair, prompts[:4], "exact")


def test_what_it_needs_is_said_where_it_is_missing():
    apart = "the models' tokenizers differ"
    with pytest.raises(OptionError, match=f"but {apart}"):
        method_of("specguard.overruling", None, has_draft=True, difference=apart)
    with pytest.raises(OptionError, match="overrule is nan"):
        SpecGuard(overrule=float("nan"))
