"""Loading a target and a draft, and checking that they can decode together."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from stet.bundled import DRAFT, TARGET
from stet.core.errors import OptionError
from stet.core.model import LoadedModel
from stet.models.defaults import GenerationDefaults, generation_defaults
from stet.models.keeping import Quantize
from stet.models.loading import load_model
from stet.models.shortlist import with_shortlist
from stet.models.tokenizers import check_text_exchange, difference
from stet.pair import LOOKUP, Pair
from stet.remote.target import RemoteTarget

DEFAULT_LENGTH = 4096
"""Tokens of a sequence where neither the user nor the models set a lower limit."""


def load_pair(
    target: str | Path | RemoteTarget | None = None,
    draft: str | Path | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    draft_revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | dict[str, Any] | None = None,
    max_length: int | None = None,
    max_batch: int = 16,
    max_rows: int | None = None,
    cache_memory: int | str | None = None,
    prefix_caching: bool = False,
    compile: bool | Literal["auto"] = "auto",
    self_check: bool = True,
    packed: bool | Literal["auto"] = "auto",
    quantize: Quantize | None = None,
    draft_quantize: Quantize | Literal["none"] | None = None,
    profile: bool = True,
    shortlist: bool = True,
) -> Pair:
    """Load a target and a draft and check that they can decode together.

    Two models whose tokenizers differ make a pair too, for step policies only: they exchange text.

    Args:
        target: the larger model: a folder, a GGUF file, a hub name, "ollama:NAME:TAG" or
            "lmstudio:PUBLISHER/MODEL"; a `RemoteTarget` for one behind an endpoint; None for the
            bundled pair.
        draft: the smaller model, named likewise, or "lookup" to copy from the text so far.
        dtype: "auto" (as stored, bfloat16 for packed GGUF files, float32 for the bundled pair),
            "float32", "bfloat16", "float16", or a torch dtype.
        device: "auto" takes CUDA where there is one.
        revision: git revision of the target on the hub.
        draft_revision: git revision of the draft on the hub.
        trust_remote_code: run model code from the hub; off unless you ask for it.
        device_map: as in transformers, for models over several devices.
        max_length: the most tokens of a sequence; the models' own limit, or 4,096, if None.
        max_batch: requests decoded at a time.
        max_rows: rows of each model's cache. A policy that writes k candidates of a step takes
            k + 1 rows for a request, others 1; by default `max_batch` + 1.
        cache_memory: the most memory of the caches of both models, on each device, in bytes or as
            "2GB"; None: enough for all rows at their full length, or most of what is free. Rows
            share it: where they need more, the newest requests wait and are read again later.
        prefix_caching: keep texts in the caches while there is room, so that the next turn of a
            chat, or another question after one system prompt, is read from where it is new. Texts
            of packed models are the same bits with and without; of others they may differ by
            rounding. Prompts that begin alike and are at work at one time share that beginning
            anyway.
        compile: compile the forward passes: at once, never, or ("auto") after a minute of work.
        self_check: compare what each layer of a model does through Stet's cache with what it does
            by itself, and refuse a model whose layers differ.
        packed: keep the matrices of GGUF files packed, and those of folders in bfloat16 in the
            layout of the same kernel, on a CPU with AVX2 or AVX-512 VNNI and a C compiler: passes
            over few tokens are several times as fast, and packed ones take a quarter of the memory.
            "auto": where that is possible, unless `dtype` asks for float32 or float16.
        quantize: round the weights of full-precision models on a CPU to "int8" or "int4" (embedding
            and head to int8): faster, and less accurate.
        draft_quantize: the same for the draft alone, or "none"; None: as the target.
        profile: keep what passes cost on this machine in the user's cache, and use what is kept
            there, so that the same blocks are drafted in every process.
        shortlist: let a draft with a large vocabulary choose among the frequent tokens only, where
            the text does not depend on what it drafts (lossless policies at temperature 0).

    Raises:
        LoadError: missing or unreadable files.
        CompatibilityError: a model that cannot be driven faithfully, or two tokenizers that differ
            so much that not even text can be exchanged.
        MemoryPlanError: weights and caches do not fit.
    """
    if target is None:
        if draft is not None and draft != LOOKUP:
            raise OptionError("Name a target for this draft; the bundled target has its own.")
        target, draft = TARGET, draft or DRAFT
        # Stored in bfloat16 to be small. In float32 small models are no slower on a CPU, and a pass
        # over a block rounds like passes over single tokens far more often.
        dtype = "float32" if dtype == "auto" else dtype
    elif draft is None:
        raise OptionError(f'Name a draft model for {target}, or draft="{LOOKUP}" to do without.')
    if isinstance(target, str) and target.startswith(("http://", "https://")):
        raise OptionError(f'For a remote target give RemoteTarget("{target}", model="...").')
    if isinstance(target, RemoteTarget) and draft == LOOKUP:
        raise OptionError("A remote target needs a draft model that is here; name one.")
    shared: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "device_map": device_map,
        "max_length": max_length,
        "self_check": self_check,
        "packed": packed,
    }
    large = small = apart = None
    if isinstance(target, RemoteTarget):
        whole: LoadedModel | RemoteTarget = target
    else:
        whole = large = load_model(
            target, role="target", revision=revision, quantize=quantize, **shared
        )
    if draft != LOOKUP:
        own = quantize if draft_quantize is None else draft_quantize
        small = load_model(
            draft,
            role="draft",
            revision=draft_revision,
            quantize=None if own == "none" else own,
            **shared,
        )
    if large is not None and small is not None:
        apart = difference(large, small)
        if apart is None:
            small = small.resized(large.vocab_size)
            small = with_shortlist(small) if shortlist else small
        else:
            check_text_exchange(large, small, apart)
    defaults = GenerationDefaults() if large is None else generation_defaults(large)
    if defaults.ignored:
        warnings.warn(
            f"The generation_config.json of {target} sets {', '.join(defaults.ignored)}, which "
            "Stet does not apply: transformers may write other texts.",
            RuntimeWarning,
            stacklevel=2,
        )
    models = [model for model in (large, small) if model is not None]
    limits = [m.max_length for m in models if m.max_length is not None]
    length = max_length or min([DEFAULT_LENGTH, *limits])
    return Pair(
        whole,
        small,
        max_length=length,
        max_batch=max_batch,
        max_rows=max_rows,
        cache_memory=cache_memory,
        prefix_caching=prefix_caching,
        compile=compile,
        difference=apart,
        generation_defaults=defaults,
        profile=profile,
    )
