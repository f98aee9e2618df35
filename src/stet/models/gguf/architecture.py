"""The architectures of GGUF files that Stet reads: what their tensors are called in transformers.

The quants of a weight stay as they are. What a file stores otherwise than transformers is said in
two ways that hold for packed weights, too: rows in another order, and norms with 1 added.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stet.core.errors import CompatibilityError
from stet.models.gguf.header import Header

_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMED = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}

ROTARY_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors that are settings: by what each frequency of the rotary embedding is divided."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a kind of model is called in GGUF files and in transformers.

    Attributes:
        name: its name in GGUF files, before each of its settings.
        model_type: its name in transformers.
        inside: names of tensors inside a layer, from a file's to transformers'.
        interleaved: rotated pairs lie side by side in queries and keys, not half a head apart.
        raised_norms: weights of norms have 1 added.
    """

    name: str
    model_type: str
    inside: dict[str, str] = field(default_factory=dict[str, str])
    interleaved: bool = False
    raised_norms: bool = False

    def name_of(self, name: str) -> str | None:
        """The name that a tensor has in transformers; None for one that is unknown here."""
        stem, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            return None
        if stem in _OUTSIDE:
            return f"{_OUTSIDE[stem]}.{kind}"
        block, number, leaf = (*stem.split("."), "", "")[:3]
        found = {**_INSIDE, **self.inside}.get(leaf)
        if block != "blk" or not number.isdecimal() or stem.count(".") != 2 or found is None:
            return None
        return f"model.layers.{int(number)}.{found}.{kind}"

    def order(self, name: str, rows: int, heads: int, key_heads: int) -> Tensor | None:
        """Where each row of a weight lies in the file; None where rows lie in their order.

        Args:
            name: the tensor's name in the file.
            rows: its rows.
            heads: query heads of the model.
            key_heads: key heads of the model.
        """
        leaf = name.split(".")[-2]
        if not self.interleaved or leaf not in ("attn_q", "attn_k"):
            return None
        count = heads if leaf == "attn_q" else key_heads
        if rows % (2 * count):
            return None  # the shape is wrong, which is found when it is compared with the model's
        return torch.arange(rows).view(count, -1, 2).transpose(1, 2).flatten()

    def raised(self, name: str) -> bool:
        """Whether a tensor, by its name in the file, has 1 added to its values."""
        return self.raised_norms and name.endswith("norm.weight")


ARCHITECTURES = {
    kind.name: kind
    for kind in (
        Architecture("llama", "llama", interleaved=True),
        Architecture("qwen2", "qwen2"),
        Architecture("qwen3", "qwen3", _NORMED),
        Architecture("gemma2", "gemma2", _FOUR_NORMS, raised_norms=True),
        Architecture("gemma3", "gemma3_text", {**_FOUR_NORMS, **_NORMED}, raised_norms=True),
        Architecture("phi3", "phi3", _FUSED),
    )
}


def architecture_of(header: Header) -> Architecture:
    """The architecture that a file names.

    Raises:
        CompatibilityError: it is none that Stet reads.
    """
    name = header.settings.get("general.architecture")
    found = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if found is None:
        what = f"a {name[:40]!r} model" if isinstance(name, str) else "no model that names its kind"
        raise CompatibilityError(
            f"{header.name} holds {what}, and of GGUF files Stet reads {', '.join(ARCHITECTURES)}; "
            "give the folder or hub name of the transformers model that it was made from."
        )
    return found
