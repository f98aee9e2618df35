"""What responses over HTTP say of an answer's tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from stet_vllm.hooks import wrap
from stet_vllm.notes import FIELD

_HOLDERS = (
    "vllm.entrypoints.openai.completion.serving",
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.scale_out.token_in_token_out.serving",
)
"""Modules that may have imported the function by its name already."""


def show_records() -> None:
    """Show the record of an answer in its `metrics.speculative_decoding`, streamed or not."""
    from vllm.entrypoints.generate.base import serving

    name = "build_spec_decoding_metrics"
    wrap(serving, name, _with_record)
    for holder in _HOLDERS:
        if (module := sys.modules.get(holder)) is not None:
            setattr(module, name, getattr(serving, name))


def _with_record(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def build_spec_decoding_metrics(final_res: Any) -> Any:
        metrics = original(final_res)
        given = getattr(final_res, "kv_transfer_params", None)
        if metrics is not None and isinstance(given, dict) and FIELD in given:
            # It came in a field that is meant for something else, and is not shown there too.
            setattr(metrics, FIELD, given[FIELD])
            rest = {key: value for key, value in given.items() if key != FIELD}
            final_res.kv_transfer_params = rest or None
        return metrics

    return build_spec_decoding_metrics
