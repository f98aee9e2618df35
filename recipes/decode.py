"""Plain batched greedy decoding, used to measure what a model can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

MAX_NEW = 256


@dataclass(frozen=True)
class Text:
    """The text written after a prompt, without the end token, and whether it ended by itself."""

    ids: list[int]
    ended: bool


@torch.inference_mode()
def greedy(
    model: Any, prompts: Sequence[list[int]], end: int, batch: int = 64, max_new: int = MAX_NEW
) -> list[Text]:
    """The greedy continuation of each prompt by one model."""
    return combined([model], prompts, end, lambda logits: logits[0], batch, max_new)


@torch.inference_mode()
def combined(
    models: Sequence[Any],
    prompts: Sequence[list[int]],
    end: int,
    combine: Callable[[list[torch.Tensor]], torch.Tensor],
    batch: int = 64,
    max_new: int = MAX_NEW,
) -> list[Text]:
    """The greedy continuation under a combination of several models' logits.

    Args:
        models: Causal models of one vocabulary.
        prompts: Token ids.
        end: Id that ends a text.
        combine: From each model's logits, float32 `[batch, vocabulary]`, to a score of each token.
        batch: Prompts decoded at once; prompts of similar length share a batch.
        max_new: Most tokens to write.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts: list[Text | None] = [None] * len(prompts)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for index, text in zip(
            chosen, _batch(models, [prompts[i] for i in chosen], end, combine, max_new), strict=True
        ):
            texts[index] = text
    return [text for text in texts if text is not None]


def _batch(
    models: Sequence[Any],
    prompts: list[list[int]],
    end: int,
    combine: Callable[[list[torch.Tensor]], torch.Tensor],
    max_new: int,
) -> list[Text]:
    device = next(models[0].parameters()).device
    longest = max(map(len, prompts))
    # Padded on the left, so that all rows write at the same position of the cache.
    ids = torch.tensor([[end] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    caches = [DynamicCache() for _ in models]
    written: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)
    ended: set[int] = set()
    feed, positions = ids, (mask.cumsum(1) - 1).clamp(min=0)
    for _ in range(max_new):
        scores = [
            model(
                input_ids=feed,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
            for model, cache in zip(models, caches, strict=True)
        ]
        tokens = combine(scores).argmax(-1)
        keep: list[int] = []
        for i, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
            if token == end:
                ended.add(row)
            else:
                written[row].append(token)
                keep.append(i)
        if not keep:
            break
        if len(keep) < len(rows):
            # Finished rows leave, so that a few long texts do not cost a whole batch.
            kept = torch.tensor(keep, device=device)
            rows, tokens, mask = rows[kept], tokens[kept], mask[kept]
            positions = positions[kept]
            for cache in caches:
                cache.batch_select_indices(kept)
        feed, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return [Text(w, i in ended) for i, w in enumerate(written)]
