"""Models whose matrices stay packed: logits are the same bits whatever else is in a pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("gguf", reason="needs the gguf package")

import ggufs
from stet import load_pair
from stet.core.errors import LoadError
from stet.engine.runner import Runner
from stet.engine.scoring import piece_of
from stet.kernels import PackedEmbedding, PackedLinear, unavailable
from stet.kernels.attention import serves
from stet.models import loading
from stet.models.gguf import packing
from stet.models.loading import load_model

REASON = unavailable() or ("" if serves([]) else "attention cannot be compiled")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")
MIXED = {"blk.0.attn_v.weight": "Q6_K", "blk.1.ffn_down.weight": "Q8_0"}


def file_of(folder: Path, family: str, seed: int = 0, **changes) -> Path:
    path = folder / f"{family}-{seed}.gguf"
    return ggufs.write(path, ggufs.build(family, seed, **changes), family, "Q4_K", kinds=MIXED)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_do_not_depend_on_the_other_tokens_of_a_pass(
    tmp_path: Path, family: str, dtype: str
) -> None:
    model = load_model(
        file_of(tmp_path, family), role="target", dtype=dtype, max_length=100, packed=True
    )
    assert any(isinstance(part, PackedLinear) for part in model.model.modules())
    assert model.foreign is None
    assert isinstance(model.model.get_input_embeddings(), (PackedEmbedding, torch.nn.Embedding))
    tokens = torch.randint(0, 250, (2, 60), generator=torch.Generator().manual_seed(1))
    runner = Runner(model, max_rows=2, max_length=100)
    rows = [runner.allocate(), runner.allocate()]

    def logits(width: int, batch: int) -> torch.Tensor:
        """The logits of tokens 20 to 60 of the first text, read `width` at a time."""
        found = []
        for start in range(20, 60, width):
            part = tokens[:batch, start : start + width]
            found.append(runner.forward(rows[:batch], part, [start] * batch).logits[0])
        return torch.cat(found)

    runner.forward(rows, tokens[:, :20], [0, 0], logits="none")
    wanted = logits(1, 1)
    for width in (2, 3, 7, 16, 40):
        for batch in (1, 2):
            assert torch.equal(logits(width, batch), wanted), (width, batch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_greedy_speculation_gives_the_targets_own_text_to_the_last_token(
    tmp_path: Path, dtype: str
) -> None:
    target, draft = file_of(tmp_path, "llama"), file_of(tmp_path, "llama", 1)
    options = {"max_new_tokens": 60, "ignore_eos": True, "logprobs": 1}
    with load_pair(target, draft, dtype=dtype, compile=False, max_length=100, packed=True) as pair:
        prompts = ["the 12 in", "12 12 the the in"]
        alone = [pair.generate(prompt, "target", **options) for prompt in prompts]
        for length in (1, 4, 9):
            for found, own in zip(
                pair.generate(prompts, "exact", draft_length=length, **options), alone, strict=True
            ):
                assert found.text == own.text
                ours, theirs = found.trace.tokens, own.trace.tokens
                assert [t.top_logprobs for t in ours] == [t.top_logprobs for t in theirs]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_is_read_to_the_same_bits_wherever_its_pieces_end(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"dtype": dtype, "compile": False, "max_length": 120, "packed": True}
    texts = [
        torch.randint(0, 250, (size,), generator=torch.Generator().manual_seed(size)).tolist()
        for size in (30, 119)
    ]
    with load_pair(file_of(tmp_path, "llama"), "lookup", **options) as pair:
        target = pair.engine.runners["target"]
        assert piece_of(target) == target.exact_width
        wanted = [pair.read(text, top_logprobs=3) for text in texts]
        for size in (1, 7, 50):
            monkeypatch.setattr("stet.requests.reading.piece_of", lambda runner, size=size: size)
            assert pair.read(texts, top_logprobs=3) == wanted
        answer = pair.generate(texts[0], "target", max_new_tokens=30, ignore_eos=True, logprobs=1)
        read = pair.read(texts[0] + answer.token_ids, top_logprobs=1)
        assert read.top_logprobs[30:] == [token.top_logprobs for token in answer.tokens]


def test_a_packed_model_takes_the_memory_of_its_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, "llama")
    kept = load_model(path, role="target", dtype="float32", max_length=64, packed=True)
    plain = load_model(path, role="target", dtype="float16", max_length=64, self_check=False)
    assert kept.parameter_bytes < 0.5 * plain.parameter_bytes


def test_what_is_packed_has_the_files_values(tmp_path: Path) -> None:
    from stet.models.gguf.file import GgufFile

    path = file_of(tmp_path, "qwen2")
    model = load_model(path, role="target", dtype="float32", max_length=64, packed=True).model
    parts = dict(model.named_modules())
    seen = 0
    for weight in GgufFile.open(path).weights():
        module = parts[weight.name.rpartition(".")[0]]
        if isinstance(module, (PackedLinear, PackedEmbedding)) and len(weight.shape) == 2:
            values = torch.empty(weight.shape)
            weight.unpack(values)
            assert torch.equal(module.packed.dequantise(), values), weight.name
            seen += 1
    assert seen > 12


def kind_of(path: Path, **options) -> bool:
    return load_model(path, role="target", max_length=64, self_check=False, **options).packed


def test_matrices_stay_packed_where_nothing_speaks_against_it(tmp_path: Path) -> None:
    path = file_of(tmp_path, "llama")
    assert kind_of(path)
    assert kind_of(path, dtype="bfloat16")
    assert kind_of(path, dtype="float32", packed=True)
    # Asked to compute in float32, products with rounded activations are not what is meant.
    assert not kind_of(path, dtype="float32")
    assert not kind_of(path, dtype="float16")
    assert not kind_of(path, packed=False)
    plain = ggufs.write(tmp_path / "plain.gguf", ggufs.build("llama"), "llama", "BF16")
    assert not kind_of(plain)
    assert not kind_of(plain, packed=True)


def test_without_a_kernel_they_are_unpacked_and_one_warning_says_what_that_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, "llama")
    asked: list[int] = []
    monkeypatch.setattr(packing, "unavailable", lambda: "no C compiler was found")
    monkeypatch.setattr(loading, "check_room", lambda size, *_: asked.append(size))
    with pytest.warns(RuntimeWarning) as seen:
        model = load_model(path, role="target", max_length=64)
    (warning,) = seen
    assert re.search(
        r"llama-0.gguf are unpacked \(no C compiler was found\): its weights take .* instead of "
        ".*, and tokens several times as long",
        str(warning.message),
    )
    assert warning.filename == __file__
    assert not model.packed
    # The plan is of what is made.
    assert asked == [pytest.approx(model.parameter_bytes, rel=0.05)]
    with pytest.raises(LoadError, match=r"cannot stay packed \(no C compiler was found\); use"):
        kind_of(path, packed=True)
    with pytest.raises(LoadError, match=r"cannot stay packed \(.*not compute in float16\)"):
        kind_of(path, packed=True, dtype="float16")


def test_the_plan_of_a_packed_model_is_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(loading, "check_room", lambda size, *_: asked.append(size))
    model = load_model(file_of(tmp_path, "qwen2"), role="target", max_length=64)
    assert model.packed
    assert asked == [pytest.approx(model.parameter_bytes, rel=0.1)]


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_a_scaled_embedding_and_its_head_are_packed(tmp_path: Path, family: str) -> None:
    path = file_of(tmp_path, family)
    model = load_model(path, role="target", dtype="float32", max_length=64, packed=True)
    assert model.foreign is None
    embedding = model.model.get_input_embeddings()
    assert isinstance(embedding, PackedEmbedding)
    assert isinstance(model.model.get_output_embeddings(), PackedLinear)
    ids = torch.arange(20)
    plain = load_model(path, role="target", dtype="float32", max_length=64, packed=False)
    wanted = plain.model.get_input_embeddings()(ids)
    assert torch.equal(embedding(ids), wanted)
    assert not torch.equal(wanted, plain.model.get_input_embeddings().weight[:20])


def test_a_packed_model_can_be_compiled(tmp_path: Path) -> None:
    """It then attends by torch, so that its bits are others."""
    model = load_model(file_of(tmp_path, "llama"), role="target", dtype="float32", packed=True)
    plain, compiled = (
        Runner(model, max_rows=1, max_length=64, compile=compile) for compile in (False, True)
    )
    assert compiled.warm_up([4], batches=[1])
    tokens = torch.randint(0, 250, (1, 14), generator=torch.Generator().manual_seed(1))
    found = []
    for runner in (plain, compiled):
        row = runner.allocate()
        runner.forward([row], tokens[:, :10], [0], logits="none")
        found.append(runner.forward([row], tokens[:, 10:], [10]).logits)
    assert compiled.compiled_passes == 1
    torch.testing.assert_close(*found, atol=0.02, rtol=0.02)
    compiled.stop_compiling()


def test_packed_models_are_not_compiled_unasked(tmp_path: Path) -> None:
    """Compiled passes are padded and attend by torch: slower, and other bits."""
    packed, plain = file_of(tmp_path, "llama"), file_of(tmp_path, "llama", 1)
    with load_pair(packed, plain, max_length=64) as pair:
        assert all(model.packed for model in pair.models)
        pair._thread.seconds_to_compiling = 0.0
        pair.generate("the 12 in", max_new_tokens=4, ignore_eos=True)
        assert pair._thread.seconds_to_compiling == float("inf")
        assert not any(runner.compiling for runner in pair.engine.runners.values())
        assert all(runner._compiled is None for runner in pair.engine.runners.values())
