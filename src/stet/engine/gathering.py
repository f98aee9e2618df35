"""Gathering blocks that were drafted in different batches, or not by a model, into one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from stet.core.block import Block, DraftBatch, Steps, whole
from stet.core.sampling import one_hot
from stet.core.tensors import upload


def gather(blocks: Sequence[Block], vocab_size: int, device: torch.device) -> DraftBatch:
    """Gather blocks into one batch, padded on the right to the longest.

    Args:
        blocks: B blocks of up to K tokens.
        vocab_size: V, the target's; a draft's distributions over fewer tokens are padded with
            zeros, for some families pad their vocabularies differently.
        device: the device for blocks that are known on the host.

    Returns:
        A batch whose row b is `blocks[b]`.
    """
    width = max(block.length for block in blocks)
    if not width:
        return DraftBatch(torch.zeros(len(blocks), 0, dtype=torch.long, device=device))
    batch = blocks[0].batch
    if (
        batch is not None
        and batch.tokens.shape[0] == len(blocks)
        and all(block.batch is batch and block.row == i for i, block in enumerate(blocks))
    ):
        return _fit(batch, width, vocab_size)
    return _stack(blocks, width, vocab_size, device)


def _fit(batch: DraftBatch, width: int, vocab_size: int) -> DraftBatch:
    probs = None if batch.probs is None else batch.probs[:, :width]
    logits = batch.logits
    if logits is not None and not (
        isinstance(logits, Steps) and (len(logits), logits.size) == (width, vocab_size)
    ):
        logits = _widen(whole(logits)[:, :width], vocab_size, -torch.inf)
    return DraftBatch(
        batch.tokens[:, :width],
        None if probs is None else _widen(probs, vocab_size, 0.0),
        logits,
        None if batch.hidden is None else batch.hidden[:, :width],
    )


def _widen(tensor: Tensor, vocab_size: int, value: float) -> Tensor:
    missing = vocab_size - tensor.shape[-1]
    return tensor if not missing else pad(tensor, (0, missing), value=value)


def _stack(
    blocks: Sequence[Block], width: int, vocab_size: int, device: torch.device
) -> DraftBatch:
    def each(piece: Callable[[Block], Tensor]) -> Tensor:
        """Stack a piece [length, ...] of each block to [B, K, ...], with zeros after its end."""
        rows = [piece(block) for block in blocks]
        shape = (len(rows), width, *rows[0].shape[1:])
        out = torch.zeros(shape, dtype=rows[0].dtype, device=device)
        for row, tensor in enumerate(rows):
            out[row, : tensor.shape[0]] = tensor
        return out

    def tokens(block: Block) -> Tensor:
        if block.batch is None:
            return upload(block.tokens, device, torch.long)
        return block.batch.tokens[block.row, : block.length]

    def probs(block: Block) -> Tensor:
        if block.batch is None or block.batch.probs is None:
            return one_hot(tokens(block), vocab_size)
        return _widen(block.batch.probs[block.row, : block.length], vocab_size, 0.0)

    def logits(block: Block) -> Tensor:
        if block.batch is None or block.batch.logits is None:
            # Copied text has log-probability 0 at its tokens, and -inf elsewhere.
            return one_hot(tokens(block), vocab_size).log()
        found = whole(block.batch.logits)[block.row, : block.length]
        return _widen(found, vocab_size, -torch.inf)

    batches = [block.batch for block in blocks if block.batch is not None]
    hidden_size = next((b.hidden.shape[-1] for b in batches if b.hidden is not None), 0)

    def hidden(block: Block) -> Tensor:
        if block.batch is None or block.batch.hidden is None:
            return torch.zeros(block.length, hidden_size, device=device)
        return block.batch.hidden[block.row, : block.length].float()

    return DraftBatch(
        each(tokens),
        each(probs) if any(b.probs is not None for b in batches) else None,
        each(logits) if any(b.logits is not None for b in batches) else None,
        each(hidden) if hidden_size else None,
    )
