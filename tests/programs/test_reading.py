"""Reading texts: the target's log-probabilities of what is there already, beside other requests."""

from __future__ import annotations

import asyncio
import math
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

import tiny
from feeding import Fed
from stet import Pair, TextReading, load_pair
from stet.bundled import DRAFT as SMALL
from stet.bundled import TARGET as LARGE
from stet.bundled import generate
from stet.core.block import Reading
from stet.core.draft_length import FixedLength
from stet.core.errors import OptionError, StetError
from stet.core.limits import Limits
from stet.core.row import PAGE
from stet.core.sequence import TokenSequence
from stet.engine import scoring
from stet.engine.drafting import ModelDrafter
from stet.engine.engine import Engine
from stet.engine.outcome import NonFiniteError
from stet.engine.request import Request
from stet.engine.runner import Runner
from stet.policies import Exact
from stet.programs import reading

VOCAB = 40
TARGET = tiny.llama(vocab=VOCAB, seed=21)
DRAFT = tiny.near(TARGET, 0.05)
TEXTS = [[(7 * n + 3 * i + i * i) % (VOCAB - 1) for i in range(20 + 9 * n)] for n in range(6)]
PROMPTS = [p.prompt for p in generate("stories", "test", 4)]


def request(text: list[int], *, piece: int = 8, top: int = 0) -> Request:
    sequence = TokenSequence(text[:1])
    program = reading(sequence, text[1:], piece=piece, top=top)
    return Request(sequence, program, length=len(text))


def writing(text: list[int], count: int = 30) -> Request:
    limits = Limits(count, draft_length=FixedLength(4))
    return tiny.request(text[:12], Exact(), limits)


def plain(model: Any, tokens: list[int]) -> Tensor:
    """The model's own log-probabilities of the next token at each place but the last."""
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)


def check(found: Reading, tokens: list[int], expected: Tensor, top: int = 0) -> None:
    assert len(found.logprobs) == len(found.ranks) == len(found.top) == len(tokens) - 1
    for place, token in enumerate(tokens[1:]):
        row = expected[place]
        assert found.logprobs[place] == pytest.approx(row[token].item(), abs=1e-4)
        # By a hair more or less probable, by rounding.
        above = int((row > row[token] + 1e-5).sum()), int((row > row[token] - 1e-5).sum())
        assert above[0] + 1 <= found.ranks[place] <= above[1] + 1
        best = row.topk(top)
        assert list(found.top[place].values()) == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [row[t].item() for t in found.top[place]] == pytest.approx(
            best.values.tolist(), abs=1e-4
        )


@cache
def machine() -> Engine:
    return tiny.engine(TARGET, DRAFT, chunk=64)


# What is read


@settings(deadline=None)
@given(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(0, VOCAB + 2),
)
def test_a_text_in_pieces_is_read_as_the_model_reads_it_in_one_pass(text, piece, top):
    item = request(text, piece=piece, top=top)
    tiny.run(machine(), [item])
    assert item.sequence.tokens == text
    check(item.result, text, plain(TARGET, text), min(top, VOCAB))
    assert all(runner.rows_in_use == 0 for runner in machine().runners.values())


def test_the_bundled_target_says_what_transformers_module_says():
    with load_pair(dtype="float32", compile=False) as pair:
        found = pair.read(PROMPTS, top_logprobs=5)
        model = AutoModelForCausalLM.from_pretrained(LARGE, dtype=torch.float32)
        for prompt, item in zip(PROMPTS, found, strict=True):
            assert item.token_ids == pair.tokenizer(prompt)["input_ids"]
            assert item.tokens == [pair.tokenizer.decode([t]) for t in item.token_ids]
            assert item.error is None
            assert item.logprobs[0] is item.ranks[0] is item.top_logprobs[0] is None
            read = Reading(item.logprobs[1:], [], item.ranks[1:], item.top_logprobs[1:])
            check(read, item.token_ids, plain(model, item.token_ids), 5)
        alone = pair.read(found[0].token_ids, top_logprobs=5)
        assert alone == pair.read(PROMPTS[0], top_logprobs=5)
        bare = pair.read(PROMPTS[0])
        assert bare.logprobs == alone.logprobs
        assert bare.top_logprobs == [None] + [{}] * (len(bare.token_ids) - 1)


def test_a_token_that_greedy_text_has_is_the_most_probable_one():
    with load_pair(compile=False) as pair:
        answer = pair.generate(PROMPTS[0], max_new_tokens=40, ignore_eos=True)
        prompt = pair.tokenizer(PROMPTS[0])["input_ids"]
        whole = pair.read(prompt + answer.token_ids, top_logprobs=1)
        assert whole.ranks[len(prompt) :] == [1] * 40
        assert [next(iter(t)) for t in whole.top_logprobs[len(prompt) :]] == answer.token_ids


def test_what_the_cache_holds_is_read_all_the_same_and_serves_others(fed: Fed):
    keeping = tiny.engine(TARGET, DRAFT)
    for runner in keeping.runners.values():
        runner.keep_texts(True)
    text = TEXTS[5]
    for _ in range(2):
        before, item = fed.target, request(text)
        tiny.run(keeping, [item])
        assert fed.target - before == len(text) - 1
        check(item.result, text, plain(TARGET, text))
    before = fed.target
    assert tiny.run(keeping, [writing(text, 1)]) == [tiny.greedy(TARGET, text[:12], 1)]
    limits = Limits(1, draft_length=FixedLength(1))
    assert tiny.run(keeping, [tiny.request(text, Exact(), limits)])
    assert fed.target - before <= 12 + PAGE


def test_only_a_few_logits_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    forward = Runner.forward

    def seen(self: Runner, rows: Any, tokens: Tensor, *rest: Any, **more: Any) -> Any:
        sizes.append(tokens.numel())
        return forward(self, rows, tokens, *rest, **more)

    monkeypatch.setattr(Runner, "forward", seen)
    monkeypatch.setattr(scoring, "_LOGITS", {"cpu": 24 * VOCAB, "cuda": 24 * VOCAB})
    busy = tiny.engine(TARGET, DRAFT)
    piece = scoring.piece_of(busy.runners["target"])
    assert piece == 24
    readings = [request(text, piece=piece) for text in TEXTS]
    tiny.run(busy, readings)
    assert max(sizes) == 24
    for text, item in zip(TEXTS, readings, strict=True):
        check(item.result, text, plain(TARGET, text))


# Beside others


def test_texts_of_others_are_what_they_are_without_it():
    alone = tiny.run(tiny.engine(TARGET, DRAFT, chunk=16), [writing(t) for t in TEXTS[:3]])
    readings = [request(text, top=2) for text in TEXTS]
    both = tiny.engine(TARGET, DRAFT, chunk=16)
    written = tiny.run(both, [*(writing(t) for t in TEXTS[:3]), *readings])
    assert written[:3] == alone
    for text, item in zip(TEXTS, readings, strict=True):
        check(item.result, text, plain(TARGET, text), 2)


def test_a_round_reads_only_so_much_and_others_go_on_meanwhile(fed: Fed):
    busy = tiny.engine(TARGET, DRAFT, chunk=10)  # twenty tokens of texts a round
    writer = writing(TEXTS[0], 60)
    busy.submit(writer)
    while not writer.sequence.answer:
        busy.step()
    readings = [request(text) for text in TEXTS]
    for item in readings:
        busy.submit(item)
    rounds = 0
    while not all(item.done for item in readings):
        before, length = fed.target, len(writer.sequence.answer)
        busy.step()
        assert fed.target - before <= 20 + 7 + 5  # a piece is begun, and a block is verified
        assert writer.done or len(writer.sequence.answer) > length
        rounds += 1
    assert rounds <= sum(len(text) for text in TEXTS) // 20 + 2
    for text, item in zip(TEXTS, readings, strict=True):
        check(item.result, text, plain(TARGET, text))


def test_a_text_that_makes_no_number_fails_alone():
    poison = VOCAB - 1
    model = deepcopy(TARGET)
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = math.nan
    busy = tiny.engine(model, DRAFT)
    guilty = request([*TEXTS[1][:12], poison, *TEXTS[1][12:]])
    others = [request(TEXTS[0]), writing(TEXTS[2], 3)]
    for item in (guilty, *others):
        busy.submit(item)
    while busy.busy:
        busy.step()
    assert isinstance(guilty.error, NonFiniteError)
    assert guilty.result is None
    check(others[0].result, TEXTS[0], plain(TARGET, TEXTS[0]))
    assert others[1].sequence.answer == tiny.greedy(TARGET, TEXTS[2][:12], 3)
    assert all(runner.rows_in_use == 0 for runner in busy.runners.values())
    again = request(TEXTS[1])
    tiny.run(busy, [again])
    check(again.result, TEXTS[1], plain(TARGET, TEXTS[1]))


@pytest.mark.parametrize("pages", [6, 9])
def test_texts_wait_where_the_cache_has_no_room_for_all_of_them(pages: int):
    sizes: dict[str, Any] = {"max_rows": 12, "max_length": 96, "pages": pages + 1}
    target = Runner(tiny.loaded(TARGET), **sizes)
    draft = Runner(tiny.loaded(DRAFT, "draft"), **sizes)
    scarce = Engine(target, ModelDrafter(draft), max_batch=12, prefill_chunk=32)
    readings = [request(text, top=1) for text in TEXTS]
    writers = [writing(text) for text in TEXTS[:2]]
    found = tiny.run(scarce, [*readings[:3], *writers, *readings[3:]])
    for text, item in zip(TEXTS, readings, strict=True):
        check(item.result, text, plain(TARGET, text), 1)
    assert found[3:5] == [tiny.greedy(TARGET, text[:12], 30) for text in TEXTS[:2]]
    # They begin only where there is room for all of their text.
    alone = Engine(target, ModelDrafter(draft), max_batch=12, prefill_chunk=32)
    tiny.run(alone, [request(text) for text in TEXTS])
    assert alone.preempted == 0


# The front door


@pytest.fixture(scope="module")
def pair() -> Any:
    with load_pair(LARGE, SMALL, max_length=200, max_batch=4, compile=False) as made:
        yield made


def rows_in_use(pair: Pair) -> list[int]:
    runners = pair.engine.runners.values()
    return pair.between_rounds(lambda: [runner.rows_in_use for runner in runners])


def test_one_text_raises_and_of_several_only_one_has_an_error(pair: Pair):
    long = [5] * 201
    with pytest.raises(OptionError, match="A text of 201 tokens is longer than 200; shorten it"):
        pair.read(long)
    with pytest.raises(OptionError, match="A prompt is empty") as raised:
        pair.read("")
    assert isinstance(raised.value.result, TextReading)
    found = pair.read([PROMPTS[0], long, "a", ""])
    assert [item.error is None for item in found] == [True, False, True, False]
    assert "Prompt 2 of 4 (" in (found[1].error or "")
    assert (found[1].token_ids, found[1].logprobs, found[1].ranks) == (long, [], [])
    assert found[0] == pair.read(PROMPTS[0])
    assert (found[2].logprobs, found[2].ranks) == ([None], [None])
    assert len(pair.read([5] * 200).logprobs) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_logprobs": 21}, "top_logprobs is 21; it must be a whole number between 0 and 20"),
        ({"top_logprobs": True}, "top_logprobs is True"),
        ({"top_logprobs": None}, "top_logprobs is None"),
        ({"timeout": -1.0}, "timeout is -1.0; it must be a number of seconds"),
    ],
)
def test_wrong_options_are_refused(pair: Pair, options: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        pair.read("a", **options)
    with pytest.raises(OptionError, match="is no prompt"):
        pair.read(5)


def test_a_text_that_takes_too_long_is_an_error(pair: Pair):
    with pytest.raises(StetError, match="was not read within 0 seconds") as raised:
        pair.read(PROMPTS[0], timeout=0.0)
    assert raised.value.result.logprobs == []
    assert "was not read" in (pair.read(["a", "b"], timeout=0.0)[0].error or "")


def test_event_loops_read_beside_generating(pair: Pair):
    wanted = pair.read(PROMPTS, top_logprobs=2)
    answers = [pair.generate(p, max_new_tokens=30).text for p in PROMPTS]

    async def everything() -> None:
        written, several, one = await asyncio.gather(
            pair.agenerate(PROMPTS, max_new_tokens=30),
            pair.aread(PROMPTS, top_logprobs=2),
            pair.aread(PROMPTS[1], top_logprobs=2),
        )
        assert [result.text for result in written] == answers
        for found, own in zip([*several, one], [*wanted, wanted[1]], strict=True):
            assert found.token_ids == own.token_ids
            assert found.ranks == own.ranks
            assert found.logprobs[1:] == pytest.approx(own.logprobs[1:], abs=1e-4)
        with pytest.raises(OptionError, match="longer than 200"):
            await pair.aread([5] * 300)

    asyncio.run(everything())


def test_a_cancelled_task_frees_its_rows(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stet.requests.reading.piece_of", lambda runner: 1)

    async def cancelled() -> None:
        task = asyncio.create_task(pair.aread([[5] * 200] * 8))
        while not pair.engine.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert rows_in_use(pair) == [0, 0]
    assert not pair.engine.busy


def test_a_closed_pair_says_so():
    made = load_pair(LARGE, "lookup", max_length=100, compile=False)
    assert len(made.read("a b").logprobs) > 1
    made.close()
    with pytest.raises(StetError, match="closed"):
        made.read("a b")
