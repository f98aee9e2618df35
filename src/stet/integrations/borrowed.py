"""Models that belong to the caller: driven by Stet for a while, and restored afterwards."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from stet.core.errors import CompatibilityError, OptionError, StetError
from stet.core.model import LoadedModel, Role
from stet.engine import attention
from stet.load import DEFAULT_LENGTH
from stet.models.compatibility import rotary_scalings
from stet.models.loading import prepare_model
from stet.pair import Pair

_MOST_ROWS = 16
_SHORTEST = 256

# Both refer to a model weakly, so they drop it when its owner does.
_loaded: WeakKeyDictionary[PreTrainedModel, dict[Role, LoadedModel]] = WeakKeyDictionary()
_pairs: WeakKeyDictionary[PreTrainedModel, WeakKeyDictionary[PreTrainedModel, Pair]]
_pairs = WeakKeyDictionary()

# A model has one attention at a time, so calls take turns.
_turn = threading.RLock()


@contextmanager
def borrowed_pair(
    target: PreTrainedModel, draft: PreTrainedModel | None, *, rows: int, length: int
) -> Iterator[Pair]:
    """A pair of the caller's models, to be used only inside the `with` block.

    The models are checked once and remembered, with their caches, for as long as both exist.
    Outside the block they have their own attention, training mode and gradients.

    Args:
        target: the larger model.
        draft: the smaller model; None for prompt lookup.
        rows: number of sequences; up to 16 are decoded at a time.
        length: tokens of the longest sequence, prompt and answer together.

    Raises:
        CompatibilityError: a model that cannot be driven faithfully.
        OptionError: sequences longer than a model's context.
        MemoryPlanError: no room for the caches.
    """
    models = [target] if draft is None else [target, draft]
    with _turn, ExitStack() as stack:
        for model in models:
            stack.enter_context(_restore(model))
        pair = _pair(target, draft, min(rows, _MOST_ROWS), length)
        for model in models:
            model.eval()
            model.set_attn_implementation(attention.NAME)
        try:
            yield pair
        finally:
            # A cancelled request may still be in a round, which must not see the model change.
            with suppress(StetError):
                pair.between_rounds(_do_nothing)


def _do_nothing() -> None:
    """Do nothing; waiting for this call waits for all calls before it."""


@contextmanager
def _restore(model: PreTrainedModel) -> Iterator[None]:
    """Undo Stet's changes to a model at the end of the `with` block, also after an error."""
    configs = _configs(model)
    before = [(c, getattr(c, "_attn_implementation_internal", None)) for c in configs]
    training = [module for module in model.modules() if module.training]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
        for module in training:
            module.training = True
        for weight in trained:
            weight.requires_grad_(True)


def _configs(model: PreTrainedModel) -> list[Any]:
    """Every configuration that names an attention implementation."""
    waiting: list[Any] = [m.config for m in model.modules() if isinstance(m, PreTrainedModel)]
    found: dict[int, Any] = {}
    while waiting:
        config = waiting.pop()
        if config is not None and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


def _pair(target: PreTrainedModel, draft: PreTrainedModel | None, rows: int, length: int) -> Pair:
    """The pair of these models, with room for `rows` sequences of `length` tokens."""
    large = _load(target, "target")
    small = None if draft is None else _load(draft, "draft")
    if small is not None and small.vocab_size > large.vocab_size:
        # The draft must not propose ids that the target does not have.
        small = small.resized(large.vocab_size)
    limits = [m.max_length for m in (large, small) if m is not None and m.max_length is not None]
    limit = min(limits, default=max(length, DEFAULT_LENGTH))
    if length > limit:
        raise OptionError(
            f"A prompt and an answer of {length} tokens together exceed the context of {limit} "
            "tokens; lower max_new_tokens."
        )
    of_target = _pairs.setdefault(target, WeakKeyDictionary())
    key = target if draft is None else draft
    known = of_target.get(key)
    if known is not None and known.target is large and _is_same(known.draft, small):
        if rows <= known.max_batch and length <= known.max_length:
            return known
        rows, length = max(rows, known.max_batch), max(length, known.max_length)
    # Free the old caches before the new ones are allocated.
    of_target.pop(key, None)
    del known
    length = min(limit, max(_SHORTEST, 1 << (length - 1).bit_length()))
    # Never compiled: a compiler in the background would see the model change while it runs.
    pair = Pair(large, small, max_length=length, max_batch=rows, compile=False)
    of_target[key] = pair
    return pair


def _is_same(known: LoadedModel | None, small: LoadedModel | None) -> bool:
    """Whether two drafts are the same loaded model, with the same number of tokens."""
    if known is None or small is None:
        return known is small
    # `resized` makes another object, which has the same layers.
    return known.layers is small.layers and known.vocab_size == small.vocab_size


def _load(model: PreTrainedModel, role: Role) -> LoadedModel:
    """Prepare a model for the engine; it is checked again only after it was moved or changed."""
    roles = _loaded.setdefault(model, {})
    known = roles.get(role)
    if known is not None and _still_fits(known, model):
        return known
    name = model.name_or_path or type(model).__name__
    if any(r.kind == "longrope" for r in rotary_scalings(model.config.get_text_config())):
        raise CompatibilityError(
            f"{name} scales its positions by longrope, which Stet changes permanently; load it "
            "with stet.load_pair."
        )
    # Through its own module: its owner may change parts of it between two calls.
    checked = prepare_model(model, _NoText(), name=name, role=role, lean=False)
    # The body and the head do not refer to the whole model, so only the whole is held weakly.
    loaded = roles[role] = replace(checked, model=weakref.proxy(model))
    return loaded


def _still_fits(loaded: LoadedModel, model: Any) -> bool:
    weight = model.get_input_embeddings().weight
    layer = loaded.layers[0]
    same: bool = weight.device == layer.device and weight.dtype == layer.dtype
    if loaded.head is not None:
        linear: nn.Module | None = model.get_output_embeddings()
        same = same and loaded.head.linear is linear and _width(linear) == loaded.rows
    return same


def _width(linear: Any) -> int | None:
    weight = getattr(linear, "weight", None)
    return None if weight is None else int(weight.shape[0])


class _NoText:
    """A tokenizer that decodes to nothing, where prompts and answers are tokens."""

    eos_token_id = None

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Return an empty text; the caller has the tokenizer."""
        del token_ids, skip_special_tokens
        return ""
