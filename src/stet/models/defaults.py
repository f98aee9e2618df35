"""Defaults of requests from a model's `generation_config.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from stet.core.model import LoadedModel

_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": (),
    "dola_layers": (),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_decoder_ids": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": (),
    "stop_strings": (),
    "watermarking_config": (),
}
"""Settings that change greedy text and that Stet does not apply, with their neutral values."""


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Options of requests that do not set them.

    Attributes:
        repetition_penalty: the option of this name.
        logit_bias: the option of this name: minus infinity for tokens that are never to be
            written (`suppress_tokens`, and `bad_words_ids` of a single token).
        ignored: further settings that would change greedy text, and are not applied.
    """

    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict[int, float])
    ignored: tuple[str, ...] = ()


def generation_defaults(model: LoadedModel) -> GenerationDefaults:
    """The defaults that a model's `generation_config.json` sets.

    Sampling settings (`do_sample`, `temperature`, `top_p`, ...) are not used: Stet is greedy unless
    asked.
    """
    config: Any = getattr(model.model, "generation_config", None)
    if config is None:
        return GenerationDefaults()
    ignored = [
        name
        for name, harmless in _WITHOUT_EFFECT.items()
        if (value := getattr(config, name, None)) not in (None, False, [], {}, (), *harmless)
        and value is not None
    ]
    penalty = getattr(config, "repetition_penalty", None)
    if penalty is None:
        penalty = 1.0
    elif not (isinstance(penalty, int | float) and math.isfinite(penalty) and penalty > 0):
        penalty, ignored = 1.0, ["repetition_penalty", *ignored]
    suppressed = {int(token) for token in getattr(config, "suppress_tokens", None) or ()}
    words = [list(word) for word in getattr(config, "bad_words_ids", None) or ()]
    ends = getattr(config, "eos_token_id", None)
    # As in transformers, an end of a text is no bad word.
    ends = set(ends) if isinstance(ends, list | tuple) else {ends}
    suppressed |= {int(word[0]) for word in words if len(word) == 1 and word[0] not in ends}
    if any(len(word) > 1 for word in words):
        ignored.append("bad_words_ids of several tokens")
    bias = {token: -math.inf for token in sorted(suppressed) if 0 <= token < model.vocab_size}
    return GenerationDefaults(float(penalty), bias, tuple(ignored))
