"""SpecReason: the target's rating is what its own pass says, and leaves its cache as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import families
import tiny
from stet.bundled import generate
from stet.core.block import EMPTY, Block
from stet.core.draft_length import FixedLength
from stet.core.errors import OptionError
from stet.core.limits import Limits
from stet.core.operations import Score
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.request import Request
from stet.engine.runner import Runner
from stet.load import load_pair
from stet.policies import Exact, SpecReason, StepPolicy, available, resolve
from stet.requests.methods import method_of

VOCAB = len(families.WORDS)
TARGET = tiny.llama(vocab=VOCAB, layers=1, seed=12)
DRAFT = tiny.near(TARGET, 0.05)
TOKENIZER = families.tokenizer()
PROMPTS = [[4 + (5 * i * i + n) % 30 for i in range(n)] for n in range(2, 6)]
COUNT = 20
STEP = {"step_tokens": 5}
QUESTION = "good? "
ASKED = TOKENIZER.encode(QUESTION, add_special_tokens=False)
DIGITS = [families.WORDS.index(d) for d in "0123456789"]


def request(place: int, policy: SpecReason, count: int = COUNT, **more: Any) -> Request:
    method = method_of(policy, None, has_draft=True)
    limits = Limits(count, draft_length=FixedLength(4), **more)
    sequence = TokenSequence(PROMPTS[place], SamplingParams(), limits, TOKENIZER)
    return Request(sequence, method.maker.program(sequence), rows=method.rows)


def run(*requests: Request, rows: int = 16) -> list[TokenSequence]:
    machine = tiny.engine(TARGET, DRAFT, rows=rows)
    tiny.run(machine, list(requests))
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())
    return [r.sequence for r in requests]


@torch.inference_mode()
def rating(tokens: list[int]) -> tuple[float, int, float]:
    """Mean digit, likeliest digit, and their joint probability, by a pass over everything."""
    logits = TARGET(torch.tensor([[*tokens, *ASKED]])).logits[0, -1]
    probabilities = logits.softmax(-1)[DIGITS]
    mean = float((probabilities * torch.arange(10)).sum() / probabilities.sum())
    return mean, int(probabilities.argmax()), float(probabilities.sum())


@pytest.mark.parametrize("scoring", ["expected", "likeliest"])
def test_the_rating_is_the_targets_own_and_its_text_is_undisturbed(scoring: str):
    policy = SpecReason(threshold=4.0, scoring=scoring, question=QUESTION, **STEP)
    sequences = run(*(request(n, policy) for n in range(len(PROMPTS))))
    decisions = set()
    for prompt, sequence in zip(PROMPTS, sequences, strict=True):
        for record in sequence.steps:
            before = prompt + sequence.answer[: record.position]
            (candidate,) = record.candidates
            assert candidate.ids == tiny.greedy(DRAFT, before, len(candidate.ids))
            mean, likeliest, share = rating(before + candidate.ids)
            score = mean if scoring == "expected" else likeliest
            assert record.score == pytest.approx(score, abs=1e-3)
            assert record.signals["digit_probability"] == pytest.approx(share, rel=1e-3)
            assert record.normalised["utility"] == pytest.approx(score / 9, abs=1e-3)
            stood = sequence.answer[record.position : record.position + record.tokens]
            if record.decision == "rewritten":
                assert stood == tiny.greedy(TARGET, before, len(stood))
            else:
                assert stood == candidate.ids
            decisions.add(record.decision)
    assert decisions == {"accepted", "rewritten"}


@pytest.mark.parametrize(("threshold", "model"), [(0.0, DRAFT), (9.0, TARGET)])
def test_at_the_ends_of_the_scale_one_model_writes_all(threshold: float, model: Any):
    policy = SpecReason(threshold=threshold, question=QUESTION, **STEP)
    for place, sequence in enumerate(run(*(request(n, policy) for n in range(3)))):
        assert sequence.answer == tiny.greedy(model, PROMPTS[place], COUNT)


def test_a_shadow_run_writes_the_targets_text():
    policy = SpecReason(threshold=0.0, question=QUESTION, shadow=True, **STEP)
    (sequence,) = run(request(0, policy))
    assert sequence.answer == tiny.greedy(TARGET, PROMPTS[0], COUNT)
    assert {s.decision for s in sequence.steps} == {"accepted"}


def test_of_several_candidates_the_best_rated_is_judged():
    policy = SpecReason(threshold=0.0, question=QUESTION, candidates=3, temperature=1.0, **STEP)
    (sequence,) = run(request(2, policy))
    better = 0
    for record in sequence.steps:
        before = PROMPTS[2] + sequence.answer[: record.position]
        ratings = [rating(before + c.ids)[0] for c in record.candidates]
        assert [c.signals["utility"] for c in record.candidates] == pytest.approx(ratings, abs=1e-3)
        assert ratings[record.chosen] == max(ratings)
        better += record.chosen > 0
    assert better


def test_an_accepted_step_is_read_by_the_target_once_and_only_the_question_again(monkeypatch):
    fed = 0
    forward = Runner.forward

    def counting(self: Runner, rows: Any, tokens: Any, starts: Any, counts: Any = None, **more):
        nonlocal fed
        if self.model.name.endswith("target"):
            fed += tokens.numel() if counts is None else sum(counts)
        return forward(self, rows, tokens, starts, counts, **more)

    monkeypatch.setattr(Runner, "forward", counting)
    (sequence,) = run(request(1, SpecReason(threshold=0.0, question=QUESTION, **STEP)))
    steps = len(sequence.steps)
    # The last token of a text is read again with the question that follows it.
    assert fed <= len(PROMPTS[1]) + COUNT + steps * (len(ASKED) + 1)
    assert sequence.counters.target_passes == steps
    assert sequence.counters.target_seconds > 0


def test_room_for_the_question_is_kept_free_and_the_text_goes_on_to_its_edge():
    """Else the question would not fit behind the last steps, and the whole answer be lost."""
    policy = SpecReason(threshold=0.0, question="\nHow good?\n", step_tokens=8)
    prompt = generate("stories", "validation", 1)[0].prompt
    pair = load_pair(compile=False)
    size = len(pair.tokenizer(prompt)["input_ids"])
    asked = policy.appends(pair.tokenizer)
    assert asked == len(pair.tokenizer(policy.question, add_special_tokens=False)["input_ids"]) > 3
    length = size + 40 + asked
    small = load_pair(compile=False, max_length=length)
    result = small.generate(prompt, policy, ignore_eos=True)
    assert result.finish_reason == "length"
    assert len(result.token_ids) == 40
    assert (
        result.token_ids[:32]
        == (pair.generate(prompt, policy, ignore_eos=True, max_new_tokens=60).token_ids[:32])
    )
    with pytest.raises(OptionError, match=f"and the {asked} of the policy's side query"):
        small.generate(prompt, policy, max_new_tokens=41)
    # Who asks nothing has all the room.
    assert len(small.generate(prompt, "exact", ignore_eos=True).token_ids) == 40 + asked


def test_an_end_of_sequence_is_left_out_of_the_question():
    end = tiny.greedy(DRAFT, PROMPTS[0], 8)[-1]
    policy = SpecReason(threshold=0.0, question=QUESTION, step_tokens=50)
    (sequence,) = run(request(0, policy, stop_token_ids=frozenset({end})))
    assert sequence.answer[-1] == end
    (record,) = sequence.steps
    assert record.score == pytest.approx(
        rating(PROMPTS[0] + record.candidates[0].ids[:-1])[0], 1e-3
    )


# Reading some tokens' log-probabilities


def test_choices_are_the_log_probabilities_after_a_block_of_any_length():
    found: dict[int, list[float]] = {}
    blocks = {0: [], 1: [7], 2: [9, 8, 30], 3: []}
    choices = {0: (4, 5), 1: (6, 7, 8), 2: (11, 12), 3: ()}

    def look(place: int, sequence: TokenSequence) -> Any:
        known = blocks[place]
        block = Block(len(known), known=known) if known else EMPTY
        told = yield Score(sequence, block, None, choices=choices[place])
        found[place] = told if choices[place] else []
        for row in sequence.rows.values():
            row.valid = min(row.valid, len(sequence.tokens))
        while not sequence.finished:
            sequence.commit((yield Score(sequence, EMPTY, Exact())))

    requests = []
    for place, prompt in enumerate(PROMPTS):
        sequence = TokenSequence(prompt, SamplingParams(), Limits(3))
        requests.append(Request(sequence, look(place, sequence)))
    run(*requests)
    for place, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            logits = TARGET(torch.tensor([[*prompt, *blocks[place]]])).logits[0, -1]
        expected = logits.log_softmax(-1)[list(choices[place])].tolist()
        assert found[place] == pytest.approx(expected, abs=1e-4)
        assert requests[place].sequence.answer == tiny.greedy(TARGET, prompt, 3)


# Parameters


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"threshold": 9.5}, "threshold is 9.5; it must be between 0 and 9"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"scoring": "best"}, "choose from expected, likeliest"),
        ({"question": ""}, "question is empty"),
        ({"candidates": 2}, "temperature above 0"),
        ({"step_tokens": 0}, "step_tokens is 0"),
        ({"delimiter": ""}, "delimiter is empty"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values: dict[str, Any], sentence: str):
    with pytest.raises(OptionError, match=sentence):
        SpecReason(**values)


def test_it_is_registered_with_the_published_threshold():
    assert SpecReason in available()
    policy = resolve("spec-reason", {"delimiter": ["\n"]})
    assert isinstance(policy, StepPolicy)
    assert (policy.threshold, policy.lossless, policy.needs) == (7.0, False, frozenset())


def test_a_tokenizer_that_does_not_tell_digits_apart_is_refused():
    words = [w for w in families.WORDS if w not in "78"]
    sequence = TokenSequence(PROMPTS[0], SamplingParams(), Limits(4), families.tokenizer(words))
    policy = SpecReason(question=QUESTION)
    item = Request(sequence, method_of(policy, None, has_draft=True).maker.program(sequence))
    machine = tiny.engine(TARGET, DRAFT)
    machine.submit(item)
    while machine.busy:
        machine.step()
    assert isinstance(item.error, OptionError)
    assert "does not write an answer (0, 1, " in str(item.error)
