"""Loading a causal language model from a folder or the hub, checked so that it runs faithfully."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PreTrainedModel,
)

from stet.core.errors import CompatibilityError, LoadError
from stet.core.model import Body, LayerShape, LoadedModel, Role
from stet.decoder.foreign import ForeignBody
from stet.decoder.reading import UnknownPart, read_decoder
from stet.kernels.attention import FASTER, WIDEST, serves
from stet.models.adapters import adapter_of, check_peft, merge, without_adapter
from stet.models.compatibility import (
    check_class,
    check_config,
    context_length,
    fix_rotary_factors,
    probe_layers,
)
from stet.models.files import check_room, folder_of, gguf_of, loaded_bytes, weight_files
from stet.models.gguf.file import GgufFile
from stet.models.gguf.loading import unpacked_model
from stet.models.gguf.packing import is_kept, packed_model, stays_packed
from stet.models.head import split_head
from stet.models.hub import without_waiting
from stet.models.keeping import Quantize, check_not_quantised, check_quantize, keep_for_kernels
from stet.models.pretrained import config_of, tokenizer_of, weights_of
from stet.models.selfcheck import checked
from stet.models.stores import place_of
from stet.models.tokenizers import token_count

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    name_or_path: str | Path,
    *,
    role: Role,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: Any = None,
    max_length: int | None = None,
    self_check: bool = True,
    packed: bool | Literal["auto"] = "auto",
    quantize: Quantize | None = None,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Weights are read from safetensors and GGUF files only. Quantised checkpoints of transformers are
    loaded by their own configuration. Set `HF_HUB_OFFLINE=1` to use only files that were downloaded
    before; so does a hub that does not answer.

    Args:
        name_or_path: a folder, a GGUF file, a name on the Hugging Face hub, or a model of
            Ollama's or LM Studio's store ("ollama:NAME:TAG", "lmstudio:PUBLISHER/MODEL").
        role: target or draft, for messages and traces.
        dtype: "auto" (as in the checkpoint; bfloat16 where its weights are packed), "float32",
            "bfloat16" or "float16".
        device: "auto" (CUDA if there is any), "cpu", "cuda", "cuda:1", ...
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.
        device_map: as in transformers, to spread a model over several devices; replaces `device`.
        max_length: the longest sequence that will be run, in tokens; None: the model's context.
        self_check: compare each layer's output through Stet's cache with its output by itself.
        packed: keep the matrices of a GGUF file packed, and those of a folder in bfloat16 in the
            layout of the same kernel, on a CPU with AVX2 or AVX-512 VNNI and a C compiler; "auto":
            where that is possible, unless `dtype` asks for float32 or float16.
        quantize: round the weights of a full-precision model to "int8" or "int4", on a CPU; its
            embedding and head to int8.

    Returns:
        The model, ready for a `Runner`.

    Raises:
        LoadError: files are missing or unreadable, or an option is out of range.
        CompatibilityError: the model cannot be run faithfully, or cannot be quantised.
        OptionError: `quantize` is not known, or the model is not for the CPU.
    """
    name = str(name_or_path)
    kind = dtype_of(dtype)
    place = device_of(device)
    check_quantize(quantize, name, place, device_map)
    found = place_of(name)
    gguf = gguf_of(found)
    identity = None
    if gguf is not None:
        if quantize is not None:
            raise CompatibilityError(
                f"{name} is a GGUF file, whose weights have a format of their own; leave "
                f"quantize={quantize!r} out, or give the unquantised model."
            )
        model, tokenizer = _from_gguf(gguf, name, kind, place, device_map, max_length, packed)
    else:
        common = {"revision": revision, "trust_remote_code": trust_remote_code}
        model, tokenizer, identity = _from_transformers(
            folder_of(found), name, kind, place, device_map, max_length, common, packed, quantize
        )
    loaded = prepare_model(
        model,
        tokenizer,
        name=name,
        role=role,
        revision=revision,
        max_length=max_length,
        self_check=self_check,
        adapter=identity,
    )
    return replace(loaded, quantize=quantize)


def _from_transformers(
    folder: Path | None,
    name: str,
    dtype: str | torch.dtype,
    device: torch.device,
    device_map: Any,
    max_length: int | None,
    common: dict[str, Any],
    packed: bool | Literal["auto"],
    quantize: Quantize | None,
) -> tuple[PreTrainedModel, Any, str | None]:
    """The model and the tokenizer of a folder or of the hub, and its adapter's hash."""
    with without_waiting(folder):
        adapter = adapter_of(name, folder, common["revision"])
    tokens = source = name if folder is None else str(folder)
    if adapter is not None:
        check_peft(name)
        source, folder = adapter.base, folder_of(adapter.base)
        tokens = str(adapter.folder) if adapter.brings_tokenizer else source
        if folder != adapter.folder:
            common = {**common, "revision": None}  # the revision was that of the adapter
    with without_waiting(folder):
        config = config_of(source, name, common)
        check_config(config, name, max_length)
        _check_known(config, name, common["trust_remote_code"])
        check_not_quantised(quantize, name, config)
        if folder is not None and device_map is None:
            size = sum(loaded_bytes(file, config, dtype, quantize) for file in weight_files(folder))
            check_room(size, name, device)
        with without_adapter(source, adapter) as view:
            model = weights_of(view, name, config, dtype, device_map, common)
        tokenizer = tokenizer_of(tokens, name, common)
    if adapter is not None:
        # Before it is moved, so that it is the same model on any device, to the last bit.
        model = merge(model, adapter)
    # A quantised model is already on its device and refuses to be moved.
    if device_map is None and getattr(model, "hf_quantizer", None) is None:
        cast(nn.Module, model).to(device)
        if device.type == "cpu":
            keep_for_kernels(model, name, quantize, plain=packed is False)
    return model, tokenizer, None if adapter is None else adapter.identity


def _check_known(config: Any, name: str, trust_remote_code: bool) -> None:
    """Refuse a configuration of no causal language model that transformers knows."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        check_class(cast("type[Any]", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]), name)
    elif not (trust_remote_code and hasattr(config, "auto_map")):
        raise CompatibilityError(
            f"{name} is a {getattr(config, 'model_type', 'unknown')} model, which transformers "
            "does not know as a causal language model; choose a decoder-only language model."
        )


def _from_gguf(
    path: Path,
    name: str,
    dtype: str | torch.dtype,
    device: torch.device,
    device_map: Any,
    max_length: int | None,
    packed: bool | Literal["auto"],
) -> tuple[Any, Any]:
    """The model and the tokenizer of a GGUF file."""
    if device_map is not None:
        raise LoadError(f"{name} is a GGUF file, which goes to one device: use device instead.")
    file = GgufFile.open(path, name)
    config = file.config()
    check_config(config, name, max_length)
    wanted = dtype if isinstance(dtype, torch.dtype) else file.dtype()
    exact = isinstance(dtype, torch.dtype)
    keep = stays_packed(packed, file, name, device, wanted, exact=exact)
    check_room(file.bytes_of(wanted, kept=is_kept if keep else None), name, device)
    tokenizer = file.tokenizer()
    if keep:
        return packed_model(file, config, wanted), tokenizer
    return unpacked_model(file, config, wanted, device), tokenizer


def prepare_model(
    model: PreTrainedModel,
    tokenizer: Any = None,
    *,
    name: str = "model",
    role: Role = "target",
    revision: str | None = None,
    max_length: int | None = None,
    self_check: bool = True,
    adapter: str | None = None,
    lean: bool = True,
    native: bool = True,
) -> LoadedModel:
    """Check a transformers model that is already in memory and set Stet's attention in it.

    The model is changed: its attention implementation, gradients and dropout are set, the factors
    of `longrope` scaling are fixed, and weights that share an input are put together in memory.

    Args:
        model: the model.
        tokenizer: its tokenizer; None where none is needed.
        name: see `load_model`, as for what is not named here.
        role: see `load_model`.
        revision: see `load_model`.
        max_length: see `load_model`.
        self_check: see `load_model`.
        adapter: hash of an adapter that was merged into the weights.
        lean: run the passes through Stet's own decoder, where it knows all parts of the model.
            Passes then see weights that are written to, but not modules that are put in the place
            of others.
        native: attend by the compiled kernel in short passes on a CPU, where it can be had and
            serves the shapes of all layers.

    Raises:
        CompatibilityError: the model cannot be run faithfully.
    """
    config: Any = model.config
    check_config(config, name, max_length)
    check_class(type(model), name)
    model.eval()
    model.requires_grad_(False)
    fix_rotary_factors(model, config, max_length)
    layers, attending = probe_layers(model, name)
    module, head, width = split_head(model)
    body, foreign = _body(module, layers, lean)
    rows = min(width, int(cast(Any, model.get_input_embeddings()).num_embeddings))
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        revision=revision,
        role=role,
        max_length=max_length if max_length is not None else context_length(config),
        layers=layers,
        vocab_size=width,
        rows=rows,
        adapter=adapter,
        body=body,
        head=head,
        foreign=foreign,
    )
    if native and serves(layers):
        # A query's bits are then its own; that matters where all other bits are, too.
        loaded = replace(loaded, native=WIDEST if loaded.packed else FASTER)
    size = min(rows, token_count(tokenizer, rows))
    if size < width:
        loaded = loaded.resized(size)
    return checked(loaded, module, attending) if self_check else loaded


def _body(module: Any, layers: Sequence[LayerShape], lean: bool) -> tuple[Body | None, str | None]:
    """What runs the passes of a model, and why it is not Stet's own decoder."""
    if module is None:
        return None, "how it computes logits is not known"
    if not lean:
        return ForeignBody(module), "it was asked for"
    try:
        return read_decoder(module, layers), None
    except UnknownPart as part:
        return ForeignBody(module), str(part)


def dtype_of(dtype: str | torch.dtype) -> str | torch.dtype:
    """The torch dtype for a dtype or its name; "auto" stays "auto".

    Raises:
        LoadError: the dtype is not supported.
    """
    if dtype == "auto":
        return "auto"
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in _DTYPES.values():
        raise LoadError(f"dtype {dtype!r} is not supported; use one of auto, {', '.join(_DTYPES)}.")
    assert found is not None
    return found


def device_of(device: str | torch.device) -> torch.device:
    """The torch device for a device or its name; "auto" is CUDA where there is any.

    Raises:
        LoadError: the device does not exist.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"device {device!r} is not known; use auto, cpu or cuda.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise LoadError("No CUDA device was found; use device='cpu' or install a CUDA build.")
    return place
