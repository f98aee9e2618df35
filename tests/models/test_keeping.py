"""Full-precision folders on a CPU: weights in a kernel's layout, as they are or rounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import families
from stet import load_pair
from stet.core.errors import CompatibilityError, OptionError
from stet.engine.runner import Runner
from stet.kernels import PackedEmbedding, PackedLinear, arrange, quantise, unavailable
from stet.kernels.bfloat import BfloatWeight
from stet.models.files import loaded_bytes
from stet.models.fingerprint import fingerprint
from stet.models.loading import load_model, prepare_model

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

KNOWN = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3")


def folder_of(path: Path, family: str, dtype: torch.dtype = torch.bfloat16, **changes) -> Path:
    config = families.config(family)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(path)
    families.tokenizer().save_pretrained(path)
    return path


def load(folder: Path, **options):
    return load_model(folder, role="target", device="cpu", max_length=64, **options)


def plain(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


@pytest.mark.parametrize("family", KNOWN)
def test_weights_are_arranged_and_keep_their_values(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path, family)
    wanted = plain(folder)
    if family == "gemma2" and not hasattr(wanted.get_input_embeddings(), "embed_scale"):
        pytest.skip("Stet's decoder does not run a Gemma 2 of this transformers")
    loaded = load(folder)
    assert loaded.foreign is None
    kept = [part for part in loaded.model.modules() if isinstance(part, PackedLinear)]
    assert kept
    assert all(isinstance(part.packed, BfloatWeight) for part in kept)
    assert not any(type(part) is nn.Linear for part in loaded.model.modules())
    found = loaded.model.state_dict()
    for name, weight in wanted.state_dict().items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight), name
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        wanted.set_attn_implementation("eager")
        expected = wanted(input_ids=tokens).logits.float()
        logits = Runner(loaded, max_rows=1, max_length=64)
        out = logits.forward([logits.allocate()], tokens, [0], logits="all").logits.float()
    scale = expected.square().mean().sqrt()
    assert (out - expected[..., : out.shape[-1]]).square().mean().sqrt() < 0.05 * scale


def test_a_shared_weight_is_held_once(tmp_path: Path) -> None:
    loaded = load(folder_of(tmp_path, "gemma3", tie_word_embeddings=True))
    embedding, head = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    assert isinstance(embedding, PackedEmbedding)
    assert embedding.packed is head.packed
    wanted = plain(tmp_path)
    size = sum(parameter.nbytes for parameter in wanted.parameters())
    tiles = 32 * wanted.config.hidden_size * 2
    assert loaded.parameter_bytes <= size + tiles * sum(1 for _ in loaded.model.modules())
    ids = torch.tensor([[1, 5]])
    assert torch.equal(embedding(ids), wanted.get_input_embeddings()(ids))


def test_the_models_own_generate_and_what_reads_weights_go_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "qwen2", tie_word_embeddings=True)
    loaded, wanted = load(folder), plain(folder)
    ids = torch.tensor([[1, 5, 9]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    wanted.set_attn_implementation("eager")
    loaded.model.set_attn_implementation("eager")
    assert torch.equal(loaded.model.generate(ids, **options), wanted.generate(ids, **options))
    layer = loaded.model.model.layers[0].self_attn.q_proj
    assert torch.equal(layer.weight, wanted.model.layers[0].self_attn.q_proj.weight)
    loaded.model.save_pretrained(tmp_path / "again")
    for name, weight in plain(tmp_path / "again").state_dict().items():
        assert torch.equal(weight, wanted.state_dict()[name]), name


def test_a_state_dict_that_is_loaded_reaches_the_passes(tmp_path: Path) -> None:
    loaded = load(folder_of(tmp_path / "one", "qwen2"))
    torch.manual_seed(1)
    other = AutoModelForCausalLM.from_config(families.config("qwen2"), dtype=torch.bfloat16)
    other.save_pretrained(tmp_path / "two")
    families.tokenizer().save_pretrained(tmp_path / "two")
    loaded.model.load_state_dict(other.state_dict())
    wanted = load(tmp_path / "two")

    def logits(model) -> torch.Tensor:
        runner = Runner(model, max_rows=1, max_length=64)
        tokens = torch.arange(3, 20)[None]
        return runner.forward([runner.allocate()], tokens, [0], logits="all").logits

    assert torch.equal(logits(loaded), logits(wanted))


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_an_arranged_model_is_the_same_to_policies(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path, family, tie_word_embeddings=True)
    own = prepare_model(plain(folder), families.tokenizer(), max_length=64)
    assert fingerprint(load(folder)) == fingerprint(own)


def test_float32_stays_and_other_families_stay(tmp_path: Path) -> None:
    wide = load(folder_of(tmp_path / "wide", "llama", torch.float32))
    assert type(wide.model.model.layers[0].mlp.up_proj) is nn.Linear
    if families.Version(families.transformers.__version__) >= families.Version("5.4"):
        other = load(folder_of(tmp_path / "gpt2", "gpt2"))
        assert not any(isinstance(part, PackedLinear) for part in other.model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_weights_are_rounded(tmp_path: Path, quantize: str, dtype: torch.dtype) -> None:
    folder = folder_of(tmp_path, "qwen2", dtype, tie_word_embeddings=True)
    loaded, wanted = load(folder, quantize=quantize), plain(folder)
    assert loaded.foreign is None
    assert loaded.quantize == quantize
    own, bits = dict(loaded.model.named_modules()), {"int8": 8, "int4": 4}[quantize]
    for name, module in wanted.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            ends = name in ("lm_head", "model.embed_tokens")
            rounded = quantise(module.weight, 8 if ends else bits).dequantise()
            assert torch.equal(own[name].packed.dequantise(), rounded), name
    assert loaded.model.get_input_embeddings().packed is own["lm_head"].packed
    assert loaded.identity["quantize"] == quantize
    found = {fingerprint(load(folder)), fingerprint(loaded)}
    assert len(found | {fingerprint(load(folder, quantize="int8"))}) == 2 + (quantize == "int4")


def test_without_a_kernel_the_values_are_the_same(tmp_path: Path, monkeypatch) -> None:
    folder = folder_of(tmp_path, "llama", torch.float32)
    kept = load(folder, quantize="int4").model
    monkeypatch.setattr("stet.models.keeping.unavailable", lambda: "there is no compiler")
    with pytest.warns(RuntimeWarning, match="rounded to int4, and kept in .*no compiler"):
        unkept = load(folder, quantize="int4").model
    for name, module in kept.named_modules():
        if isinstance(module, (PackedLinear, PackedEmbedding)):
            assert torch.equal(module.weight, unkept.get_submodule(name).weight), name
    assert type(load(folder_of(tmp_path / "half", "llama")).model.lm_head) is nn.Linear


def test_matrices_are_left_to_torch_where_a_user_asks_for_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama")
    left = load(folder, packed=False)
    assert not any(isinstance(part, PackedLinear) for part in left.model.modules())
    assert fingerprint(left) == fingerprint(load(folder))
    rounded, kept = load(folder, packed=False, quantize="int4"), load(folder, quantize="int4")
    wanted = kept.model.get_submodule("model.layers.0.mlp.up_proj").weight
    assert torch.equal(rounded.model.model.layers[0].mlp.up_proj.weight, wanted)


def test_greedy_speculation_gives_the_targets_own_text(tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "head_dim": 32}  # heads that the kernel of attention serves
    target = folder_of(tmp_path / "target", "llama", **sizes)
    draft = folder_of(tmp_path / "draft", "llama", **sizes, num_hidden_layers=1)
    options = {"max_new_tokens": 40, "ignore_eos": True}
    for quantize, draft_quantize in ((None, None), (None, "int4"), ("int8", "none")):
        with load_pair(
            target,
            draft,
            device="cpu",
            compile=False,
            max_length=64,
            quantize=quantize,
            draft_quantize=draft_quantize,
        ) as pair:
            assert pair.target.quantize == quantize
            assert pair.draft.quantize == (None if draft_quantize == "none" else draft_quantize)
            own = pair.generate([1, 5, 9], "target", **options)
            for length in (1, 3, 7):
                found = pair.generate([1, 5, 9], "exact", draft_length=length, **options)
                assert found.token_ids == own.token_ids


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "llama", "llama")
    with pytest.raises(OptionError, match="'int3' is not known; use one of int8, int4"):
        load(folder, quantize="int3")
    with pytest.raises(OptionError, match="is for models on a CPU.*several devices"):
        load(folder, quantize="int4", device_map="auto")
    families.needs_gpt2()
    with pytest.raises(CompatibilityError, match="is a gpt2 model; give a quantised"):
        load(folder_of(tmp_path / "gpt2", "gpt2"), quantize="int4")


def test_memory_is_counted_as_it_will_be_held(tmp_path: Path) -> None:
    """The shape is wide, so that tiles that are filled up do not matter."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 1024}
    folder = folder_of(tmp_path, "qwen2", tie_word_embeddings=True, **sizes)
    config, file = families.config("qwen2"), folder / "model.safetensors"
    config.dtype = torch.bfloat16
    for quantize in (None, "int8", "int4"):
        planned = loaded_bytes(file, config, "auto", quantize)
        assert planned == pytest.approx(load(folder, quantize=quantize).parameter_bytes, rel=0.01)
    # What has to be converted first is in memory as a whole.
    assert loaded_bytes(file, config, torch.float32, "int4") == loaded_bytes(
        file, config, torch.float32
    )


def test_some_elements_of_an_arranged_weight() -> None:
    weight = torch.randn(70, 45).bfloat16()
    numbers = torch.randint(0, weight.numel(), (200,))
    assert torch.equal(arrange(weight).elements(numbers), weight.flatten()[numbers])


def test_peft_refuses_exchanged_modules_and_merges_before_they_are(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = folder_of(tmp_path / "model", "llama")
    settings = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    with pytest.raises(ValueError, match="not supported"):
        peft.get_peft_model(load(folder).model, settings)
    torch.manual_seed(0)
    peft.get_peft_model(plain(folder), settings).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(file.read_text().replace(str(folder), "../model"))
    merged = load(tmp_path / "adapter").model.model.layers[0].self_attn.q_proj
    assert isinstance(merged, PackedLinear)
    assert not torch.equal(merged.weight, plain(folder).model.layers[0].self_attn.q_proj.weight)


def test_what_has_a_format_of_its_own_is_not_quantised(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    import ggufs

    file = ggufs.write(tmp_path / "llama.gguf", ggufs.build("llama", 0), "llama", "Q4_K")
    with pytest.raises(CompatibilityError, match="is a GGUF file, whose weights have a format"):
        load(file, quantize="int4")
    folder = folder_of(tmp_path / "llama", "llama")
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CompatibilityError, match="is quantised already, with gptq; leave"):
        load(folder, quantize="int4")
