"""Muon for many small matrices and several processes.

The update is that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`. Matrices of one
shape are orthogonalised as one stack, and every process takes a share of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from parallel import ALONE, Workers
from torch import nn

ROUNDS = 5
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalised(stack: torch.Tensor) -> torch.Tensor:
    """The matrices `[n, rows, columns]` with all singular values near 1 (Newton-Schulz)."""
    norms = torch.linalg.matrix_norm(stack.float(), keepdim=True).clamp(min=1e-7)
    x = (stack / norms).bfloat16()
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.02,
        workers: Workers = ALONE,
    ) -> None:
        super().__init__(matrices, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})
        self.workers = workers

    def _updates(self, group: dict[str, Any]) -> Iterable[tuple[nn.Parameter, torch.Tensor]]:
        stacks: dict[tuple[int, int], list[tuple[nn.Parameter, torch.Tensor]]] = {}
        for matrix in group["params"]:
            if matrix.grad is None:
                continue
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix.grad)
            state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
            update = matrix.grad.lerp(state["momentum_buffer"], group["momentum"])
            # A tall matrix and its wide transpose share a stack.
            rows, columns = sorted(matrix.shape)
            stacks.setdefault((rows, columns), []).append(
                (matrix, update if update.shape[0] == rows else update.T)
            )
        for (rows, columns), stack in stacks.items():
            share = [update for _, update in stack[self.workers.rank :: self.workers.size]]
            longest = -(-len(stack) // self.workers.size)
            mine = stack[0][1].new_zeros(longest, rows, columns, dtype=torch.bfloat16)
            if share:
                mine[: len(share)] = orthogonalised(torch.stack(share))
            shares = self.workers.gather(mine)
            for index, (matrix, _) in enumerate(stack):
                update = shares[index % self.workers.size, index // self.workers.size]
                yield matrix, update if matrix.shape[0] == rows else update.T

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step; every process takes the same one."""
        assert closure is None
        for group in self.param_groups:
            for matrix, update in self._updates(group):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                # The factor makes an update as large as one of AdamW.
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)
