"""Models whose matrices stay packed: logits are the same bits whatever else is in a pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("gguf", reason="needs the gguf package")

import ggufs
from stet import load_pair
from stet.engine.runner import Runner
from stet.kernels import PackedEmbedding, PackedLinear, unavailable
from stet.kernels.attention import serves
from stet.models.loading import load_model

REASON = unavailable() or ("" if serves([]) else "attention cannot be compiled")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

FAMILIES = ("llama", "qwen2", "qwen3")
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
