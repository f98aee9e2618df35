"""Does a model compute the same through Stet's cache as by itself?

Comparing whole logits cannot tell: in half precision a faithful pass of a real model is as far from
the model's own as a faulty one. Rounding grows from layer to layer, and where keys are large (some
families have key biases in the hundreds) the last bit of a key already moves its scores. So errors
are kept from growing, and only numbers that were computed from the same inputs are compared:

- each attention layer gets the input that it had in the model's own pass. Queries, keys and values
  then differ by a rounding or two, element for element, unless a position or a layer's rotation is
  wrong or the cache holds other keys than those just written;
- the output of attention is compared with the model's own eager attention, in float32, over the
  same queries, keys and values and under the mask and arguments of the model's own pass;
- each attention layer then returns its output of the model's own pass, so that the last hidden
  state differs only by the rounding of the other layers.

Most of a model's work is in layers that process each token by itself. They are run in the first
decoder layer of each kind; elsewhere their matrices are skipped.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stet.core.errors import CapacityError, CompatibilityError, first_line
from stet.core.model import LoadedModel
from stet.decoder.decoder import Decoder
from stet.decoder.foreign import ForeignBody
from stet.models.layerwise import CHECKED, REFERENCE, Check, Layer, Part
from stet.models.shortened import WINDOW, cut_windows, repeated, skip, skippable
from stet.models.watched import watched

LENGTH = 16
"""Tokens of each of the two texts."""


def checked(loaded: LoadedModel, module: Any, attending: Sequence[nn.Module]) -> LoadedModel:
    """Check that a model is run faithfully; by torch and transformers, where Stet's parts do not.

    Args:
        loaded: the model.
        module: its body as transformers has it; None where only the whole model can be run.
        attending: its attention layers, in the order they are called in.

    Returns:
        The model, with a warning where it is run in another way than before.

    Raises:
        CompatibilityError: it is not run faithfully by these either.
    """
    faults: list[CompatibilityError] = []
    for found, instead in _ways(loaded, module):
        try:
            check_faithful(found, attending)
        except CompatibilityError as error:
            faults.append(error)
            continue
        if faults:
            warnings.warn(
                f"{loaded.name} runs through {instead}, which is slower: Stet's own gave other "
                f"numbers ({faults[0]}).",
                RuntimeWarning,
                stacklevel=4,
            )
        return found
    raise faults[-1]


def _ways(loaded: LoadedModel, module: Any) -> Iterator[tuple[LoadedModel, str]]:
    """A model as it is, then without its parts that torch or transformers can stand in for."""
    yield loaded, ""
    foreign = replace(loaded, body=ForeignBody(module), foreign="it gave other numbers")
    if loaded.native:
        yield replace(loaded, native=0), "torch's attention"
    if loaded.foreign is None:
        yield foreign, "transformers' own module"
        if loaded.native:
            yield replace(foreign, native=0), "transformers' own module and torch's attention"


@torch.inference_mode()
def check_faithful(loaded: LoadedModel, modules: Sequence[nn.Module]) -> None:
    """Feed two texts in pieces, with a rewind, a fork and uneven rows, and compare each layer.

    Args:
        loaded: the model.
        modules: its attention layers, in the order they are called in.

    Raises:
        CompatibilityError: the model gives other numbers through Stet's cache than by itself.
    """
    length = min(LENGTH, loaded.max_length or LENGTH)
    if length < 12:
        return
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(loaded.vocab_size, (2, length), generator=generator).to(loaded.device)
    check = Check(loaded, modules)
    with ExitStack() as stack:
        for module in dict.fromkeys(modules):
            hook = module.register_forward_pre_hook(check.enter, with_kwargs=True)
            stack.callback(hook.remove)
        for linear in skippable(loaded.model, modules):
            stack.enter_context(skip(linear))
        own = _own_pass(check, tokens, stack)
        if isinstance(loaded.body, Decoder):
            cut = [layer.arguments.get("sliding_window") for layer in check.layers]
            short = None if cut == [layer.window for layer in loaded.layers] else WINDOW
            again = repeated(loaded.model, modules)
            stack.enter_context(watched(loaded.body, check, again, short))
        ours = _stet_passes(check, tokens)
    check.compare_projections()
    for error in _final_errors(ours, own):
        # Rounding of many layers adds up here, and may change an expert in a mixture of experts.
        check.refuse("last hidden states", error, 3 * check.limit)


def _own_pass(check: Check, tokens: Tensor, stack: ExitStack) -> Tensor:
    """Run the model's own pass, with its windows cut where that works; [2, LENGTH, size]."""
    loaded = check.loaded

    def run() -> Tensor:
        check.layers.clear()
        with check.pass_of(REFERENCE, None):
            if loaded.head is None:
                out: Tensor = loaded.model(input_ids=tokens, use_cache=False).logits
                out = out[..., : loaded.vocab_size]
            else:
                out = loaded.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return out

    windows = [layer.window for layer in loaded.layers]
    if any(window is not None and window > WINDOW for window in windows):
        with ExitStack() as cut:
            cut.enter_context(cut_windows(loaded.model, check.modules))
            out = run()
            if all(map(_is_cut, check.layers, windows)):
                stack.push(cut.pop_all())
                return out
    return run()


def _is_cut(layer: Layer, window: int | None) -> bool:
    """Whether both the argument and the mask of a layer follow a window that was cut."""
    mask = layer.mask
    hidden = mask is not None and bool(mask[0, 0, -1, 0] < -1)
    if window is None:
        return layer.arguments.get("sliding_window") is None and not hidden
    return layer.arguments.get("sliding_window") == min(window, WINDOW) and hidden


def _stet_passes(check: Check, tokens: Tensor) -> list[tuple[Part, Tensor]]:
    """Run Stet's passes over the same texts; the last hidden state [count, size] of each part."""
    from stet.engine.runner import Runner  # the runner needs the models' types

    length = tokens.shape[1]
    ours: list[tuple[Part, Tensor]] = []
    whole = check.loaded.head is None
    try:
        runner = Runner(check.loaded, max_rows=3, max_length=length)

        def feed(*parts: Part) -> None:
            width = max(part.count for part in parts)
            batch = tokens.new_zeros((len(parts), width))
            for b, part in enumerate(parts):
                batch[b, : part.count] = tokens[part.source, part.places]
            with check.pass_of(CHECKED, parts):
                out = runner.forward(
                    [part.row for part in parts],
                    batch,
                    [part.start for part in parts],
                    None if len(parts) == 1 else [part.count for part in parts],
                    logits="all" if whole else "none",
                    hidden=not whole,
                )
            state = out.logits if whole else out.hidden
            assert state is not None
            ours.extend(
                (part, state[b, : part.count])
                for b, part in enumerate(parts)
                if part.foreign is None
            )

        first, second = runner.allocate(), runner.allocate()
        middle = length // 2 - 2
        feed(Part(0, first, 0, middle))
        # A block of the other text's tokens, rewound, then the right ones beside a shorter row.
        feed(Part(0, first, middle, 4, foreign=1))
        rest = length - middle - 3
        feed(Part(0, first, middle, rest), Part(1, second, 0, 2))
        # A fork continues its parent's tokens.
        (copy,) = runner.fork(first, 1)
        feed(Part(1, second, 2, length - 2), Part(0, copy, middle + rest, 3))
        feed(Part(0, first, middle + rest, 1))
    except (CapacityError, RuntimeError, TypeError) as error:
        reason = first_line(error)
        raise CompatibilityError(
            f"{check.loaded.name} cannot be run with Stet's cache ({reason}); choose another model."
        ) from error
    return ours


def _final_errors(ours: Sequence[tuple[Part, Tensor]], own: Tensor) -> tuple[float, float]:
    """Relative errors of the last state: the median at passes' first tokens, and at the others.

    First tokens are separate, since state that a model carries from token to token outside of
    Stet's cache is missing only there.
    """
    first: list[Tensor] = []
    other: list[Tensor] = []
    for part, state in ours:
        wanted = own[part.text, part.places].float()
        error = (state.float() - wanted).square().mean(-1) / wanted.square().mean(-1)
        if part.start:
            first.append(error[:1])
        other.append(error[1:] if part.start else error)
    medians = (float(torch.cat(errors).sqrt().median()) for errors in (first, other))
    return next(medians), next(medians)
