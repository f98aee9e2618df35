"""Root-mean-square norms, with the rounding of the families that use them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(slots=True, eq=False)
class Norm:
    """Scales the last dimension to a root mean square of one, then by a weight.

    The mean is taken in float32. In half precision families differ in what is rounded when; the
    dtype of the weight says which: with the model's own, numbers are rounded before they are
    multiplied by it (Llama), with float32 after (Gemma).

    Attributes:
        weight: [size], or [heads, size] where heads have weights of their own.
        epsilon: added to the mean square.
    """

    weight: Tensor
    epsilon: float
    _floor: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._floor = torch.full((1,), self.epsilon, device=self.weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Scale [..., size]."""
        weight, size = self.weight, x.shape[-1]
        if x.is_cuda:
            scaled = F.rms_norm(x.to(weight.dtype), (size,), None, self.epsilon)
        else:
            # A CPU has no kernel for all of it, and the norm, squared again, is the cheapest way to
            # the mean square.
            norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
            factor = torch.addcmul(self._floor, norm, norm, value=1 / size).rsqrt_()
            scaled = (x * factor).to(weight.dtype)
        return scaled.mul_(weight).to(x.dtype)
