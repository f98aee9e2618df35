"""Projections: what multiplies by a weight, and one tensor of the weights that share an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Linear = Callable[[Tensor], Tensor]
"""A projection: [N, in] to [N, out]."""

_LARGE = 1 << 22
"""Bytes of a weight beside which the cost of an operation is nothing."""


@dataclass(slots=True, eq=False)
class Dense:
    """A projection by a weight in the model's own dtype.

    Attributes:
        weight: [in, out], a view of [out, in].
        bias: [out]; None where there is none.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Project [N, in] to [N, out]."""
        if self.bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(self.bias, x, self.weight)


@dataclass(slots=True, eq=False)
class Several:
    """Projections of one input whose weights stay apart; their outputs follow each other.

    Attributes:
        parts: the projections.
    """

    parts: list[Dense]

    def __call__(self, x: Tensor) -> Tensor:
        """Project [N, in] to [N, out]."""
        return torch.cat([part(x) for part in self.parts], -1)


def joined(linears: Sequence[nn.Linear]) -> Linear:
    """The projection to the outputs of several, one after the other.

    Their parameters become views of one tensor, so that nothing is held twice: they keep their
    values, shapes and names, and whoever writes to one of them writes to the joined weight. Large
    ones stay as they are on a CPU: there an operation more costs nothing beside them, and memory
    that is only mapped from a file would have to be read and copied.

    Args:
        linears: at least one, with equal inputs; all have a bias or none has.
    """
    weights = [linear.weight for linear in linears]
    large = weights[0].is_cpu and sum(weight.nbytes for weight in weights) > _LARGE
    if large and not _is_joined(weights):
        return Several([_dense([linear]) for linear in linears])
    return _dense(linears)


def _dense(linears: Sequence[nn.Linear]) -> Dense:
    biased: Any = linears[0].bias
    return Dense(
        _join([linear.weight for linear in linears]).t(),
        None if biased is None else _join([linear.bias for linear in linears]),
    )


@torch.no_grad()
def _join(parameters: Sequence[Tensor]) -> Tensor:
    """One tensor of parameters, along their first dimension; they become views of it."""
    first = parameters[0].detach()
    if len(parameters) == 1:
        return first
    rows = sum(parameter.shape[0] for parameter in parameters)
    shape = (rows, *first.shape[1:])
    if not _is_joined(parameters):
        whole = torch.cat([parameter.detach() for parameter in parameters])
        pieces = whole.split([parameter.shape[0] for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.data = piece
        return whole
    return first.as_strided(shape, first.stride(), first.storage_offset())


def _is_joined(parameters: Sequence[Tensor]) -> bool:
    """Whether parameters already follow each other in memory: the model was prepared before."""
    end = parameters[0].data_ptr()
    storage = parameters[0].untyped_storage().data_ptr()
    for parameter in parameters:
        if (
            parameter.data_ptr() != end
            or parameter.untyped_storage().data_ptr() != storage
            or not parameter.is_contiguous()
        ):
            return False
        end += parameter.nbytes
    return True
