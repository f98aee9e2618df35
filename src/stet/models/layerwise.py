"""The attention layers of a model in its own pass, and in Stet's passes compared with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from stet.core.errors import CompatibilityError
from stet.core.model import LoadedModel
from stet.core.row import Row
from stet.engine import attention
from stet.engine.addresses import slots_of

REFERENCE = "stet_reference"
"""Name of the model's own attention, recorded, in transformers' `AttentionInterface`."""

CHECKED = "stet_checked"
"""Name of Stet's attention, compared with the model's own, in `AttentionInterface`."""

# Rounding of one layer, relative to the values. Faults are far larger: the smallest fault of a
# rotation, a mask or a window is some tenths.
_LIMITS = {torch.float32: 5e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}


@dataclass(slots=True)
class Layer:
    """One attention layer in the model's own pass.

    Attributes:
        hidden: [2, LENGTH, D] the layer's input; None where it was not found.
        projected: query, key and value, [2, heads, LENGTH, size].
        mask: [2 or 1, 1, LENGTH, LENGTH] additive.
        arguments: further arguments of the attention function.
        output: [2, LENGTH, query heads, value size] float32.
        seen: query, key and value of Stet's passes, as `projected`.
        floor: error of the model's own attention in half precision against float32; 0 except for
            soft-capped scores, which Stet, too, rounds.
    """

    hidden: Tensor | None
    projected: list[Tensor] = field(default_factory=list[Tensor])
    mask: Tensor | None = None
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    output: Tensor | None = None
    seen: list[Tensor] = field(default_factory=list[Tensor])
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """The input of one row of a batch.

    Attributes:
        text: index of the text, 0 or 1.
        row: row of the cache.
        start: position of the first token.
        count: number of tokens.
        foreign: index of the text whose tokens are fed instead; None: the row's own text.
    """

    text: int
    row: Row
    start: int
    count: int
    foreign: int | None = None

    @property
    def source(self) -> int:
        """Index of the text whose tokens are fed."""
        return self.text if self.foreign is None else self.foreign

    @property
    def places(self) -> slice:
        """The positions that are fed."""
        return slice(self.start, self.start + self.count)


class Check:
    """Records the model's own pass, and compares Stet's passes with it.

    Args:
        loaded: the model.
        modules: its attention layers in their order.
    """

    def __init__(self, loaded: LoadedModel, modules: Sequence[nn.Module]) -> None:
        self.loaded = loaded
        self.modules = modules
        self.limit = _LIMITS.get(loaded.dtype, 2e-2)
        self.layers: list[Layer] = []
        self.parts: Sequence[Part] | None = None  # of Stet's current pass
        self.entered = self.attended = 0

    # Hooks

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before an attention layer: record its input, or replace it by the recorded one."""
        hidden = kwargs.get("hidden_states", args[0] if args else None)
        if not (isinstance(hidden, Tensor) and hidden.dim() == 3 and hidden.is_floating_point()):
            hidden = None
        if self.parts is None:
            self.layers.append(Layer(hidden))
            return None
        given = self.replaced(hidden)
        if given is None:
            return None
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": given}
        return (given, *args[1:]), kwargs

    def replaced(self, hidden: Tensor | None) -> Tensor | None:
        """The recorded input, [B, T, D], of the layer that is entered next; None if there is none.

        What would have been its input is compared with it in the first layer, and in all layers of
        Stet's own decoder: there, rounding of the layers before adds up.
        """
        assert self.parts is not None
        place, self.entered = self.entered, self.entered + 1
        wanted = self.layers[place].hidden
        if hidden is None or wanted is None:
            return None
        given = hidden.clone()
        for b, part in enumerate(self.parts):
            own = given[b, : part.count]
            new = wanted[part.source, part.places].to(given.device)
            if not place and part.foreign is None:
                self.refuse("inputs of layer 0", apart(own, new, -1))
            elif self.loaded.foreign is None and part.foreign is None:
                error = (own.float() - new.float()).square().mean(-1)
                error = error / new.float().square().mean(-1).clamp_min(1e-30)
                self.refuse(
                    f"inputs of layer {place}", float(error.median().sqrt()), 3 * self.limit
                )
            given[b, : part.count] = new
        return given

    def record(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **rest: Any
    ) -> Tensor:
        """Compute the model's own attention in float32, and record its inputs and output."""
        layer = self.layers[self.attended]
        self.attended += 1
        if mask is None:
            count = query.shape[2]
            mask = torch.full((1, 1, count, count), -torch.inf, device=query.device).triu(1)
        layer.projected = [query, key, value]
        layer.seen = [torch.full_like(tensor, torch.nan) for tensor in layer.projected]
        layer.mask, layer.arguments = mask, rest
        output = _eager(module, query.float(), key.float(), value.float(), mask, rest)
        layer.output = output
        if rest.get("softcap") is not None and query.dtype != torch.float32:
            rounded = _eager(module, query, key, value, mask, rest)
            layer.floor = 3 * apart(rounded.float(), output, (1, 3))
        return output.to(query.dtype)

    def compare(
        self, module: nn.Module, out: Tensor, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Compare what Stet's attention returned; return the recorded output of the model's own.

        Args:
            module: the attention layer.
            out: [B, T, query heads, value size].
            query: [B, query heads, T, size].
            key: [slots, key heads, size], the whole cache of the layer.
            value: [slots, key heads, value size], the whole cache of the layer.
        """
        assert self.parts is not None
        place, self.attended = self.attended, self.attended + 1
        layer = self.layers[place]
        passed = out.clone()
        for b, part in enumerate(self.parts):
            at, text, end = part.places, part.text, part.start + part.count
            queries, keys, values = layer.seen
            queries[text, :, at] = query[b, :, : part.count]
            # As they are in the cache, so that a key that was not replaced is found.
            held = slots_of(part.row)[at]
            keys[text, :, at] = key[held].transpose(0, 1)
            values[text, :, at] = value[held].transpose(0, 1)
            if part.foreign is None:
                own = out[b, None, : part.count].float()
                self.compare_output(
                    module, place, own, layer, (queries[text], keys[text], values[text]), part, end
                )
            assert layer.output is not None
            passed[b, : part.count] = layer.output[part.source, at].to(passed)
        return passed

    def compare_output(
        self,
        module: nn.Module,
        place: int,
        own: Tensor,
        layer: Layer,
        seen: tuple[Tensor, Tensor, Tensor],
        part: Part,
        end: int,
    ) -> None:
        """Compare [1, count, heads, size] with float32 attention over the same numbers."""
        queries, keys, values = (tensor[None].float() for tensor in seen)
        values = values[:, :, :end]
        mask = layer.mask
        assert mask is not None
        mask = mask[min(part.text, mask.shape[0] - 1), None, :, part.places, :end]
        wanted = _eager(
            module,
            queries[:, :, part.places],
            keys[:, :, :end],
            # The sums may cancel; rounding is relative to the summands.
            torch.cat([values, values.abs()], -1),
            mask,
            layer.arguments,
        )
        wanted, summands = wanted.chunk(2, -1)
        error = (own - wanted).square().mean(-1).sqrt()
        error = error / summands.square().mean(-1).sqrt().clamp_min(1e-20)
        worst = float(error.max()) if not error.isnan().any() else float("nan")
        self.refuse(f"results of attention in layer {place}", worst, max(self.limit, layer.floor))

    # Comparisons

    def refuse(self, what: str, error: float, limit: float | None = None) -> None:
        """Refuse the model where an error is larger than rounding."""
        limit = self.limit if limit is None else limit
        if not error <= limit:
            dtype = str(self.loaded.dtype).removeprefix("torch.")
            raise CompatibilityError(
                f"{self.loaded.name} gives other numbers through Stet's cache than by itself: the "
                f"{what} differ by {error:.1e} of their size, at most {limit:.0e} expected in "
                f"{dtype}; choose another model, or pass self_check=False (--no-self-check) if you "
                "know why."
            )

    def compare_projections(self) -> None:
        """Compare all queries, keys and values with those of the model's own pass."""
        for place, layer in enumerate(self.layers):
            for kind, own, wanted in zip(
                ("queries", "keys", "values"), layer.seen, layer.projected, strict=True
            ):
                # Element by element, over both texts: a few elements may be so large that an error
                # in any other would be invisible beside them.
                self.refuse(f"{kind} in layer {place}", apart(own, wanted, (0, 2)))

    @contextmanager
    def pass_of(self, name: str, parts: Sequence[Part] | None) -> Iterator[None]:
        """Run one forward pass with an attention function of this module."""
        self.parts, self.entered, self.attended = parts, 0, 0
        token = _current.set(self)
        self.loaded.model.set_attn_implementation(name)
        try:
            yield
        finally:
            _current.reset(token)
            self.loaded.model.set_attn_implementation(attention.NAME)


_current: ContextVar[Check] = ContextVar("_current")


def _record(*args: Any, stet_view: Any = None, **kwargs: Any) -> tuple[Tensor, None]:
    del stet_view
    return _current.get().record(*args, **kwargs), None


def _compare(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    out, _ = attention.attend_in_transformers(module, query, key, value, mask, **kwargs)
    return _current.get().compare(module, out, query, key, value), None


AttentionInterface.register(REFERENCE, _record)  # pyright: ignore[reportUnknownMemberType]
AttentionInterface.register(CHECKED, _compare)  # pyright: ignore[reportUnknownMemberType]
# The model's own masks, as for its eager attention.
AttentionMaskInterface.register(REFERENCE, eager_mask)  # pyright: ignore[reportUnknownMemberType]


def apart(own: Tensor, wanted: Tensor, dims: int | tuple[int, ...]) -> float:
    """The largest relative error, of root mean squares over `dims`."""
    own, wanted = own.double(), wanted.double()
    error = (own - wanted).square().mean(dims)
    size = wanted.square().mean(dims)
    # Rounding may leave nothing of an element that is always almost zero.
    size = size.clamp_min(1e-4 * float(size.mean())).clamp_min(1e-30)
    return float((error / size).max().sqrt())


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    arguments: dict[str, Any],
) -> Tensor:
    """The eager attention of the model's own family; [B, T, heads, size]."""
    mask = mask.to(query.dtype)
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is not None:
        output: Tensor = own(module, query, key, value, mask, **arguments)[0]
        return output
    groups = query.shape[1] // key.shape[1]
    scale = arguments.get("scaling") or query.shape[-1] ** -0.5
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scale
    cap = arguments.get("softcap")
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    weights = (scores + mask).softmax(-1, dtype=torch.float32).to(query.dtype)
    mixed: Tensor = weights @ value.repeat_interleave(groups, 1)
    return mixed.transpose(1, 2)
