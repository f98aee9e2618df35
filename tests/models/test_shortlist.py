"""Shortlists of a draft's tokens: logits of the head's own, texts that do not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stet import Pair, load_pair
from stet.core.head import Shortlist
from stet.core.model import LoadedModel
from stet.kernels import unavailable
from stet.models import load_model, prepare_model
from stet.models.shortlist import with_shortlist

COUNT = 512
PROMPTS = ["Ann has 3 apples and buys 4 more. How many has she?", "5 * 7 + 2 = ", "Tom"]


@pytest.fixture(scope="module")
def bundled() -> Pair:
    return load_pair(profile=False, max_length=256, max_batch=4)


def ids(result: Any) -> list[int]:
    return [token.id for token in result.tokens]


def pair_of(bundled: Pair, draft: LoadedModel) -> Pair:
    return Pair(bundled.target, draft, max_length=256, max_batch=4)


@pytest.fixture(scope="module")
def short(bundled: Pair) -> Pair:
    assert bundled.draft is not None
    return pair_of(bundled, with_shortlist(bundled.draft, COUNT))


@pytest.fixture
def asked(short: Pair, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The logits that the draft's passes are asked for, where they draft and measure nothing."""
    found: list[str] = []
    drafting: list[bool] = []
    runner, drafter = short._draft_runner, short.engine.drafter
    forward, run = runner.forward, drafter.run

    def watched(*arguments: Any, **options: Any) -> Any:
        if drafting:
            found.append(options.get("logits", "all"))
        return forward(*arguments, **options)

    def draft(drafts: Any) -> Any:
        drafting.append(True)
        try:
            return run(drafts)
        finally:
            drafting.clear()

    monkeypatch.setattr(runner, "forward", watched)
    monkeypatch.setattr(drafter, "run", draft)
    return found


def list_of(model: LoadedModel) -> Shortlist:
    assert model.shortlist is not None
    return model.shortlist


def check_logits(model: LoadedModel) -> None:
    """A shortlist's logits are the whole head's at its tokens, and its places are theirs."""
    short = list_of(model)
    assert model.head is not None
    generator = torch.Generator().manual_seed(0)
    width = model.model.config.hidden_size
    hidden = torch.randn(2, 3, width, generator=generator).to(model.dtype)
    tokens = short.tokens(torch.arange(short.size))
    expected = model.head(hidden)[..., tokens]
    assert torch.allclose(short.logits(hidden).float(), expected.float(), rtol=1e-2, atol=1e-3)
    assert [short.index(token) for token in tokens.tolist()] == list(range(short.size))
    left_out = set(range(model.vocab_size)) - set(tokens.tolist())
    assert {short.index(token) for token in left_out} <= {None}


def test_a_plain_head(bundled: Pair) -> None:
    assert bundled.draft is not None
    model = with_shortlist(bundled.draft, COUNT)
    assert (list_of(model).size, list_of(model).added) == (COUNT, None)
    check_logits(model)


@pytest.mark.parametrize("packed", [False, True])
def test_a_head_from_a_file_and_its_added_tokens(tmp_path: Path, packed: bool) -> None:
    pytest.importorskip("gguf", reason="needs the gguf package")
    if packed and unavailable():
        pytest.skip(str(unavailable()))
    import ggufs

    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2", "Q8_0")
    whole = load_model(path, role="draft", packed=packed)
    model = with_shortlist(whole, 64)
    short = list_of(model)
    assert short.index(ggufs.END) is not None
    assert 64 < short.size < model.vocab_size
    assert short.start % 32 == 0
    assert model.parameter_bytes == whole.parameter_bytes
    check_logits(model)


def test_a_draft_of_another_size_has_none(bundled: Pair) -> None:
    """Its shortlist would reach beyond its vocabulary."""
    assert bundled.draft is not None
    assert with_shortlist(bundled.draft, COUNT).resized(1000).shortlist is None


def test_where_there_is_none(bundled: Pair) -> None:
    draft = bundled.draft
    assert draft is not None
    assert with_shortlist(draft).shortlist is None  # the vocabulary is small
    assert with_shortlist(replace(draft, head=None), COUNT).shortlist is None
    assert with_shortlist(replace(draft, tokenizer=None), COUNT).shortlist is None


def test_tokens_without_a_rank() -> None:
    from families import build, tokenizer

    model = prepare_model(build("llama"), tokenizer(), role="draft")
    assert model.vocab_size >= 2 * 16
    assert with_shortlist(model, 16).shortlist is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.6, "presence_penalty": 0.4},
        {"logit_bias": {600: 4.0, 40: 2.0}},
        {"draft_length": 3, "ignore_eos": True},
    ],
    ids=str,
)
def test_texts_are_the_same(
    bundled: Pair, short: Pair, asked: list[str], options: dict[str, Any]
) -> None:
    """Whatever is drafted; and what is drafted is in the shortlist."""
    options = {"max_new_tokens": 40, **options}
    wanted = [ids(r) for r in bundled.generate(PROMPTS, "target", **options)]
    results = short.generate(PROMPTS, "exact", **options)
    assert [ids(r) for r in results] == wanted
    assert "short" in asked
    assert sum(r.trace.counters.accepted_tokens for r in results) > 0


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.3}, {"frequency_penalty": 1.0}])
def test_the_penalty_is_that_of_the_tokens(bundled: Pair, penalty: dict[str, Any]) -> None:
    """A draft that penalises other tokens than the target would be rejected more often."""
    twin = replace(bundled.target, role="draft")
    pair = pair_of(bundled, with_shortlist(twin, COUNT))
    result = pair.generate(PROMPTS[0], max_new_tokens=30, draft_length=4, **penalty)
    written = result.trace.counters
    outside = sum(list_of(pair.draft).index(token) is None for token in ids(result))
    assert written.drafted_tokens - written.accepted_tokens <= 4 * outside


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("exact", {"temperature": 1.0, "seed": 3}),
        ("confident", {}),
        ("cospec", {}),
        ("draft", {}),
        ("specguard", {}),
    ],
    ids=str,
)
def test_texts_that_depend_on_the_draft_are_written_with_all_tokens(
    bundled: Pair, short: Pair, asked: list[str], policy: str, options: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 40, **options}
    wanted = bundled.generate(PROMPTS[0], policy, **options)
    assert ids(short.generate(PROMPTS[0], policy, **options)) == ids(wanted)
    if policy != "specguard":  # where the target writes a step, the draft helps it
        assert "short" not in asked


def test_a_text_of_other_tokens_is_drafted_with_all(short: Pair, asked: list[str]) -> None:
    prompt = [600 + n for n in range(70)]
    short.generate(prompt, "exact", max_new_tokens=1)
    assert "short" not in asked
    assert not list_of(short.draft).suits(prompt)
    assert list_of(short.draft).suits([600, 601, *range(40)])


def test_a_pair_is_loaded_with_one_unless_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stet.load.with_shortlist", lambda model: with_shortlist(model, COUNT))
    for wanted in (True, False):
        pair = load_pair(profile=False, max_length=64, max_batch=1, shortlist=wanted)
        assert pair.draft is not None
        assert (pair.draft.shortlist is not None) is wanted
        assert pair.target.shortlist is None
