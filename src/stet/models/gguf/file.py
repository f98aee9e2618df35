"""An opened GGUF file: its configuration, its tokenizer, and its weights as they are packed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stet.core.errors import LoadError
from stet.models.gguf.architecture import ROTARY_FACTORS, Architecture, architecture_of
from stet.models.gguf.header import Header, read_header
from stet.models.gguf.settings import config_of
from stet.models.gguf.tokens import ends_of, tokenizer_of
from stet.models.gguf.types import GgmlType
from stet.models.gguf.unpacking import unpack

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight as a file has it.

    Row i of the weight is row `order[i]` of the file. Whole rows are moved, so this holds for the
    packed bytes as for the numbers. `raised` is true of norms alone, which are never packed.

    Attributes:
        name: its name in the transformers model.
        type: the format of its numbers.
        shape: its shape, rows first.
        raw: its bytes, a view of the file: uint8 [rows, bytes of a row].
        order: int64 [rows]; None where the rows lie in their order.
        raised: whether 1 was added to its values.
    """

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    raw: Tensor
    order: Tensor | None
    raised: bool

    @property
    def ordered(self) -> Tensor:
        """The bytes in the order of the weight's rows; a copy where that is not the file's."""
        return self.raw if self.order is None else self.raw[self.order]

    def unpack(self, out: Tensor) -> None:
        """Write the values to `out`, a contiguous tensor of this shape and of any dtype.

        Raises:
            LoadError: the format needs the gguf package, which is not installed.
        """
        raw = self.ordered.to(out.device)
        if not self.raised:
            unpack(self.type, raw, out)
            return
        values = torch.empty(self.shape, dtype=torch.float32, device=out.device)
        unpack(self.type, raw, values)
        out.copy_(values - 1)  # before it is rounded: most of a norm's digits are beyond the 1


@dataclass(frozen=True, slots=True)
class GgufFile:
    """An opened and checked file. Nothing of its weights is read before they are asked for.

    Attributes:
        header: what the file says of itself; with the tensors of all files, where it is one of
            several.
        architecture: the kind of its model.
    """

    header: Header
    architecture: Architecture

    @classmethod
    def open(cls, path: Path, name: str | None = None) -> GgufFile:
        """Open a file, or the first of several that hold a model together.

        Args:
            path: the file.
            name: what the user calls it, for messages; the path if None.

        Raises:
            LoadError: it, or one that belongs to it, is missing, or is no whole GGUF file.
            CompatibilityError: it holds a model of a kind that Stet does not read.
        """
        header = _whole(path, str(path) if name is None else name)
        return cls(header, architecture_of(header))

    def config(self) -> Any:
        """The model's configuration, with all ends of an answer.

        Raises:
            LoadError: a setting is missing, or has a value that it cannot have.
            CompatibilityError: the model needs something that Stet, or transformers, does not do.
        """
        config = config_of(self.header, self.architecture)
        config.eos_token_id = ends_of(self.header) or None
        return config

    def tokenizer(self) -> Any:
        """The tokenizer, with its chat template.

        Raises:
            LoadError: it cannot be built of what the file holds.
            CompatibilityError: its kind, or the rule by which it splits texts, is not known.
        """
        return tokenizer_of(self.header)

    def dtype(self) -> torch.dtype:
        """The dtype that loses least: that of a file of plain numbers, bfloat16 of a packed one."""
        kinds = {place.type for place in self.header.tensors.values() if len(place.shape) > 1}
        if len(kinds) == 1:
            return _PLAIN.get(kinds.pop().name, torch.bfloat16)
        return torch.bfloat16

    def bytes_of(
        self, dtype: torch.dtype, kept: Callable[[PackedWeight], bool] | None = None
    ) -> int:
        """Bytes of all weights in memory.

        Args:
            dtype: what they are unpacked to.
            kept: which of them stay packed, as they are or a little larger; None for none.
        """
        total = 0
        for weight in self.weights():
            if kept is not None and kept(weight):
                total += weight.raw.nbytes + weight.raw.nbytes // 16
            else:
                total += weight.raw.shape[0] * weight.shape[-1] * dtype.itemsize
        return total

    def weights(self) -> Iterator[PackedWeight]:
        """The weights one by one.

        Raises:
            LoadError: a tensor is none that such a model has.
        """
        config = config_of(self.header, self.architecture)
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        for place in self.header.tensors.values():
            if place.name in ROTARY_FACTORS:
                continue
            name = self.architecture.name_of(place.name)
            if name is None:
                raise LoadError(
                    f"{self.header.name} holds {place.name[:60]!r}, which is no weight of a "
                    f"{self.architecture.name} model that Stet knows; give the folder or hub name "
                    "of the transformers model that it was made from."
                )
            order = self.architecture.order(place.name, place.shape[0], heads, key_heads)
            raised = self.architecture.raised(place.name)
            yield PackedWeight(name, place.type, place.shape, place.raw, order, raised)


def _whole(path: Path, name: str) -> Header:
    """The front matter of a file, with the tensors of those that belong to it."""
    header = read_header(path, name)
    count = header.settings.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return header
    parts = _SHARD.fullmatch(path.name)
    if parts is None or int(parts["count"]) != count:
        raise LoadError(
            f"{name} is one of {count} files, and its name does not say which; name them "
            f"...-00001-of-{count:05}.gguf and so on, as they were published."
        )
    if header.settings.get("split.no") != 0 or int(parts["number"]) != 1:
        first = f"{parts['stem']}-00001-of-{parts['count']}.gguf"
        raise LoadError(f"{name} is one of {count} files; give the first one, {first}.")
    tensors = dict(header.tensors)
    for number in range(2, count + 1):
        part = path.with_name(f"{parts['stem']}-{number:05}-of-{parts['count']}.gguf")
        if not part.is_file():
            raise LoadError(f"{name} is the first of {count} files, and {part.name} is missing.")
        found = read_header(part, str(part))
        if found.settings.get("split.count") != count or tensors.keys() & found.tensors.keys():
            raise LoadError(f"{part} does not belong to {name}; get both files again.")
        tensors |= found.tensors
    total = header.settings.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise LoadError(
            f"{name} and its further files have {len(tensors)} of {total} tensors; get them again."
        )
    return replace(header, tensors=tensors)
