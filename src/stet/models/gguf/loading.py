"""A transformers model from a GGUF file, its weights unpacked to the dtype asked for.

The model is made with weights that hold nothing yet, which takes no memory, and each is unpacked
into its place: at no time is more in memory than the model itself and a few megabytes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from stet.core.errors import LoadError, first_line
from stet.models.gguf.file import GgufFile


def unpacked_model(file: GgufFile, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Make the model of a file.

    Args:
        file: the file.
        config: its configuration.
        dtype: dtype of the model.
        device: where it is to be.

    Raises:
        LoadError: the file lacks weights, has other ones, or they have other shapes.
    """
    check_shapes(file, config)
    with no_init_weights(), torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # pyright: ignore
    model.tie_weights()  # which is left out with the initial values
    # Not `state_dict`, which has a shared weight under each of its names.
    places = dict(model.named_parameters())
    for weight in file.weights():
        weight.unpack(places[weight.name].data)
    return model


def check_shapes(file: GgufFile, config: Any) -> None:
    """Compare a file's weights with the model's, before any memory is taken for them."""
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # pyright: ignore
    except Exception as error:
        raise LoadError(
            f"The settings of {file.header.name} make no model ({first_line(error)}); get the file "
            "again."
        ) from error
    missing: dict[str, Tensor] = dict(model.named_parameters())
    for weight in file.weights():
        place = missing.pop(weight.name, None)
        if place is None or tuple(place.shape) != weight.shape:
            wanted = "none" if place is None else f"one of {list(place.shape)}"
            raise LoadError(
                f"{file.header.name} has the weight {weight.name} of shape {list(weight.shape)}, "
                f"and its settings ask for {wanted}; get the file again."
            )
    if missing:
        raise LoadError(
            f"{file.header.name} lacks {len(missing)} of its weights, such as {min(missing)}; get "
            "the file again."
        )
