"""Classifiers as rewards: what they read, in batches as alone, and which folders are refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
)

import families
from stet.core.errors import CompatibilityError, LoadError, OptionError, StetError
from stet.rewards import ModelReward, as_reward, load_reward
from stet.rewards.load import BUNDLED, HEAD

TEXTS = ["ab", "1 + 2 = 3", "a much longer text, with 20 more", "x", "1 + 2 = 4"]

_SIZE = {
    "vocab_size": families.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}


def build(kind: str, labels: int = 1) -> Any:
    """A tiny random classifier."""
    torch.manual_seed(3)
    more = {"num_labels": labels}
    if kind == "llama-sequence":
        return LlamaForSequenceClassification(LlamaConfig(**_SIZE, **more)).eval()
    if kind == "llama-token":
        return LlamaForTokenClassification(LlamaConfig(**_SIZE, **more)).eval()
    if kind == "bert-sequence":
        return BertForSequenceClassification(BertConfig(**_SIZE, **more)).eval()
    config = GPT2Config(
        vocab_size=families.VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, **more
    )
    return GPT2ForTokenClassification(config).eval()


KINDS = ("llama-sequence", "llama-token", "bert-sequence", "gpt2-token")


def save(folder: Path, kind: str, labels: int = 1) -> Any:
    model = build(kind, labels)
    model.save_pretrained(folder)
    families.tokenizer().save_pretrained(folder)
    return model


@torch.inference_mode()
def alone(model: Any, text: str) -> float:
    """The reward of one text, without padding."""
    ids = families.tokenizer()(text)["input_ids"]
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    logits = logits[-1] if "Token" in type(model).__name__ else logits
    probabilities = logits.sigmoid() if len(logits) == 1 else logits.softmax(-1)
    return float(probabilities[-1])


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_read_like_each_text_alone(tmp_path: Path, kind: str, labels: int):
    model = save(tmp_path, kind, labels)
    reward = ModelReward.load(tmp_path, device="cpu", dtype="float32")
    expected = [alone(model, text) for text in TEXTS]
    assert max(expected) - min(expected) > 0.01
    assert reward.read(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert [reward.read([text])[0] for text in TEXTS] == pytest.approx(expected, abs=1e-5)


def test_without_a_pad_token_texts_are_padded_all_the_same(tmp_path: Path):
    model = build("llama-sequence")
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer = families.tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    reward = ModelReward.load(tmp_path, device="cpu")
    assert reward.tokenizer.pad_token_id is None
    expected = [reward.read([text])[0] for text in TEXTS]
    assert reward.read(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_half_precision_is_not_computed_in_on_a_cpu_unless_asked_for(tmp_path: Path):
    build("llama-token").to(torch.bfloat16).save_pretrained(tmp_path)
    families.tokenizer().save_pretrained(tmp_path)
    assert ModelReward.load(tmp_path, device="cpu").model.dtype == torch.float32
    assert ModelReward.load(tmp_path, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_text_that_is_too_long_is_refused_with_its_length(tmp_path: Path):
    save(tmp_path, "llama-token")
    reward = ModelReward.load(tmp_path, device="cpu")
    assert reward.max_length == 64
    reward.read(["a" * 64])
    with pytest.raises(StetError, match="reads 64 tokens and this prompt with its steps has 65"):
        reward.read(["a", "a" * 65])
    short = ModelReward.load(tmp_path, device="cpu", max_length=10)
    # A neighbour in the batch is answered.
    found = asyncio.run(_both(short, ["a" * 11], ["b"]))
    assert isinstance(found[0], StetError)
    assert found[1] == pytest.approx(reward.read(["b"]), abs=1e-6)


async def _both(reward: ModelReward, *questions: list[str]) -> list[Any]:
    asked = (reward._batcher.ask(texts) for texts in questions)
    return await asyncio.gather(*asked, return_exceptions=True)


# Folders


def test_a_model_that_is_no_classifier_is_refused(tmp_path: Path):
    families.save(tmp_path)
    with pytest.raises(CompatibilityError, match="no sequence or token classifier"):
        ModelReward.load(tmp_path)
    with pytest.raises(CompatibilityError, match="no sequence or token classifier"):
        ModelReward(families.build("llama"), families.tokenizer())


def test_a_classifier_whose_head_was_never_trained_is_refused(tmp_path: Path):
    model = build("llama-sequence")
    save(tmp_path, "llama-sequence")
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("score")}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"lacks 1 of its weights, such as score\.weight"):
        ModelReward.load(tmp_path)


def test_pickled_weights_are_not_opened(tmp_path: Path):
    model = save(tmp_path, "llama-sequence")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match="only pickled weights"):
        ModelReward.load(tmp_path)


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path):
    save(tmp_path, "llama-sequence")
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "strange"
    config["auto_map"] = {"AutoConfig": "code.Config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise RuntimeError('this ran')")
    with pytest.raises(StetError, match="brings its own code"):
        ModelReward.load(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(LoadError, match="There is no folder"):
        load_reward(str(tmp_path / "nothing"))


def test_broken_weights_are_refused(tmp_path: Path):
    save(tmp_path, "llama-sequence")
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0broken")
    with pytest.raises(LoadError, match="could not be loaded"):
        ModelReward.load(tmp_path)


def test_names_mean_what_ships_and_each_is_loaded_once(tmp_path: Path):
    assert load_reward(BUNDLED) is load_reward(BUNDLED)
    assert load_reward(BUNDLED).name == BUNDLED
    assert load_reward(HEAD).name == HEAD
    assert load_reward(BUNDLED).pair == load_reward(HEAD).pair
    save(tmp_path, "bert-sequence")
    reward = as_reward(str(tmp_path))
    assert isinstance(reward, ModelReward)
    assert reward.pair is None
    assert as_reward(reward) is reward
    with pytest.raises(OptionError, match="reward is empty"):
        as_reward("")
