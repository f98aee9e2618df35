"""GGUF files become the models that they hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("gguf")
import ggufs
from real import real_model
from stet.core.errors import CompatibilityError, LoadError, MemoryPlanError
from stet.load import load_pair
from stet.models import LoadedModel, files, load_model
from stet.models.fingerprint import fingerprint
from stet.models.gguf.file import GgufFile
from stet.models.gguf.types import TYPES
from stet.models.gguf.unpacking import unpack

pytestmark = pytest.mark.unit

TOKENS = torch.tensor([[1, 50, 7, 200, 33, 9, 121, 3, 66, 12, 18, 250]])
PACKED = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "IQ2_XS", "BF16", "F16", "F32",
]  # fmt: skip


def load(path: Path, **options: Any) -> LoadedModel:
    options = {"dtype": "float32", "device": "cpu", **options}
    return load_model(path, role="target", **options)


def logits(model: Any) -> torch.Tensor:
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return model(input_ids=TOKENS, use_cache=False).logits


def theirs(path: Path) -> Any:
    """transformers' own reading of a file."""
    found = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return found.eval()


@pytest.mark.parametrize("family", ggufs.FAMILIES)
def test_every_family_comes_back(tmp_path: Path, family: str) -> None:
    model = ggufs.build(family)
    path = ggufs.write(tmp_path / "it.gguf", model, family)
    found = load(path)
    torch.testing.assert_close(logits(found.model), logits(model), atol=1e-4, rtol=1e-4)
    ours, wanted = dict(found.model.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == wanted.keys()
    for name in wanted:
        # One was added to some norms when they were written, and taken away again.
        torch.testing.assert_close(ours[name], wanted[name], atol=2e-7, rtol=0)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_as_transformers_reads_it(tmp_path: Path, family: str, kind: str) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build(family), family, kind)
    reference = theirs(path)
    found = load(path)
    assert reference.state_dict().keys() == found.model.state_dict().keys()
    for name, weight in reference.state_dict().items():
        assert torch.equal(weight, found.model.state_dict()[name]), name
    wanted = logits(reference)
    assert wanted.isfinite().all()
    assert wanted.std() > 0.1
    assert torch.equal(logits(found.model), wanted)


@pytest.mark.parametrize("kind", [t.name for t in TYPES.values() if t.is_packed])
def test_every_bit_of_a_packed_number(kind: str) -> None:
    """Also of scales that no file has, but for those that are no numbers."""
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    raw = np.random.default_rng(0).integers(0, 256, (64, 32 * size), dtype=np.uint8)
    found = torch.empty(64, 32 * block)
    with np.errstate(all="ignore"):
        wanted = torch.from_numpy(gguf.quants.dequantize(raw, number))
        unpack(TYPES[number], torch.from_numpy(raw), found)
    assert found.isnan().equal(wanted.isnan())
    assert found.nan_to_num().equal(wanted.nan_to_num())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values_are_rounded_once(tmp_path: Path, dtype: str) -> None:
    model = ggufs.build("gemma2")
    path = ggufs.write(tmp_path / "it.gguf", model, "gemma2", "Q8_0")
    exact, found = load(path), load(path, dtype=dtype)
    assert found.dtype == getattr(torch, dtype)
    for name, weight in exact.model.named_parameters():
        assert torch.equal(weight.to(found.dtype), dict(found.model.named_parameters())[name])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q8_0", "bfloat16")],
)
def test_auto_is_what_loses_least(tmp_path: Path, kind: str, dtype: str) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2", kind)
    assert load(path, dtype="auto").dtype == getattr(torch, dtype)


def test_a_head_of_its_own_is_used(tmp_path: Path) -> None:
    """As llama.cpp does: also where the published model shares it with the embedding."""
    model = ggufs.build("qwen2")
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    kinds = {"token_embd.weight": "Q5_0", "output.weight": "Q8_0"}
    path = ggufs.write(tmp_path / "it.gguf", model, "qwen2", "Q5_0", kinds=kinds)
    found = load(path)
    head = found.model.get_output_embeddings().weight
    embedding = found.model.get_input_embeddings().weight
    assert not torch.equal(head, embedding)
    assert torch.equal(logits(found.model), logits(theirs(path)))
    assert (head - model.lm_head.weight).abs().max() < (embedding - head).abs().max()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_head_that_is_not_there_is_the_embedding(tmp_path: Path, family: str) -> None:
    model = ggufs.build(family, tie_word_embeddings=True)
    found = load(ggufs.write(tmp_path / "it.gguf", model, family))
    assert found.model.lm_head.weight is found.model.model.embed_tokens.weight
    torch.testing.assert_close(logits(found.model), logits(model), atol=1e-4, rtol=1e-4)


def test_factors_of_the_rotary_embedding(tmp_path: Path) -> None:
    """Llama 3 scales its frequencies, and its files have the factors that come of it."""
    model = ggufs.build(
        "llama",
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    )
    size = model.config.head_dim
    plain = 1 / 5000.0 ** (torch.arange(0, size, 2) / size)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy()
    assert factors.max() == pytest.approx(8)
    extra = {"rope_freqs.weight": factors}
    path = ggufs.write(tmp_path / "it.gguf", model, "llama", extra=extra)
    found = load(path)
    torch.testing.assert_close(logits(found.model), logits(model), atol=1e-4, rtol=1e-4)
    unscaled = logits(theirs(path))  # transformers passes the factors over
    assert (unscaled - logits(model)).abs().max() > 0.05


def test_yarn_and_linear_scaling(tmp_path: Path) -> None:
    for kind, more in {
        "linear": {},
        "yarn": {"original_max_position_embeddings": 32},
    }.items():
        scaling = {"rope_type": kind, "rope_theta": 5000.0, "factor": 4.0, **more}
        model = ggufs.build("qwen2", rope_parameters=scaling)
        changes = {"qwen2__rope__scaling__type": kind, "qwen2__rope__scaling__factor": 4.0}
        if more:
            changes["qwen2__rope__scaling__original_context_length"] = 32
        path = ggufs.write(tmp_path / f"{kind}.gguf", model, "qwen2", **changes)
        torch.testing.assert_close(logits(load(path).model), logits(model), atol=1e-4, rtol=1e-4)


# The tokenizer

TEXTS = ["the end in 12", "<|im_start|>user\nthe the<|im_end|>\n", "e\u0301 é 中 🙂", "  \n"]


def test_the_tokenizer_is_transformers_reading_of_it(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("llama"), "llama", rule="llama-bpe")
    ours = load(path).tokenizer
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        assert ours.encode(text) == reference.encode(text)
        assert ours.decode(ours.encode(text)) == reference.decode(reference.encode(text)) == text
    assert ours.get_vocab() == reference.get_vocab()
    assert ours.all_special_tokens == reference.all_special_tokens
    assert ours.chat_template == reference.chat_template == ggufs.TEMPLATE


def test_digits_are_split_where_the_file_says_so(tmp_path: Path) -> None:
    """transformers does not know this rule, and reads " 12" as one word."""
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("llama"), "llama", rule="smollm")
    ours = load(path).tokenizer
    assert ours.convert_ids_to_tokens(ours.encode("a 12")) == ["a", "Ġ", "1", "2"]


def test_letters_are_composed_where_the_rule_asks_for_it(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2", rule="qwen2")
    ours = load(path).tokenizer
    assert ours.encode("e\u0301") == ours.encode("é")


def test_words_that_are_tokens_are_whole(tmp_path: Path) -> None:
    model = ggufs.build("llama")
    merges = [merge for merge in ggufs.MERGES if merge != "th e"]  # nothing makes "the" now
    changes = {"tokenizer__ggml__merges": merges, "tokenizer__ggml__add_bos_token": None}
    path = ggufs.write(tmp_path / "it.gguf", model, "llama", rule="llama-bpe", **changes)
    ours = load(path).tokenizer
    assert ours.convert_ids_to_tokens(ours.encode("the")) == ["<|endoftext|>", "the"]


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES += ["▁", "a", "b", "c", "▁a", "ab", "▁ab", "abc", "▁b"]
SENTENCEPIECE = {
    "model": "llama",
    "pre": "default",
    "tokens": PIECES,
    "scores": [0.0] * 259 + [-1000.0] * 4 + [-1.0, -2.0, -3.0, -4.0, -5.0],
    "token_type": [2, 3, 3] + [6] * 256 + [1] * 9,
    "merges": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "padding_token_id": 0,
    "add_bos_token": None,
}


@pytest.mark.parametrize("space", [None, True, False])
def test_sentencepiece(tmp_path: Path, space: bool | None) -> None:
    settings = {f"tokenizer__ggml__{key}": value for key, value in SENTENCEPIECE.items()}
    settings["tokenizer__ggml__add_space_prefix"] = space
    model = ggufs.build("llama", vocab_size=len(PIECES))
    path = ggufs.write(tmp_path / "it.gguf", model, "llama", **settings)
    ours = load(path).tokenizer
    assert ours.tokenize("ab é") == [
        *(["▁ab"] if space is not False else ["ab"]),
        *["▁", "<0xC3>", "<0xA9>"],
    ]
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in ("ab abc b", "é\n a", "  a", "<s>a</s>"):
        ids = ours.encode(text)
        assert ids[0] == 1
        if space is False:
            assert ours.decode(ids[1:]) == text
        else:
            assert ids == reference.encode(text)
            assert ours.decode(ids) == reference.decode(ids)
    assert load(path).model.generation_config.eos_token_id == [2]


def test_rows_without_a_token_are_cut_off(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2")
    found = load(path)
    assert found.rows == len(ggufs.VOCABULARY)
    assert found.vocab_size == len(ggufs.VOCABULARY) - len(ggufs.PADDING)


def test_all_ends_of_an_answer(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2")
    ends = load(path).model.generation_config.eos_token_id
    assert ends == [ggufs.END, ggufs.VOCABULARY.index("<|endoftext|>")]


# Pairs


def test_a_pair_of_files_writes_what_their_models_write(tmp_path: Path) -> None:
    model = ggufs.build("qwen2")
    target = ggufs.write(tmp_path / "target.gguf", model, "qwen2", "Q8_0")
    draft = ggufs.write(tmp_path / "draft.gguf", model, "qwen2", "Q4_0")
    folder = tmp_path / "folder"
    loaded = load(target)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    texts = []
    for places in ((target, draft), (target, "lookup"), (folder, draft), (target, folder)):
        with load_pair(*places, dtype="float32", device="cpu", max_batch=2) as pair:
            assert pair.difference is None
            found = pair.generate("the 12 in", max_new_tokens=12)
            texts.append(found.token_ids)
            names = [Path(place).name for place in places if place != "lookup"]
            assert [item.identity["name"] for item in pair.models] == names
    assert len(texts[0]) == 12
    assert all(text == texts[0] for text in texts)


def test_a_fingerprint_tells_what_is_packed_differently(tmp_path: Path) -> None:
    model = ggufs.build("qwen2")
    first = ggufs.write(tmp_path / "first.gguf", model, "qwen2", "Q8_0")
    second = ggufs.write(tmp_path / "second.gguf", model, "qwen2", "Q5_0")
    again = ggufs.write(tmp_path / "again.gguf", model, "qwen2", "Q8_0")
    found = {path: fingerprint(load(path)) for path in (first, second, again)}
    assert found[first] == found[again] != found[second]


def test_the_length_is_the_files(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2")
    assert load(path).max_length == 128
    with pytest.raises(CompatibilityError, match="context of 128 tokens, less than the 200"):
        load(path, max_length=200)


# Places


def test_parts_are_found_by_the_first(tmp_path: Path) -> None:
    model = ggufs.build("llama")
    first = tmp_path / "it-00001-of-00003.gguf"
    ggufs.write(first, model, "llama", parts=3)
    torch.testing.assert_close(logits(load(first).model), logits(model), atol=1e-4, rtol=1e-4)
    assert load(tmp_path).name == str(tmp_path)
    second = tmp_path / "it-00002-of-00003.gguf"
    with pytest.raises(LoadError, match="give the first one, it-00001-of-00003.gguf"):
        load(second)
    second.rename(tmp_path / "elsewhere")
    with pytest.raises(LoadError, match="it-00002-of-00003.gguf is missing"):
        load(first)


def test_a_folder_with_one_file_and_with_several(tmp_path: Path) -> None:
    model = ggufs.build("qwen2")
    ggufs.write(tmp_path / "it-q8.gguf", model, "qwen2", "Q8_0")
    (tmp_path / "mmproj-it.gguf").write_bytes(b"GGUF")
    assert load(tmp_path).vocab_size
    ggufs.write(tmp_path / "it-q4.gguf", model, "qwen2", "Q4_0")
    with pytest.raises(LoadError, match="several GGUF files; name one of it-q4.gguf, it-q8.gguf"):
        load(tmp_path)
    load(tmp_path / "it-q8.gguf").model.save_pretrained(tmp_path)
    assert files.gguf_of(str(tmp_path)) is None  # transformers' own files come first


def test_a_file_without_its_ending(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2")
    assert load(path.rename(tmp_path / "sha256-0123")).vocab_size


def test_weights_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ggufs.build("qwen2")
    path = ggufs.write(tmp_path / "it.gguf", model, "qwen2", "Q4_0")
    size = sum(weight.numel() for weight in model.parameters())
    monkeypatch.setattr(files, "available_bytes", lambda _: 4 * size)
    assert load(path).dtype == torch.float32
    monkeypatch.setattr(files, "available_bytes", lambda _: 4 * size - 1)
    assert load(path, dtype="bfloat16")
    with pytest.raises(MemoryPlanError, match="use a smaller"):
        load(path)


def test_device_map_is_refused(tmp_path: Path) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("qwen2"), "qwen2")
    with pytest.raises(LoadError, match="one device"):
        load(path, device_map="auto")


# What is refused


def refused(path: Path, family: str, kind: str = "F32", **changes: Any) -> str:
    """The sentence that a file is refused with."""
    ggufs.write(path, ggufs.build(family), family, kind, **changes)
    with pytest.raises(LoadError) as caught:
        load(path)
    sentence = str(caught.value)
    assert sentence.startswith(("The tokenizer of", "The settings of", str(path)))
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"general__architecture": "mamba"}, "'mamba' model, and of GGUF files Stet reads llama"),
        ({"llama__expert_count": 8}, "mixture of experts"),
        ({"llama__block_count": 3}, "lacks 9 of its weights, such as model.layers.2"),
        ({"llama__block_count": 1}, "its settings ask for none"),
        ({"llama__block_count": 2**31 - 1}, "has '2147483647' for the setting llama.block_count"),
        ({"llama__context_length": None}, "lacks the setting llama.context_length"),
        ({"llama__embedding_length": 512}, "its settings ask for one of"),
        ({"llama__attention__head_count": "8"}, "has '8' for the setting"),
        ({"llama__attention__head_count": 7}, "make no llama model"),
        ({"llama__attention__value_length": 16}, "keys and values of different sizes"),
        ({"llama__rope__scaling__type": "new"}, "in the way 'new'"),
        ({"tokenizer__ggml__model": "bert"}, "a tokenizer of the kind 'bert'"),
        ({"tokenizer__ggml__pre": "new"}, "names the rule 'new' for splitting texts"),
        ({"tokenizer__ggml__pre": None}, "names the rule 'None' for splitting texts"),
        ({"tokenizer__ggml__tokens": None}, "no tokenizer's vocabulary"),
        ({"tokenizer__ggml__merges": ["q zz"]}, "could not be built"),
        ({"tokenizer__ggml__merges": None}, "could not be built"),
        ({"extra": {"blk.0.mystery.weight": np.ones(3, np.float32)}}, "'blk.0.mystery.weight'"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(tmp_path / "it.gguf", "llama", **changes)


def test_gemma_3_of_another_program(tmp_path: Path) -> None:
    sentence = refused(tmp_path / "it.gguf", "gemma3", gemma3__rope__freq_base=None)
    assert "lacks the setting gemma3.rope.freq_base" in sentence


def test_rows_are_moved_packed_or_not(tmp_path: Path) -> None:
    """For kernels that use weights as they are packed."""
    model = ggufs.build("llama")
    packed, plain = (
        {weight.name: weight for weight in GgufFile.open(path).weights()}
        for path in (
            ggufs.write(tmp_path / "packed.gguf", model, "llama", "Q8_0"),
            ggufs.write(tmp_path / "plain.gguf", model, "llama", "F32"),
        )
    )
    moved = [name for name, weight in packed.items() if weight.order is not None]
    assert len(moved) == 4
    assert all(name.endswith(("q_proj.weight", "k_proj.weight")) for name in moved)
    for name in moved:
        weight = packed[name]
        assert weight.type.name == "Q8_0"
        assert weight.raw.shape == (weight.shape[0], weight.shape[1] // 32 * 34)
        values, wanted = torch.empty(weight.shape), torch.empty(weight.shape)
        unpack(weight.type, weight.ordered, values)
        plain[name].unpack(wanted)
        assert (values - wanted).abs().max() < 0.01
        assert torch.equal(wanted, dict(model.named_parameters())[name])


def test_rare_formats_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("llama"), "llama", "IQ2_XS")
    monkeypatch.setitem(sys.modules, "gguf.quants", None)
    with pytest.raises(LoadError, match=r"IQ2_XS need the gguf package: .*decoding\[gguf\]"):
        load(path)
    path = ggufs.write(tmp_path / "it.gguf", ggufs.build("llama"), "llama", "Q4_K")
    assert load(path).vocab_size


# Published files


@pytest.mark.slow
def test_a_transformers_that_cannot_build_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else runs with it, and so does `import stet`."""
    monkeypatch.setitem(sys.modules, "transformers.integrations.gguf.gguf_tokenizer_mapping", None)
    sentence = refused(tmp_path / "it.gguf", "llama")
    assert "needs transformers 5.17 or newer" in sentence


@pytest.mark.parametrize("name", ["smol-135m", "coder-0.5b", "coder-1.5b"])
def test_a_published_file(name: str) -> None:
    """Its weights are those of the folder that transformers made of it, to the last bit."""
    folder = real_model(name)
    path = folder.with_name(f"{name}.gguf")
    if not path.is_file():
        pytest.skip(f"needs {path}")
    from safetensors import safe_open

    file = GgufFile.open(path)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        for weight in file.weights():
            wanted = weights.get_tensor(weight.name)
            found = torch.empty_like(wanted)
            weight.unpack(found)
            assert torch.equal(found, wanted), weight.name
    ours, reference = file.tokenizer(), AutoTokenizer.from_pretrained(folder)
    assert ours.get_vocab() == reference.get_vocab()
    assert ours.chat_template == reference.chat_template
    text = Path(__file__).read_text(encoding="utf-8")
    if name == "smol-135m":  # whose rule for digits transformers passed over
        text = "".join(letter for letter in text if not letter.isdigit())
    for piece in (text, *TEXTS[1:]):
        assert ours.encode(piece) == reference.encode(piece)
        assert ours.decode(ours.encode(piece)) == reference.decode(reference.encode(piece))
