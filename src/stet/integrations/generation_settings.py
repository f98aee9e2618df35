"""Settings of transformers' `generate` as Stet's options; unsupported ones are refused by name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitNormalization,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
)

from stet.core.errors import OptionError
from stet.requests.options import Options

# Fields that arrive here as logits processors or stopping criteria, or that shape the output.
_SUPPORTED = frozenset(
    {
        "bad_words_ids",
        "bos_token_id",
        "do_sample",
        "eos_token_id",
        "max_length",
        "max_new_tokens",
        "max_time",
        "min_p",
        "num_return_sequences",
        "pad_token_id",
        "renormalize_logits",
        "repetition_penalty",
        "return_dict_in_generate",
        "sequence_bias",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
    }
)

# Fields that change how transformers' own loop runs, never which tokens it writes without beams.
_NO_EFFECT = frozenset(
    {
        "compile_config",
        "disable_compile",
        "early_stopping",
        "length_penalty",
        "prefill_chunk_size",
        "transformers_version",
        "use_cache",
    }
)

# The order in which Stet applies the operations of these classes. Forbidding a token commutes with
# the penalty before it and the temperature after it.
_BIAS, _PENALTY, _BAN, _TEMPERATURE, _TOP_K, _TOP_P, _MIN_P, _NORMALISE = range(1, 9)
_STAGES: dict[type[Any], int] = {
    SequenceBiasLogitsProcessor: _BIAS,
    RepetitionPenaltyLogitsProcessor: _PENALTY,
    NoBadWordsLogitsProcessor: _BAN,
    SuppressTokensLogitsProcessor: _BAN,
    TemperatureLogitsWarper: _TEMPERATURE,
    TopKLogitsWarper: _TOP_K,
    TopPLogitsWarper: _TOP_P,
    MinPLogitsWarper: _MIN_P,
    LogitNormalization: _NORMALISE,
}

_ADVICE = "leave it out, or call generate without custom_generate."


def options_of(
    config: GenerationConfig,
    processors: Iterable[Any],
    criteria: Iterable[Any],
    *,
    width: int,
    pads: Sequence[int],
) -> Options:
    """Convert the settings of `generate` to Stet's options.

    Args:
        config: the generation config, as `generate` prepared it.
        processors: the logits processors that `generate` made from it, with the caller's own.
        criteria: the stopping criteria that `generate` made from it, with the caller's own.
        width: tokens of the padded prompts.
        pads: number of padding tokens of each row.

    Raises:
        OptionError: naming the first setting that Stet does not support.
    """
    _check_fields(config)
    options: Options = {"ignore_eos": True}
    _add_processors(options, processors, pads)
    _add_criteria(options, criteria, width)
    if config.do_sample:
        options.setdefault("temperature", 1.0)
        # The caller's torch.manual_seed makes the text repeatable.
        options["seed"] = int(torch.randint(2**62, ()))
    else:
        options["temperature"] = 0.0
    return options


def check_inputs(inputs: Mapping[str, Any], mask: Tensor) -> None:
    """Refuse inputs of the model beyond left-padded tokens.

    Args:
        inputs: inputs that `generate` would pass to the model, besides the tokens.
        mask: [B, T] bool, True for tokens that are no padding.

    Raises:
        OptionError: naming the first input that Stet does not support.
    """
    for name, value in inputs.items():
        if name in {"attention_mask", "logits_to_keep", "use_cache"} or value is None:
            continue
        if name == "past_key_values":
            # Early versions of transformers 5 do not mark a cache that a user gives.
            fine = not getattr(value, "_is_user_defined", False) and not value.get_seq_length()
        elif name == "position_ids" and value.shape[-1] == mask.shape[1]:
            expected = mask.long().cumsum(1) - 1
            fine = bool((~mask | (value.to(mask.device) == expected)).all())
        else:
            fine = False
        if not fine:
            raise OptionError(f"stet.custom_generate cannot pass on {name} to the model; {_ADVICE}")
    if not bool((mask[:, 1:] >= mask[:, :-1]).all() and mask[:, -1].all()):
        raise OptionError("Prompts must be padded on the left; set padding_side='left'.")


def _check_fields(config: GenerationConfig) -> None:
    usual = GenerationConfig._get_default_generation_params()
    # In reverse, to name min_new_tokens before the min_length that `generate` makes of it.
    for name in sorted(vars(GenerationConfig()), reverse=True):
        if name.startswith("_") or name in _SUPPORTED or name in _NO_EFFECT:
            continue
        value = getattr(config, name, None)
        if not (value is None or value is False or value == usual.get(name)):
            raise OptionError(
                f"stet.custom_generate cannot honour {name}={_short(value)}; {_ADVICE}"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _add_processors(options: Options, processors: Iterable[Any], pads: Sequence[int]) -> None:
    biases: dict[int, float] = {}
    reached = 0
    for processor in processors:
        kind = type(processor).__name__
        stage = _STAGES.get(type(processor))
        if stage is None:
            raise OptionError(f"stet.custom_generate cannot run the processor {kind}; {_ADVICE}")
        if stage < reached or (stage == reached and stage != _BAN):
            raise OptionError(f"Stet would apply {kind} earlier or only once; {_ADVICE}")
        reached = stage
        if not _usual(processor, pads):
            raise OptionError(f"stet.custom_generate cannot run {kind} with these settings.")
        if stage == _BIAS or isinstance(processor, NoBadWordsLogitsProcessor):
            for token, bias in _single_tokens(processor).items():
                biases[token] = biases.get(token, 0.0) + bias
        elif stage == _BAN:
            biases |= dict.fromkeys(processor.suppress_tokens.tolist(), float("-inf"))
        elif stage == _PENALTY:
            options["repetition_penalty"] = processor.penalty
        elif stage == _TEMPERATURE:
            options["temperature"] = processor.temperature
        elif stage == _TOP_K:
            options["top_k"] = processor.top_k
        elif stage == _TOP_P:
            options["top_p"] = processor.top_p
        elif stage == _MIN_P:
            options["min_p"] = processor.min_p
    if biases:
        options["logit_bias"] = biases


def _usual(processor: Any, pads: Sequence[int]) -> bool:
    """Whether a processor computes the same as Stet's option of the same name."""
    if isinstance(processor, RepetitionPenaltyLogitsProcessor):
        # Stet counts the whole prompt and no padding.
        ignored = processor.prompt_ignore_length
        if ignored is None or isinstance(ignored, int):
            if any(pads) and not ignored:
                raise OptionError(
                    "This repetition penalty counts padding, which Stet's does not "
                    "(transformers' own leaves padding out from 5.23 on); "
                    "give prompts of one length, or one at a time."
                )
            return not ignored
        return bool(ignored.tolist() == list(pads))
    if getattr(processor, "filter_value", float("-inf")) != float("-inf"):
        return False
    if isinstance(processor, TopKLogitsWarper):
        return True  # top_k has been raised to min_tokens_to_keep already
    return bool(getattr(processor, "min_tokens_to_keep", 1) == 1)


def _single_tokens(processor: Any) -> dict[int, float]:
    table: dict[tuple[int, ...], float] = processor.sequence_bias
    if any(len(tokens) != 1 for tokens in table):
        raise OptionError(
            "stet.custom_generate can bias or forbid single tokens, not sequences of several; "
            + _ADVICE
        )
    return {tokens[0]: bias for tokens, bias in table.items()}


def _add_criteria(options: Options, criteria: Iterable[Any], width: int) -> None:
    ends: list[int] = []
    rooms: list[int] = []
    for criterion in criteria:
        if type(criterion) is MaxLengthCriteria:
            rooms.append(criterion.max_length - width)
            options["max_new_tokens"] = min(rooms)
        elif type(criterion) is EosTokenCriteria:
            ends += criterion.eos_token_id.tolist()
        elif type(criterion) is MaxTimeCriteria:
            gone = time.time() - criterion.initial_timestamp
            options["timeout"] = max(0.0, criterion.max_time - gone)
        else:
            kind = type(criterion).__name__
            raise OptionError(f"stet.custom_generate cannot stop by {kind}; {_ADVICE}")
    options["stop_token_ids"] = ends
