"""A module that keeps a weight in the kernel's layout, and shows it as plain modules do theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stet.kernels.bfloat import BfloatWeight, arrange
from stet.kernels.native import Weight


class KeptWeight(nn.Module):
    """What layers of kept weights have in common.

    A weight of bfloat16 only lies in another order. So a state dict holds it as a plain module's,
    and takes a plain one in; parts that are views of a larger weight write to that. Other formats
    are saved as they are.

    Args:
        weight: the weight, on the CPU.
        bias: `[outputs]` of any floating type, or None.
        dtype: of the weight where it is read.
    """

    def __init__(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.keep(weight, bias)

    def keep(self, weight: Weight, bias: torch.Tensor | None) -> None:
        """Name the tensors, so that they are counted, saved and told apart as weights are."""
        self.packed = weight
        plain = isinstance(weight, BfloatWeight)
        for name, tensor in weight.tensors().items():
            self.register_buffer(name, tensor, persistent=not plain)
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> torch.Tensor:
        """A copy of all weights, `[outputs, inputs]`: writing to it changes nothing."""
        return self.packed.dequantise(self.dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if isinstance(self.packed, BfloatWeight):
            destination[f"{prefix}weight"] = self.packed.dequantise(torch.bfloat16)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, *rest: Any
    ) -> None:
        given = state_dict.get(f"{prefix}weight")
        if isinstance(self.packed, BfloatWeight) and given is not None:
            self.packed.codes.copy_(arrange(given).codes)
            state_dict = {k: v for k, v in state_dict.items() if k != f"{prefix}weight"}
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)
