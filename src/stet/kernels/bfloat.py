"""Weights of 16 bits, in the layout of the kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from stet.kernels.convert import convert
from stet.kernels.packed import ROWS, groups_of, row_chunks, tiled
from stet.kernels.planes import GROUP


@dataclass(frozen=True, eq=False)
class BfloatWeight:
    """A matrix of bfloat16, in tiles of 32 rows that are filled up with zeros.

    Attributes:
        shape: outputs, inputs.
        codes: `[tiles, groups, 16, 32]` int32, two neighbouring inputs each.
    """

    shape: tuple[int, int]
    codes: torch.Tensor
    bits = 16
    dtype = torch.bfloat16

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by its name, to be saved or counted."""
        return {"codes": self.codes}

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.codes.nbytes

    def part(self, start: int, stop: int) -> BfloatWeight:
        """The outputs from `start` on, which begins a tile, up to `stop`; a view."""
        tiles = slice(start // ROWS, -(-stop // ROWS))
        return BfloatWeight((stop - start, self.shape[1]), self.codes[tiles])

    @property
    def format(self) -> tuple[object, ...]:
        """What weights have in common that can be concatenated."""
        return self.bits, self.shape[1]

    def dequantise(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """All weights, `[outputs, inputs]`."""
        rows = self.codes.movedim(-1, 1).flatten(0, 1)
        return self._values(rows)[: self.shape[0]].to(dtype)

    def rows(self, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Some rows, `[*ids.shape, inputs]`, as an embedding gives them."""
        flat = ids.reshape(-1)
        values = self._values(self.codes[flat // ROWS, ..., flat % ROWS])
        return values.to(dtype).view(*ids.shape, self.shape[1])

    def elements(self, numbers: torch.Tensor) -> torch.Tensor:
        """Some weights, by their places in the flattened matrix, as bfloat16."""
        rows, columns = numbers // self.shape[1], numbers % self.shape[1]
        halves = self.codes.contiguous().view(torch.bfloat16)
        group, pair = columns // GROUP, columns % GROUP // 2
        return halves[rows // ROWS, group, pair, rows % ROWS * 2 + columns % 2]

    def _values(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.flatten(1).contiguous().view(torch.bfloat16)[:, : self.shape[1]]


def arrange(weight: torch.Tensor) -> BfloatWeight:
    """Bring a matrix of weights into the kernel's layout, as bfloat16.

    Args:
        weight: `[outputs, inputs]` of any floating type; bfloat16 keeps its values.

    Raises:
        ValueError: it is no matrix, or an empty one.
    """
    if weight.dim() != 2 or not weight.numel():
        raise ValueError("a matrix of weights is arranged")
    outputs, inputs = weight.shape
    groups = groups_of(inputs)
    codes = torch.empty(-(-outputs // ROWS), groups, 16, ROWS, dtype=torch.int32)
    plain = weight.detach().cpu().bfloat16().contiguous()
    if convert(plain, 16, {"codes": codes}) is not None:
        return BfloatWeight((outputs, inputs), codes)
    for part in row_chunks(outputs, inputs):
        values = pad(plain[part], (0, groups * GROUP - inputs))
        words = values.contiguous().view(torch.int32).view(-1, groups, 16)
        codes[part.start // ROWS : -(-part.stop // ROWS)] = tiled(words)
    return BfloatWeight((outputs, inputs), codes)
