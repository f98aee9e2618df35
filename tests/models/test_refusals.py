"""Every reason to refuse a model, and the sentence that goes with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
    RwkvConfig,
    T5Config,
    ViTConfig,
)

from families import build, config, save, tokenizer
from stet.core.errors import CompatibilityError, LoadError, MemoryPlanError
from stet.models import compatibility, files, load_model, prepare_model

pytestmark = pytest.mark.unit


def load(folder: Path | str, **options):
    return load_model(folder, role="target", device="cpu", **options)


def refuse(kind: type[LoadError], message: str, folder: Path | str, **options) -> None:
    with pytest.raises(kind, match=message) as caught:
        load(folder, **options)
    text = str(caught.value)
    assert text.endswith("."), text
    assert "\n" not in text


def config_only(folder: Path, configuration: PretrainedConfig) -> Path:
    """A folder that must be refused before its weights are read: they are nonsense."""
    configuration.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    return folder


def edit(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_missing_folder(tmp_path: Path) -> None:
    refuse(LoadError, "no folder .*check the path", tmp_path / "nowhere")


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    refuse(LoadError, "is a file; give the folder", path)


def test_weights_under_other_names(tmp_path: Path) -> None:
    """What transformers does not look for would be missed only after a while."""
    folder = save(tmp_path)
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    refuse(LoadError, "neither model.safetensors nor .* but model.fp16.safetensors", folder)


def test_a_lost_piece(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    refuse(LoadError, f"lacks {lost.name}, which its index names", tmp_path)


def test_no_config(tmp_path: Path) -> None:
    refuse(LoadError, "no config.json", tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    config("llama").save_pretrained(tmp_path)
    refuse(LoadError, "no \\*.safetensors file", tmp_path)


def test_only_pickled_weights(tmp_path: Path) -> None:
    config("llama").save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refuse(LoadError, "only pickled weights", tmp_path)


def test_an_unreadable_config(tmp_path: Path) -> None:
    config_only(tmp_path, config("llama"))
    (tmp_path / "config.json").write_text("{")
    refuse(LoadError, "configuration of .* could not be read", tmp_path)


def test_broken_weights(tmp_path: Path) -> None:
    refuse(LoadError, "could not be loaded .*complete", config_only(tmp_path, config("llama")))


@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("gptq", "pip install optimum gptqmodel, or"),
        ("awq", "pip install gptqmodel, or"),
        ("hqq", "pip install hqq, or"),
        ("aqlm", "; give"),
    ],
)
def test_packages_of_quantised_weights(tmp_path: Path, method: str, package: str) -> None:
    """The sentence names them, whatever transformers makes of their absence."""
    settings = {"quant_method": method, "bits": 4, "group_size": 128}
    folder = edit(save(tmp_path), quantization_config=settings)
    refuse(LoadError, f"is quantised with {method}, .*{package} .*as a GGUF file", folder)


def test_missing_weights(tmp_path: Path) -> None:
    folder = edit(save(tmp_path), num_hidden_layers=4)
    refuse(LoadError, "lacks 9 of its weights, such as model.layers.3", folder)


def test_no_tokenizer(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    refuse(LoadError, "tokenizer of .* could not be loaded", tmp_path)


def test_a_name_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuse(LoadError, "check the name, the revision and the network", "nobody/no-such-model")


@pytest.mark.parametrize("dtype", ["float64", "int8", torch.float64])
def test_unknown_dtype(tmp_path: Path, dtype: str) -> None:
    refuse(LoadError, "dtype .* use one of auto, float32", save(tmp_path), dtype=dtype)


def test_unknown_device(tmp_path: Path) -> None:
    folder = save(tmp_path)
    with pytest.raises(LoadError, match="device 'abacus' is not known"):
        load_model(folder, role="target", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(LoadError, match="No CUDA device"):
            load_model(folder, role="target", device="cuda")


def test_weights_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_bytes", lambda _: 1000)
    refuse(MemoryPlanError, "1.0 kB are free on cpu; use a smaller", save(tmp_path))


def test_what_is_counted_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither weights that lie there a second time nor as they are stored, but as they will be."""
    model = build("llama", dtype=torch.bfloat16)
    size = sum(weight.nbytes for weight in model.parameters())
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    (tmp_path / "consolidated.safetensors").write_bytes(bytes(3 * size))
    (tmp_path / "adapter.safetensors").write_bytes(bytes(3 * size))
    monkeypatch.setattr(files, "available_bytes", lambda _: size)
    assert load(tmp_path).dtype == torch.bfloat16
    refuse(MemoryPlanError, "use a smaller", tmp_path, dtype="float32")
    monkeypatch.setattr(files, "available_bytes", lambda _: 2 * size)
    assert load(tmp_path, dtype="float32").dtype == torch.float32
    monkeypatch.setattr(files, "available_bytes", lambda _: size - 1)
    refuse(MemoryPlanError, "use a smaller", tmp_path, dtype="float16")


def test_remote_code_without_permission(tmp_path: Path) -> None:
    folder = edit(
        save(tmp_path),
        model_type="home_made",
        auto_map={
            "AutoConfig": "configuration_home.HomeConfig",
            "AutoModelForCausalLM": "modeling_home.HomeForCausalLM",
        },
    )
    refuse(CompatibilityError, "brings its own code; .*trust_remote_code=True", folder)


def test_encoder_decoder(tmp_path: Path) -> None:
    refuse(CompatibilityError, "encoder-decoder", config_only(tmp_path, T5Config()))


def test_not_a_language_model(tmp_path: Path) -> None:
    refuse(CompatibilityError, "does not know as a causal", config_only(tmp_path, ViTConfig()))


def test_recurrent_state(tmp_path: Path) -> None:
    folder = config_only(tmp_path, MambaConfig(num_hidden_layers=2))
    refuse(
        CompatibilityError,
        "whose state Stet cannot rewind|a recurrent state, which cannot be rewound",
        folder,
    )


def test_recurrent_state_without_layer_types(tmp_path: Path) -> None:
    folder = config_only(tmp_path, RwkvConfig(num_hidden_layers=2))
    refuse(CompatibilityError, "recurrent state, which cannot be rewound", folder)


def test_linear_attention_layers(tmp_path: Path) -> None:
    folder = config_only(
        tmp_path,
        config("qwen3"),
    )
    edit(folder, layer_types=["linear_attention", "full_attention", "full_attention"])
    refuse(CompatibilityError, "layers of type linear_attention", folder)


def test_chunked_attention_layers(tmp_path: Path) -> None:
    folder = edit(config_only(tmp_path, config("gemma3")), layer_types=["chunked_attention"] * 3)
    refuse(CompatibilityError, "layers of type chunked_attention", folder)


def test_no_attention_interface(tmp_path: Path) -> None:
    refuse(
        CompatibilityError,
        "BloomForCausalLM.* does not use transformers' AttentionInterface",
        config_only(tmp_path, BloomConfig()),
    )


def test_alibi(tmp_path: Path) -> None:
    folder = config_only(tmp_path, FalconConfig(alibi=True))
    refuse(CompatibilityError, "ALiBi", folder)


def test_attention_in_both_directions(tmp_path: Path) -> None:
    folder = config_only(tmp_path, Gemma3TextConfig(use_bidirectional_attention=True))
    refuse(CompatibilityError, "both directions", folder)


def test_dynamic_rotary_scaling(tmp_path: Path) -> None:
    folder = config_only(
        tmp_path,
        LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
    )
    refuse(CompatibilityError, "dynamic rotary scaling", folder)


def test_dynamic_rotary_scaling_of_one_layer_type(tmp_path: Path) -> None:
    configuration = Gemma3TextConfig()
    configuration.rope_parameters["full_attention"] = {
        "rope_type": "dynamic",
        "factor": 2.0,
        "rope_theta": 1e4,
    }
    with pytest.raises(CompatibilityError, match="dynamic rotary scaling"):
        compatibility.check_config(configuration, "it", None)


def test_context_shorter_than_asked(tmp_path: Path) -> None:
    folder = config_only(tmp_path, config("llama"))
    refuse(CompatibilityError, "context of 640 tokens, less than the 641", folder, max_length=641)


def test_attention_sinks() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        GptOssConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_local_experts=2,
            num_experts_per_tok=1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
    )
    with pytest.raises(CompatibilityError, match="takes an argument 's_aux'"):
        prepare_model(model, name="sinks")


def test_keyword_arguments_that_are_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a GPT-2 of transformers before 5.4."""
    model = build("llama")
    attend = model.model.layers[0].self_attn.forward

    def kept(*arguments, stet_view=None, **rest):
        return attend(*arguments, **rest)

    monkeypatch.setattr(model.model.layers[0].self_attn, "forward", kept)
    with pytest.raises(CompatibilityError, match=r"\(transformers \S+ gives .* no keyword"):
        prepare_model(model)


def test_layers_without_attention_of_their_own() -> None:
    model = build("llama")
    model.model.layers = model.model.layers[:2]
    with pytest.raises(CompatibilityError, match="3 layers but 2 calls of attention"):
        prepare_model(model)


def test_keys_changed_after_they_were_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    update = compatibility._Probe.update

    def doubled(self, key, value, layer_idx, *rest):
        key, value = update(self, key, value, layer_idx, *rest)
        return key * 2, value

    monkeypatch.setattr(compatibility._Probe, "update", doubled)
    with pytest.raises(CompatibilityError, match="keys other than those it just cached"):
        prepare_model(build("llama"))


def test_windows_unlike_the_configuration() -> None:
    model = build("gemma3")
    model.model.layers[0].self_attn.sliding_window = None
    with pytest.raises(CompatibilityError, match="layer 0 .* window of None"):
        prepare_model(model)


def test_the_attention_alone_says_what_to_do() -> None:
    model = prepare_model(build("llama"), self_check=False).model
    with pytest.raises(RuntimeError, match="set_attn_implementation\\('sdpa'\\)"):
        model(input_ids=torch.zeros((1, 3), dtype=torch.long))
