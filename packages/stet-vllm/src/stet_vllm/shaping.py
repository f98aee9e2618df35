"""The sampling transforms of a batch, as an engine has computed them.

Stet's own engine makes a `Sampler` of the requests' parameters. vLLM has its own transforms
(penalties, bias, grammars, temperature, truncation); what is here hands their results to a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stet.core.sampling import one_hot
from stet.core.wide import peak

Cut = Callable[[Tensor, Tensor], Tensor]
"""Truncates logits [N, V], which it may overwrite, by the parameters of requests [N]."""


@dataclass(frozen=True, slots=True, eq=False)
class Shaping:
    """How B requests shape their distributions; takes the place of `stet.core.sampling.Sampler`.

    Attributes:
        raw: [B, K + 1, V] float32, the target's logits as they left the model.
        edited: [B, K + 1, V] float32, the same after penalties, bias and grammars, before
            temperature; the very tensor `raw` where nothing is edited.
        temperature: [B] float32; 0 takes the most probable token.
        greedy: whether each request's temperature is 0, on the host.
        requests: [B] int64, where the engine keeps each request's parameters.
        cut: truncates logits (top-k, top-p); None where no request does.
    """

    raw: Tensor
    edited: Tensor
    temperature: Tensor
    greedy: tuple[bool, ...]
    requests: Tensor
    cut: Cut | None = None

    @property
    def all_greedy(self) -> bool:
        """Whether every request takes the most probable token."""
        return all(self.greedy)

    @property
    def edits(self) -> bool:
        """Whether some request edits logits."""
        return self.edited is not self.raw

    def take(self, rows: Sequence[int], index: Tensor) -> Shaping:
        """Those of some requests: their places in this batch, on the host and on the device."""
        raw = self.raw[index]
        return replace(
            self,
            raw=raw,
            edited=self.edited[index] if self.edits else raw,
            temperature=self.temperature[index],
            greedy=tuple(self.greedy[row] for row in rows),
            requests=self.requests[index],
        )

    def edit(self, logits: Tensor, block: Tensor | None = None) -> Tensor:
        """The logits after penalties, bias and grammars, [B, T, V] float32.

        Args:
            logits: `raw`; or the draft's [B, K, V], which stay as they are, since vLLM drafts
                without any of these.
            block: not needed: the engine knows what was drafted.
        """
        del block
        return self.edited if logits is self.raw else logits

    def probs(self, logits: Tensor) -> Tensor:
        """The distributions [B, T, V] that requests draw from, for edited logits [B, T, V]."""
        if self.all_greedy:
            return one_hot(peak(logits)[1], logits.shape[-1])
        scaled = logits / self._divisors()
        if self.cut is not None:
            rows, positions, size = scaled.shape
            owners = self.requests[:, None].expand(rows, positions).reshape(-1)
            scaled = self.cut(scaled.reshape(-1, size), owners).view(rows, positions, size)
        return self._certain(scaled.softmax(-1), logits)

    def drawn_from(self, logits: Tensor) -> Tensor:
        """The distributions [B, K, V] that tokens were drafted from: raw, by temperature alone."""
        return self._certain((logits / self._divisors()).softmax(-1), logits)

    def _divisors(self) -> Tensor:
        return torch.where(self.temperature > 0, self.temperature, 1.0)[:, None, None]

    def _certain(self, probs: Tensor, logits: Tensor) -> Tensor:
        """Distributions [B, T, V] in which greedy rows are one-hot."""
        if not any(self.greedy):
            return probs
        certain = one_hot(peak(logits)[1], logits.shape[-1])
        return torch.where((self.temperature > 0)[:, None, None], probs, certain)
