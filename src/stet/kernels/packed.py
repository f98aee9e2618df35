"""Weights of 4, 5, 6 or 8 bits, in the layout of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch.nn.functional import pad

from stet.kernels.planes import GROUP, decode, encode

ROWS = 32
"""Rows of a tile, the outputs that the kernel computes together."""
BLOCK = 8
"""Groups that share a super-scale."""
CHUNK = 2**20
"""Weights that are packed or unpacked at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A matrix of unsigned codes u: w[o, i] = scale * (u - zero) - min.

    Each row has a scale and, in some formats, a min for each 32 inputs; with 6 bits a scale for
    each 16. They are halves (float16 or bfloat16), or int8 multiples of a half for each 256 inputs.
    Rows come in tiles of 32, the last of which is filled up with zeros.

    Attributes:
        bits: of a code: 4, 5, 6 or 8.
        shape: outputs, inputs.
        zero: the code that stands for 0; 0 where there are mins.
        codes: `[tiles, groups, bits, 32]` int32, four codes' bits each (`planes.py`).
        scales: `[tiles, groups, 32]` halves or int8; `[tiles, 2 * groups, 32]` for each 16 inputs.
        mins: `[tiles, groups, 32]` of the scales' type, or None.
        super_scales: `[tiles, blocks, 32]` halves, where scales are int8.
        super_mins: `[tiles, blocks, 32]` halves, where mins are int8.
    """

    bits: int
    shape: tuple[int, int]
    zero: int
    codes: torch.Tensor
    scales: torch.Tensor
    mins: torch.Tensor | None = None
    super_scales: torch.Tensor | None = None
    super_mins: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by its name, to be saved or counted."""
        names = ("codes", "scales", "mins", "super_scales", "super_mins")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def parts(self) -> int:
        """Scales in a group of 32 inputs."""
        return self.scales.shape[1] // self.codes.shape[1]

    def dequantise(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Compute all weights, `[outputs, inputs]`; in float32 each is rounded once."""
        outputs, inputs = self.shape
        result = torch.empty(outputs, inputs, dtype=dtype)
        for rows in row_chunks(outputs, inputs):
            tiles = slice(rows.start // ROWS, -(-rows.stop // ROWS))

            def pick(tensor: torch.Tensor, tiles: slice = tiles) -> torch.Tensor:
                return tensor[tiles].movedim(-1, 1).flatten(0, 1)

            result[rows] = self._values(pick)[: rows.stop - rows.start]
        return result

    def rows(self, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Compute some rows, as an embedding does.

        Args:
            ids: numbers of rows, of any shape.
            dtype: of the result.

        Returns:
            `[*ids.shape, inputs]`.
        """
        flat = ids.reshape(-1)
        tiles, places = flat // ROWS, flat % ROWS
        values = self._values(lambda tensor: tensor[tiles, ..., places])
        return values.to(dtype).view(*ids.shape, self.shape[1])

    def part(self, start: int, stop: int) -> PackedWeight:
        """The outputs from `start` on, which begins a tile, up to `stop`; a view."""
        tiles = slice(start // ROWS, -(-stop // ROWS))
        views = {name: tensor[tiles] for name, tensor in self.tensors().items()}
        return PackedWeight(self.bits, (stop - start, self.shape[1]), self.zero, **views)

    @property
    def format(self) -> tuple[object, ...]:
        """What weights have in common that can be concatenated."""
        kinds = tuple((name, tensor.dtype) for name, tensor in self.tensors().items())
        return self.bits, self.zero, self.parts, self.shape[1], kinds

    def _values(self, pick: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The weights `[rows, inputs]` of the rows that `pick` takes from each tensor."""
        codes = decode(pick(self.codes), self.bits)
        scales = _spread(self.scales, self.super_scales, pick, self.parts)
        values: torch.Tensor = codes.unflatten(-1, (self.parts, -1)).float() - self.zero
        values *= scales.unflatten(1, (-1, self.parts)).unsqueeze(-1)
        if self.mins is not None:
            values -= _spread(self.mins, self.super_mins, pick)[..., None, None]
        return values.flatten(1)[:, : self.shape[1]]


def _spread(
    values: torch.Tensor,
    supers: torch.Tensor | None,
    pick: Callable[[torch.Tensor], torch.Tensor],
    parts: int = 1,
) -> torch.Tensor:
    """Scales or mins `[rows, groups * parts]` in float32."""
    picked = pick(values).float()
    if supers is not None:
        repeated = pick(supers).float().repeat_interleave(BLOCK * parts, 1)
        picked *= repeated[:, : picked.shape[1]]
    return picked


def pack(
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    bits: int,
    inputs: int,
    zero: int = 0,
    mins: torch.Tensor | None = None,
    super_scales: torch.Tensor | None = None,
    super_mins: torch.Tensor | None = None,
) -> PackedWeight:
    """Bring codes and scales of rows into the kernel's layout.

    Args:
        codes: `[outputs, groups, 32]` uint8.
        scales: `[outputs, groups]`, or `[outputs, 2 * groups]` for 16 inputs each.
        bits: of a code.
        inputs: of a row, without what fills up its last group.
        zero: the code that stands for 0.
        mins: `[outputs, groups]`.
        super_scales: `[outputs, blocks]`.
        super_mins: `[outputs, blocks]`.
    """
    return PackedWeight(
        bits=bits,
        shape=(codes.shape[0], inputs),
        zero=zero,
        codes=tiled(encode(codes, bits)),
        scales=tiled(scales),
        mins=None if mins is None else tiled(mins),
        super_scales=None if super_scales is None else tiled(super_scales),
        super_mins=None if super_mins is None else tiled(super_mins),
    )


def tiled(rows: torch.Tensor) -> torch.Tensor:
    """Bring rows `[rows, ...]` into tiles `[tiles, ..., 32]`, filled up with zeros."""
    missing = -rows.shape[0] % ROWS
    if missing:
        rows = pad(rows, [0, 0] * (rows.dim() - 1) + [0, missing])
    tiles: torch.Tensor = rows.unflatten(0, (-1, ROWS)).movedim(1, -1).contiguous()
    return tiles


class Tiled(Protocol):
    """A weight in tiles of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs, inputs."""
        ...

    @property
    def format(self) -> tuple[object, ...]:
        """What weights have in common that can be concatenated."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by its name; their first dimension is that of the tiles."""
        ...


W = TypeVar("W", bound=Tiled)


def concatenate(weights: Sequence[W]) -> W:
    """Put weights of one format and one number of inputs below each other, along the outputs.

    Raises:
        ValueError: formats or inputs differ, or a weight but the last ends within a tile.
    """
    first = weights[0]
    for weight in weights[1:]:
        if weight.format != first.format:
            raise ValueError("packed weights of different formats or inputs cannot be concatenated")
    if any(weight.shape[0] % ROWS for weight in weights[:-1]):
        raise ValueError(f"packed weights are concatenated in whole tiles of {ROWS} outputs")
    joined: dict[str, Any] = {
        name: torch.cat([weight.tensors()[name] for weight in weights]) for name in first.tensors()
    }
    outputs = sum(weight.shape[0] for weight in weights)
    return replace(first, shape=(outputs, first.shape[1]), **joined)  # type: ignore[type-var]


def row_chunks(outputs: int, inputs: int) -> Iterator[slice]:
    """Divide rows into pieces of whole tiles and about `CHUNK` weights."""
    step = max(CHUNK // (max(inputs, 1) * ROWS), 1) * ROWS
    for start in range(0, outputs, step):
        yield slice(start, min(start + step, outputs))


def groups_of(inputs: int) -> int:
    """Groups of a row."""
    return -(-inputs // GROUP)
