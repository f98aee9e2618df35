"""Configuration, weights and tokenizer as transformers reads them; failures become sentences."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from stet.core.errors import CompatibilityError, LoadError, first_line
from stet.models.quantised import advice, method_of


def config_of(source: str, name: str, common: dict[str, Any]) -> Any:
    """Read the configuration in a folder or on the hub.

    Raises:
        LoadError: it cannot be read.
        CompatibilityError: the model has code of its own, and running it was not allowed.
    """
    try:
        config: Any = AutoConfig.from_pretrained(source, **common)  # pyright: ignore
        return config  # pyright: ignore
    except Exception as error:
        _refuse_own_code(name, error)
        raise LoadError(
            f"The configuration of {name} could not be read ({first_line(error)}); check the "
            "name, the revision and the network, or give a local folder."
        ) from error


def _refuse_own_code(name: str, error: Exception) -> None:
    """Raise a `CompatibilityError` where transformers failed because a model has its own code."""
    if "trust_remote_code" in str(error):
        raise CompatibilityError(
            f"{name} brings its own code; read it, then pass trust_remote_code=True to run it."
        ) from error


def weights_of(
    source: str,
    name: str,
    config: Any,
    dtype: str | torch.dtype,
    device_map: Any,
    common: dict[str, Any],
) -> PreTrainedModel:
    """Read a model with its weights, from safetensors only.

    Raises:
        LoadError: they cannot be read, or some are missing.
        CompatibilityError: the model has code of its own, and running it was not allowed.
    """
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
            source,
            config=config,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
            **common,
        )
    except Exception as error:
        _refuse_own_code(name, error)
        method = method_of(config)
        if method is not None:
            raise LoadError(
                f"{name} is quantised with {method}, and could not be loaded "
                f"({first_line(error)}); {advice(method)}"
            ) from error
        raise LoadError(
            f"The weights of {name} could not be loaded ({first_line(error)}); check that its "
            "*.safetensors files are complete."
        ) from error
    model: PreTrainedModel
    model, report = loaded
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise LoadError(
            f"{name} lacks {len(missing)} of its weights, such as {missing[0]}; download its "
            "*.safetensors files again."
        )
    return model


def tokenizer_of(source: str, name: str, common: dict[str, Any]) -> Any:
    """Read the tokenizer in a folder or on the hub.

    Raises:
        LoadError: it cannot be read.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **common)  # pyright: ignore
        if not set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder):
            # So early versions of transformers 5 build one where there are no files.
            raise ValueError("it has no vocabulary")
        return tokenizer  # pyright: ignore
    except Exception as error:
        raise LoadError(
            f"The tokenizer of {name} could not be loaded ({first_line(error)}); add its "
            "tokenizer.json and tokenizer_config.json."
        ) from error
