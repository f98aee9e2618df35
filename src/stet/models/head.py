"""Splitting a model into a body and a head, so that only the logits that are read are computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from stet.core.head import LogitHead
from stet.core.model import device_of
from stet.engine import attention

_STATES = 3
_LARGE = 16.0
"""Size of the states that heads are compared on: large enough that a soft cap shows."""


class _Unlike(Exception):
    """The model does not call its body in the way that Stet does."""


@torch.inference_mode()
def split_head(model: Any) -> tuple[Any, LogitHead | None, int]:
    """Split a model into body and head, if using them separately gives the model's own logits.

    The body is not run: for one pass it is replaced by random states, and the model's logits for
    these states are compared with the head's. Both do the same operations on the same numbers, so
    the comparison is sharp in any precision.

    Returns:
        Body, head and the width of the logits; body and head are None where only the whole model
        gives the right logits.
    """
    embedding = model.get_input_embeddings()
    device = device_of(embedding)
    tokens = torch.tensor([[1, 0, 1]], device=device)
    body = getattr(model, model.base_model_prefix, None)
    linear = model.get_output_embeddings()
    if body is None or body is model or not isinstance(linear, nn.Module):
        return None, None, _width(model, tokens)
    width = int(model.config.get_text_config().hidden_size)
    generator = torch.Generator().manual_seed(0)
    states = _LARGE * torch.randn(1, _STATES, width, generator=generator)
    states = states.to(_place(linear, embedding), model.dtype)
    try:
        expected = _logits_of(model, body, tokens, states)
    except Exception:  # whatever it is, this model cannot be split
        return None, None, _width(model, tokens)
    for head in _candidates(model.config.get_text_config(), linear):
        ours = head(states).to(expected)
        if ours.shape != expected.shape:
            continue
        # A last bit, relative to the largest logits, since some are sums that cancel.
        rounding = torch.finfo(expected.dtype).eps
        close = (ours - expected).abs().max() <= rounding * expected.abs().max()
        if bool(close):
            return body, head, int(expected.shape[-1])
    return None, None, int(expected.shape[-1])


def _logits_of(model: Any, body: Any, tokens: Tensor, states: Tensor) -> Tensor:
    """The model's logits if its body were to return certain states.

    Raises:
        _Unlike: the body is not called with the tokens as they are.
    """
    calls: list[Tensor | None] = []

    def stand_in(input_ids: Tensor | None = None, *_: Any, **rest: Any) -> Any:
        calls.append(input_ids if rest.get("inputs_embeds") is None else None)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)

    before = vars(body).get("forward")
    vars(body)["forward"] = stand_in
    try:
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    finally:
        if before is None:
            del vars(body)["forward"]
        else:
            vars(body)["forward"] = before
    if len(calls) != 1 or calls[0] is None or not torch.equal(calls[0], tokens):
        raise _Unlike
    return logits


def _candidates(text: Any, linear: nn.Module) -> list[LogitHead]:
    """The heads that are possible by the configuration."""
    factor = getattr(text, "logit_scale", None)
    divisor = getattr(text, "logits_scaling", None)
    softcap = getattr(text, "final_logit_softcapping", None)
    found: list[LogitHead] = []
    if isinstance(softcap, int | float):
        found.append(LogitHead(linear, softcap=float(softcap)))
    if isinstance(factor, int | float):
        found.append(LogitHead(linear, factor=float(factor)))
    if isinstance(divisor, int | float):
        found.append(LogitHead(linear, factor=1 / float(divisor)))
    return [*found, LogitHead(linear)]


def _place(linear: nn.Module, embedding: nn.Module) -> torch.device:
    found = device_of(linear)
    return found if found.type != "meta" else device_of(embedding)


def _width(model: Any, tokens: Tensor) -> int:
    """The width of the logits, measured by a pass."""
    model.set_attn_implementation("eager")
    try:
        return int(model(input_ids=tokens, use_cache=False).logits.shape[-1])
    finally:
        model.set_attn_implementation(attention.NAME)
