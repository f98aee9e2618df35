"""Quantised checkpoints, which transformers loads by packages of their own."""

from __future__ import annotations

from typing import Any

_PACKAGES = {
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "gptq": "optimum gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
}
"""What is to be installed for a method, by the name that it has in configurations."""


def method_of(config: Any) -> str | None:
    """By which method a checkpoint is quantised; None for one that is not."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def advice(method: str) -> str:
    """What to do where a checkpoint of a method cannot be loaded; the end of a sentence."""
    packages = _PACKAGES.get(method)
    install = "" if packages is None else f"pip install {packages}, or "
    return f"{install}give the model unquantised, or as a GGUF file."
