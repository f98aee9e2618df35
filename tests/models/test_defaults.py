"""What a model's authors set for generation: taken, told as ignored, or pinned."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import stet
from families import WORDS, save_pair
from stet.pair import Pair
from stet.requests.options import PINNED

PROMPT = "how many"
SET = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.3,
    "suppress_tokens": [44, 47, len(WORDS) + 3],
    "bad_words_ids": [[48], [2]],
    "eos_token_id": 2,
}


def folders(place: Path, settings: dict) -> tuple[Path, Path]:
    target, draft = save_pair(place, vocab=len(WORDS)).values()
    for folder, more in ((target, settings), (draft, {"repetition_penalty": 2.0})):
        (folder / "generation_config.json").write_text(json.dumps(more))
    return target, draft


def load(place: Path, settings: dict) -> Pair:
    return stet.load_pair(*folders(place, settings), max_length=400, compile=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(tmp_path_factory.mktemp("set"), SET)


def test_greedy_text_is_what_transformers_would_write(pair: Pair) -> None:
    """Checked with its own `generate`, from the same folder."""
    tokens = pair.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(pair.target.name)
    # A row without a token is none that could be suppressed there.
    model.generation_config.suppress_tokens = [44, 47]
    with torch.inference_mode():
        whole = model.generate(tokens, do_sample=False, max_new_tokens=20)
    wanted = whole[0, tokens.shape[1] :].tolist()
    for policy in ("exact", "block", "target"):
        assert pair.generate(PROMPT, policy, max_new_tokens=20).token_ids == wanted
    plain = pair.generate(PROMPT, max_new_tokens=20, **PINNED).token_ids
    assert plain != wanted
    assert pair.generate(PROMPT, max_new_tokens=20, logit_bias={}).token_ids != wanted


def test_what_applied_is_in_the_trace(pair: Pair, tmp_path: Path) -> None:
    result = pair.generate(PROMPT, "draft", max_new_tokens=5)
    sampling = result.trace.settings.sampling
    assert sampling["repetition_penalty"] == 1.3, "the target's, whichever model writes"
    assert sampling["logit_bias"] == {"44": -math.inf, "47": -math.inf, "48": -math.inf}
    assert sampling["temperature"] == 0.0
    stet.core.trace.write([result.trace], tmp_path / "trace.jsonl")
    assert stet.core.trace.read(tmp_path / "trace.jsonl") == [result.trace]


def test_a_requests_own_value_wins(pair: Pair) -> None:
    asked = {"repetition_penalty": 1.0, "logit_bias": {3: 1.0}}
    sampling = pair.generate(PROMPT, max_new_tokens=3, **asked).trace.settings.sampling
    assert sampling["repetition_penalty"] == 1.0
    assert sampling["logit_bias"] == {"3": 1.0}
    unsaid = pair.generate(PROMPT, max_new_tokens=3, repetition_penalty=None, logit_bias=None)
    assert unsaid.trace.settings.sampling["repetition_penalty"] == 1.3
    assert len(unsaid.trace.settings.sampling["logit_bias"]) == 3


@pytest.mark.parametrize("policy", ["ensemble", "fly", "typical", "spec-reason"])
def test_suppressed_tokens_under_other_policies(pair: Pair, policy: str) -> None:
    for temperature in (0.0, 1.0):
        result = pair.generate(PROMPT, policy, max_new_tokens=20, temperature=temperature, seed=1)
        assert result.error is None
        assert not {44, 47, 48} & set(result.token_ids)


def test_what_is_ignored_is_told_once(tmp_path: Path) -> None:
    settings = {
        "no_repeat_ngram_size": 3,
        "forced_eos_token_id": 2,
        "bad_words_ids": [[4, 5]],
        "num_beams": 1,
        "min_new_tokens": 0,
        "max_length": 20,
    }
    with pytest.warns(RuntimeWarning, match="no_repeat_ngram_size") as caught:
        found = load(tmp_path, settings).generation_defaults
    assert len(caught) == 1
    assert found.ignored == (
        "forced_eos_token_id",
        "no_repeat_ngram_size",
        "bad_words_ids of several tokens",
    )
    assert (found.repetition_penalty, found.logit_bias) == (1.0, {})


def test_comparisons_pin_it(pair: Pair, tmp_path: Path) -> None:
    """A record does not hang on a file beside the weights, and says what was asked for."""
    from stet.evaluation.contenders import contender
    from stet.evaluation.run import Comparison, Plan
    from stet.evaluation.tasks.base import LoadedTask, Question

    task = LoadedTask(
        "two", [Question("1", PROMPT, None), Question("2", "the end", None)], None, 8, (), None
    )
    plan = Plan(task, [contender("exact"), contender("target")], "target", ["exact"])
    run = Comparison(pair, plan, tmp_path / "run")
    run.go()
    assert run.run.options["repetition_penalty"] == 1.0
    traces = (tmp_path / "run/traces.jsonl").read_text().splitlines()
    for line in traces:
        sampling = json.loads(line)["trace"]["settings"]["sampling"]
        assert sampling["repetition_penalty"] == 1.0
        assert sampling["logit_bias"] == {}
