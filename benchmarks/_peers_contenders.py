"""Ways of decoding, by engine: what takes part, and the grids from which the fastest does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from _peers_turns import Contender


def stet_contenders(name: str, worker: str) -> list[Contender]:
    """The target alone, and the default: `exact`, with blocks as long as Stet chooses."""
    return [Contender(f"{name} {p}", worker, {"policy": p}) for p in ("target", "exact")]


def llama_contenders(worker: str) -> list[Contender]:
    """llama.cpp: the target alone, a draft model, and lookup in the text so far.

    The predictor of drafts may run beside the target (`min` 0), which is its default, or before it.
    """
    drafts: list[dict[str, Any]] = [
        {"mode": "draft", "max": k, "confidence": c} for k in (2, 4) for c in (0, 0.6)
    ]
    drafts.append({"mode": "draft", "min": 0, "max": 16, "confidence": 0.6})
    return [
        Contender("llama.cpp target", worker, {"mode": "target"}),
        *family("llama.cpp draft", worker, drafts),
        *family("llama.cpp lookup", worker, [{"mode": "lookup", "max": k} for k in (2, 4)]),
    ]


def transformers_contenders(
    worker: str, assisted: Sequence[int | None], lookup: Sequence[int]
) -> list[Contender]:
    """`generate`, assisted generation (None: its own schedule) and prompt lookup."""
    drafted = [{"mode": "assisted", "length": n} for n in assisted]
    copied = [{"mode": "lookup", "length": n} for n in lookup]
    return [
        Contender("transformers generate", worker, {"mode": "generate"}),
        *family("transformers assisted", worker, drafted),
        *family("transformers lookup", worker, copied),
    ]


def family(name: str, worker: str, settings: Sequence[dict[str, Any]]) -> list[Contender]:
    """One contender for each setting; the fastest takes part."""
    return [
        Contender(f"{name} {_words(setting)}", worker, setting, family=name) for setting in settings
    ]


def _words(setting: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in setting.items() if k != "mode")
