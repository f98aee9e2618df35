"""The front door: loading a pair, generating, streaming, and what is refused."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest
import torch
from jsonschema import Draft202012Validator

import stet
from families import WORDS, save, save_pair, tokenizer
from stet.core import trace
from stet.core.errors import CapacityError, LoadError, OptionError, StetError, TokenizerMismatch
from stet.engine.runner import Runner
from stet.engine.thread import gains_by_compiling
from stet.load import load_pair
from stet.pair import COMPILE_AFTER
from tiny import greedy, llama

PROMPT = "how many"
VOCAB = len(WORDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("pair"), vocab=VOCAB)


@pytest.fixture(scope="module")
def pair(folders):
    return load_pair(folders["target"], folders["draft"], max_batch=4, max_length=200)


def test_exact_is_plain_greedy_decoding(pair, folders):
    # As long as it is chosen, a draft as dear as this tiny one's would soon be left out.
    result = pair.generate(PROMPT, max_new_tokens=30, ignore_eos=True, draft_length=4)
    plain = llama(vocab=VOCAB, layers=3)
    assert result.token_ids == greedy(plain, pair.tokenizer(PROMPT)["input_ids"], 30)
    assert result.finish_reason == "length"
    assert result.counters.emitted_tokens == 30
    assert result.counters.accepted_tokens > 0
    assert result.counters.target_passes < 30


@pytest.mark.parametrize("policy", ["exact", "block", "target", "draft"])
def test_a_list_comes_back_in_order_and_equals_single_requests(pair, policy):
    prompts = [PROMPT, "e f", "g h i", "a", "b b", "c d e f"]
    settings = {"max_new_tokens": 12, "temperature": 0.7, "draft_length": 3}
    together = pair.generate(prompts, policy, seed=5, **settings)
    assert together[0].seed == 5
    for prompt, result in zip(prompts, together, strict=True):
        alone = pair.generate(prompt, policy, seed=result.seed, **settings)
        assert result.prompt == prompt
        assert result.token_ids == alone.token_ids


def test_the_same_seed_gives_the_same_text_and_another_another(pair):
    settings = {"max_new_tokens": 20, "temperature": 1.0}
    texts = [pair.generate(PROMPT, seed=seed, **settings).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_tokens_say_who_wrote_them_and_why(pair):
    result = pair.generate(PROMPT, max_new_tokens=25, probabilities=True)
    assert [t.id for t in result.tokens] == result.token_ids
    for token in result.tokens:
        assert (token.origin == "draft") == (token.reason == "accepted")
        assert token.origin == "draft" or token.reason in {"recovered", "bonus"}
        assert 0 < token.p_target <= 1
        assert token.reason == "bonus" or 0 <= token.p_draft <= 1
    accepted = sum(token.origin == "draft" for token in result.tokens)
    assert accepted == result.counters.accepted_tokens == sum(result.counters.accepted_per_position)


def test_recorded_probabilities_are_the_models_own(pair):
    result = pair.generate(PROMPT, max_new_tokens=10, probabilities=True, logprobs=3)
    tokens = pair.tokenizer(PROMPT)["input_ids"] + result.token_ids
    with torch.inference_mode():
        logits = llama(vocab=VOCAB, layers=3)(torch.tensor([tokens])).logits[0].log_softmax(-1)
    start = len(tokens) - len(result.token_ids)
    for i, token in enumerate(result.tokens):
        row = logits[start + i - 1]
        assert token.p_target == pytest.approx(float(row[token.id].exp()), rel=1e-3)
        best = row.topk(3)
        assert list(token.top_logprobs) == best.indices.tolist()
        assert list(token.top_logprobs.values()) == pytest.approx(best.values.tolist(), abs=1e-3)


def test_a_trace_validates_and_is_read_back(pair, tmp_path):
    path = tmp_path / "trace.jsonl"
    settings = {"max_new_tokens": 8, "logprobs": 2, "logit_bias": {3: 1.0}}
    results = pair.generate([PROMPT, "e"], "block", **settings)
    trace.write([r.trace for r in results], path)
    found = trace.read(path)
    assert found == [r.trace for r in results]
    schema = Draft202012Validator(trace.json_schema())
    for item in found:
        schema.validate(json.loads(item.to_json()))
    assert found[0].settings.policy == {"name": "block"}
    assert found[0].settings.lossless
    assert found[0].settings.draft_length["rule"] == "AdaptiveLength"


def test_streamed_pieces_make_the_same_text(pair):
    whole = pair.generate(PROMPT, max_new_tokens=20)
    chunks = list(pair.stream(PROMPT, max_new_tokens=20))
    assert "".join(c.text for c in chunks) == whole.text
    assert [t.id for c in chunks for t in c.tokens] == whole.token_ids
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason
    assert len(chunks) > 1


def rows_in_use(pair):
    """After everything that was asked before is done."""
    runners = pair.engine.runners.values()
    return pair.between_rounds(lambda: [r.rows_in_use for r in runners])


def test_an_abandoned_stream_frees_its_rows(pair):
    stream = pair.stream(PROMPT, max_new_tokens=50, ignore_eos=True)
    next(stream)
    stream.close()
    assert rows_in_use(pair) == [0, 0]
    assert not pair.engine.busy


def test_event_loops_and_threads_share_the_engine(pair):
    prompts = ["a", "b c", "d e f", "g"]
    wanted = {p: pair.generate(p, max_new_tokens=15).text for p in prompts}

    async def one(prompt):
        return "".join([c.text async for c in pair.astream(prompt, max_new_tokens=15)])

    async def everything():
        single = await pair.agenerate("a", max_new_tokens=15)
        several = await pair.agenerate(prompts, max_new_tokens=15)
        assert single.text == wanted["a"]
        assert [r.text for r in several] == [wanted[p] for p in prompts]
        return await asyncio.gather(*(one(p) for p in prompts))

    found = {}

    def work(prompt):
        found[prompt] = pair.generate(prompt, max_new_tokens=15).text

    threads = [threading.Thread(target=work, args=(p,)) for p in prompts]
    for thread in threads:
        thread.start()
    assert asyncio.run(everything()) == [wanted[p] for p in prompts]
    for thread in threads:
        thread.join()
    assert found == wanted


def test_a_cancelled_task_frees_its_rows(pair):
    async def cancelled():
        task = asyncio.create_task(pair.agenerate(PROMPT, max_new_tokens=150, ignore_eos=True))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert rows_in_use(pair) == [0, 0]
    assert not pair.engine.busy


def test_stop_strings_and_tokens(pair):
    whole = pair.generate(PROMPT, max_new_tokens=30, ignore_eos=True)
    stop = whole.text[10:13]
    stopped = pair.generate(PROMPT, max_new_tokens=30, ignore_eos=True, stop=stop)
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop"
    token = whole.token_ids[5]
    stopped = pair.generate(PROMPT, max_new_tokens=30, ignore_eos=True, stop_token_ids=[token])
    end = whole.token_ids.index(token)
    assert stopped.token_ids == whole.token_ids[: end + 1]
    assert stopped.finish_reason == "stop"


def test_prompt_lookup_needs_no_draft(folders):
    pair = load_pair(folders["target"], "lookup", max_length=200)
    prompt = "abc abc abc ab"
    result = pair.generate(prompt, max_new_tokens=40, ignore_eos=True)
    plain = pair.generate(prompt, "target", max_new_tokens=40, ignore_eos=True)
    assert result.token_ids == plain.token_ids
    assert result.counters.draft_passes == 0
    with pytest.raises(OptionError, match="no draft model"):
        pair.generate(prompt, "draft")


def test_one_failing_request_leaves_the_others_whole(pair):
    class Broken(stet.Exact):
        name = "broken"

        def verify(self, blocks):
            if (blocks.drafted.shape[0] > 1) or bool((blocks.raw_target_logits == 0).all()):
                raise RuntimeError("as a batch")
            return super().verify(blocks)

    results = pair.generate([PROMPT, "e f"], Broken(), max_new_tokens=10)
    wanted = pair.generate([PROMPT, "e f"], max_new_tokens=10)
    assert [r.token_ids for r in results] == [r.token_ids for r in wanted]

    class Guilty(stet.Exact):
        name = "guilty"

        def verify(self, blocks):
            raise RuntimeError("it was me")

    with pytest.raises(StetError, match="it was me"):
        pair.generate(PROMPT, Guilty(), max_new_tokens=10)
    (failed,) = pair.generate([PROMPT], Guilty(), max_new_tokens=10)
    assert failed.finish_reason == "error"
    assert "it was me" in failed.error


def test_a_timeout_keeps_what_there_is(pair):
    result = pair.generate(PROMPT, max_new_tokens=150, ignore_eos=True, timeout=0.0)
    assert result.finish_reason == "timeout"
    assert len(result.token_ids) < 150


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "no option 'temprature'"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -3}, "top_k is -3"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"frequency_penalty": 2.5}, "frequency_penalty is 2.5; it must be between -2 and 2"),
        ({"presence_penalty": -3}, "presence_penalty is -3.0; it must be between -2 and 2"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 500}, "exceed 200 tokens"),
        ({"policy": "target", "policy_parameters": {"k": 1}}, "has no parameters"),
        ({"draft_length": 0}, "draft_length is 0"),
        ({"draft_length": "long"}, "draft_length is 'long'"),
        ({"stop": ["x", ""]}, "must not be empty"),
        ({"logprobs": 99}, "logprobs is 99"),
        ({"policy": "exactly"}, "no policy 'exactly'; choose from"),
        ({"policy_parameters": {"k": 1}}, "has no parameter 'k'"),
        ({"logit_bias": {1000: 1.0}}, "logit_bias names token 1000"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(pair, options, message):
    with pytest.raises(StetError, match=message):
        pair.generate(PROMPT, **options)
    assert not pair.engine.busy


def test_loading_refuses_half_a_pair(folders):
    with pytest.raises(OptionError, match="Name a draft"):
        load_pair(folders["target"])
    with pytest.raises(OptionError, match="Name a target"):
        load_pair(draft=folders["draft"])
    with pytest.raises(LoadError):
        load_pair(folders["target"], folders["target"] / "nowhere")


def test_different_tokenizers_are_refused(folders, tmp_path):
    save(tmp_path, model=llama(vocab=VOCAB))
    tokenizer([*WORDS[:7], "odd", *WORDS[8:]]).save_pretrained(tmp_path)
    with pytest.raises(TokenizerMismatch, match="odd"):
        load_pair(folders["target"], tmp_path)


def test_what_does_not_fit_is_refused_before_it_is_allocated(folders):
    with pytest.raises((StetError, CapacityError)):
        load_pair(folders["target"], folders["draft"], max_batch=10**8)


def test_a_wider_target_vocabulary_is_padding(folders, tmp_path):
    # Some families pad the larger models' vocabularies further than the smaller ones'.
    model = llama(vocab=VOCAB, layers=3)
    model.resize_token_embeddings(VOCAB + 8, mean_resizing=False)
    save(tmp_path, model=model)
    pair = load_pair(tmp_path, folders["draft"], max_length=200)
    for policy in ("exact", "block"):
        result = pair.generate(PROMPT, policy, max_new_tokens=20, temperature=0.8, seed=3)
        assert result.counters.emitted_tokens
    greedy_result = pair.generate(PROMPT, max_new_tokens=20, probabilities=True)
    assert greedy_result.token_ids == pair.generate(PROMPT, "target", max_new_tokens=20).token_ids


def test_a_chat_without_a_template_is_refused(pair):
    with pytest.raises(OptionError, match="no chat template"):
        pair.render([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(("choice", "started"), [("auto", ["target", "draft"]), (False, [])])
def test_compiling_begins_by_itself_only_after_long_work(folders, monkeypatch, choice, started):
    begun = []

    def record(runner):
        begun.append(runner.model.role)

    monkeypatch.setattr(Runner, "start_compiling", record)
    monkeypatch.setattr("stet.engine.thread.gains_by_compiling", lambda _: True)
    pair = load_pair(folders["target"], folders["draft"], max_length=200, compile=choice)
    pair.generate(PROMPT, max_new_tokens=5)
    assert begun == []
    pair._thread.seconds_to_compiling -= COMPILE_AFTER
    pair.generate(PROMPT, max_new_tokens=20)
    assert begun == started


def test_what_helped_to_load_is_released_once_the_pair_is_whole(folders, monkeypatch):
    released = []
    monkeypatch.setattr("stet.pair.release_pool", lambda: released.append(True))
    load_pair(folders["target"], folders["draft"], max_length=200, compile=False)
    assert released == [True]


def test_a_drafts_reading_counts_where_the_text_does_not_depend_on_it(pair, folders):
    assert pair.auto_length().read_cost > 0
    assert pair.auto_length(greedy=False).read_cost == 0
    alone = load_pair(folders["target"], "lookup", max_length=200, compile=False)
    assert alone.auto_length().read_cost == 0


def test_what_is_faster_as_it_is_is_not_compiled_by_itself(folders):
    pair = load_pair(folders["target"], folders["draft"], max_length=200, compile=False)
    target = pair.target
    own = replace(target, native=16, foreign=None)
    assert not gains_by_compiling(own)
    assert gains_by_compiling(replace(own, native=0))
    assert gains_by_compiling(replace(own, foreign="it was asked for"))
