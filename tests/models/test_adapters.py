"""Adapters, merged into the weights they were trained on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM

import stet
from families import VOCAB, WORDS, save, tokenizer
from stet.core.errors import CompatibilityError, LoadError
from stet.models import adapters, load_model

peft = pytest.importorskip("peft")

TOKENS = torch.arange(4, 14)[None]


def lora(base: Path, folder: Path, kind: str = "lora", tokens: int | None = None) -> Path:
    """A trained adapter for the model in `base`, saved as peft saves it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if tokens is not None:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    config = {
        "lora": lambda: peft.LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "v_proj", "down_proj"],
            task_type="CAUSAL_LM",
            modules_to_save=None if tokens is None else ["embed_tokens", "lm_head"],
        ),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }[kind]()
    changed = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in changed.named_parameters():
            if weight.requires_grad and "lora" in name:
                weight.normal_(0, 0.3)
    changed.save_pretrained(folder)
    return folder


def logits_of(folder: Path) -> torch.Tensor:
    """What peft's own model gives."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = folder / base if (folder / base).is_dir() else Path(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.inference_mode():
        return peft.PeftModel.from_pretrained(model, folder).eval()(input_ids=TOKENS).logits


def own_logits(loaded) -> torch.Tensor:
    loaded.model.set_attn_implementation("eager")
    with torch.inference_mode():
        return loaded.model(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def wanted(alone: Path) -> torch.Tensor:
    return logits_of(alone)


def test_an_adapter_alone_is_merged_into_its_base(alone: Path, wanted: torch.Tensor) -> None:
    loaded = load_model(alone, role="target", device="cpu")
    torch.testing.assert_close(own_logits(loaded), wanted, atol=1e-4, rtol=0)
    assert loaded.name == str(alone)
    assert loaded.adapter is not None
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())


def test_an_adapter_beside_its_base_is_not_left_out(
    base: Path, alone: Path, wanted: torch.Tensor, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    shutil.copytree(base, folder)
    for file in alone.glob("adapter_*"):
        shutil.copy(file, folder)
    # Where it was trained is elsewhere now.
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "/gone"})
    )
    loaded = load_model(folder, role="draft", device="cpu")
    torch.testing.assert_close(own_logits(loaded), wanted, atol=1e-4, rtol=0)
    assert not torch.allclose(own_logits(load_model(base, role="draft", device="cpu")), wanted)


def test_target_and_draft(base: Path, alone: Path) -> None:
    pair = stet.load_pair(alone, base, device="cpu", compile=False)
    result = pair.generate("1+2=", max_new_tokens=12, ignore_eos=True)
    assert (
        result.token_ids
        == pair.generate("1+2=", "target", max_new_tokens=12, ignore_eos=True).token_ids
    )
    other = stet.load_pair(base, alone, device="cpu", compile=False)
    assert other.generate("1+2=", "draft", max_new_tokens=12, ignore_eos=True).token_ids == (
        result.token_ids
    )
    assert pair.fingerprint != other.fingerprint


def test_a_relative_base_is_looked_for_beside_the_adapter(
    base: Path, alone: Path, wanted: torch.Tensor, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "base")
    shutil.copytree(alone, tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "../base"})
    )
    loaded = load_model(tmp_path / "adapter", role="target", device="cpu")
    torch.testing.assert_close(own_logits(loaded), wanted, atol=1e-4, rtol=0)


def test_an_adapter_with_tokens_of_its_own(base: Path, tmp_path: Path) -> None:
    more = tokenizer()
    more.add_tokens([AddedToken(f"<{n}>", special=True) for n in range(VOCAB - len(WORDS) + 2)])
    folder = lora(base, tmp_path / "adapter", tokens=VOCAB + 2)
    more.save_pretrained(folder)
    loaded = load_model(folder, role="target", device="cpu")
    assert loaded.rows == loaded.vocab_size == VOCAB + 2
    assert loaded.tokenizer.convert_tokens_to_ids("<0>") == len(WORDS)


def test_half_precision(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16)
    half = save(tmp_path / "half", model=model)
    loaded = load_model(lora(half, tmp_path / "adapter"), role="target", device="cpu")
    assert loaded.dtype == torch.bfloat16
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def refused(kind: type[LoadError], message: str, folder: Path) -> None:
    with pytest.raises(kind, match=message) as caught:
        load_model(folder, role="target", device="cpu")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_what_lacks_a_part_is_refused(alone: Path, base: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(alone, tmp_path / name))

    pickled = copy("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused(LoadError, "only pickled adapter weights", pickled)
    empty = copy("empty")
    (empty / "adapter_model.safetensors").unlink()
    refused(LoadError, "but no adapter_model.safetensors", empty)
    for name, value, message in (
        ("gone", "/no/such/folder", "is an adapter for /no/such/folder, which is not there"),
        ("unsaid", None, "does not say of which model"),
    ):
        folder = copy(name)
        path = folder / "adapter_config.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": value})
        )
        refused(LoadError, message, folder)
    bare = Path(shutil.copytree(base, tmp_path / "bare"))
    shutil.copy(alone / "adapter_model.safetensors", bare)
    refused(LoadError, "but no adapter_config.json", bare)


def test_pickled_adapters_beside_a_base_are_not_opened(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "both"))
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n.")
    refused(LoadError, "only pickled adapter weights", folder)


def test_what_cannot_be_merged_is_refused(base: Path, tmp_path: Path) -> None:
    folder = lora(base, tmp_path / "prompt", kind="prompt")
    refused(CompatibilityError, "cannot be merged into the weights", folder)


def test_peft_is_asked_for(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(LoadError, r"needs peft: pip install 'stet-decoding\[adapters\]'", alone)


def test_a_name_on_the_hub(
    alone: Path, wanted: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub would send is in a folder; its revision is the adapter's, not the base's."""
    asked = []

    def found(name, revision=None):
        asked.append((name, revision))
        return str(alone / "adapter_config.json") if name == "someone/adapter" else None

    monkeypatch.setattr(adapters, "find_adapter_config_file", found)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(alone))
    loaded = load_model("someone/adapter", role="target", device="cpu", revision="v2")
    torch.testing.assert_close(own_logits(loaded), wanted, atol=1e-4, rtol=0)
    assert asked == [("someone/adapter", "v2")]
