"""The published algorithms on one block, in plain Python, with the random numbers given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stet.core.sampling import Sampler, SamplingParams
from stet.policies import ACCEPT, Blocks


def choose(weights: np.ndarray, u: float) -> int:
    """The token at which the cumulative sum of the weights passes `u`."""
    cumulative = weights.cumsum()
    return int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))


def exact(p: np.ndarray, q: np.ndarray, block: Sequence[int], u: np.ndarray, last: float):
    """Leviathan et al., algorithm 1: (accepted, next token)."""
    for i, token in enumerate(block):
        if not u[i] < p[i, token] / q[i, token]:
            return i, choose(np.maximum(p[i] - q[i], 0), last)
    return len(block), choose(p[len(block)], last)


def block(p: np.ndarray, q: np.ndarray, block: Sequence[int], u: np.ndarray, last: float):
    """Sun et al., algorithm 2: (accepted, next token)."""
    accepted, joint, joints = 0, 1.0, [1.0]
    for i, token in enumerate(block, 1):
        joint = min(1.0, joint * p[i - 1, token] / q[i - 1, token])
        joints.append(joint)
        if i == len(block):
            accept = joint
        else:
            left = np.maximum(joint * p[i] - q[i], 0).sum()
            accept = left / (left + 1 - joint) if left > 0 else 0.0
        if u[i - 1] < accept:
            accepted = i
    if accepted == len(block):
        return accepted, choose(p[accepted], last)
    return accepted, choose(np.maximum(joints[accepted] * p[accepted] - q[accepted], 0), last)


def blocks(
    p: np.ndarray, q: np.ndarray, drafted: np.ndarray, lengths: Sequence[int], u: np.ndarray
) -> Blocks:
    """A batch at temperature 1: p [B, K + 1, V], q [B, K, V], drafted [B, K], u [B, K + 1].

    The last column of u chooses the next token.
    """
    rows, width = drafted.shape
    numbers = torch.tensor(u, dtype=torch.float32)
    return Blocks(
        drafted=torch.tensor(drafted),
        lengths=torch.tensor(lengths),
        target_logits=torch.tensor(p, dtype=torch.float32).log(),
        sampler=Sampler(
            [SamplingParams(temperature=1.0)] * rows, [[]] * rows, p.shape[2], torch.device("cpu")
        ),
        uniforms=lambda slot, n: numbers[:, :n] if slot == ACCEPT else numbers[:, width:],
        full=min(lengths) == width,
        draft_probs=torch.tensor(q, dtype=torch.float32),
    )
