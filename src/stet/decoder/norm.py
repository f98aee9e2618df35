"""Root-mean-square norms, with the rounding of the families that use them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from stet.kernels import norm as kernel


@dataclass(slots=True, eq=False)
class Norm:
    """Scales the last dimension to a root mean square of one, then by a weight.

    All of it is computed in float32. In half precision families differ in what is rounded when:
    numbers before they are multiplied by the weight (Llama), or only the result (Gemma).

    Attributes:
        weight: [size], or [heads, 1, size] where heads have weights of their own; float32 unless
            numbers are rounded to its dtype before they are multiplied by it.
        epsilon: added to the mean square.
    """

    weight: Tensor
    epsilon: float
    _rounds: bool = field(init=False)
    _scaled: Tensor = field(init=False)
    _floor: Tensor = field(init=False)
    _wide: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        size = self.weight.shape[-1]
        self._rounds = self.weight.dtype is not torch.float32
        self._scaled = self.weight * size**0.5
        if kernel.serves(self.weight):
            self._wide = self.weight.float().contiguous()
        self._floor = torch.full((1,), (size * self.epsilon) ** 0.5, device=self.weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Scale [..., size]."""
        size = x.shape[-1]
        if x.is_cuda:
            wide = x.to(self.weight.dtype)
            return F.rms_norm(wide, (size,), None, self.epsilon).mul_(self.weight).to(x.dtype)
        if (
            self._wide is not None
            and x.dtype in (torch.float32, torch.bfloat16)
            and not torch.compiler.is_dynamo_compiling()
        ):
            return kernel.norm(x, self._wide, self.epsilon, rounds=self._rounds)
        # Torch has no operation for the whole on a CPU. Dividing by the length, with a floor for
        # epsilon, takes the fewest; that it is larger than the root mean square is in the weight.
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        length = length.hypot_(self._floor)
        if self._rounds:
            return (x / length.mul_(size**-0.5)).to(x.dtype).mul_(self.weight)
        scaled = (x / length).mul_(self._scaled)
        return scaled if x.dtype is torch.float32 else scaled.to(x.dtype)
