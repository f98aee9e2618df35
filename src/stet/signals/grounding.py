"""Grounding of a step in its context, from the attention of the model that wrote it.

**Queries.** The context is the n tokens of the prompt and of the accepted steps, at positions
0 .. n - 1; the step is the T tokens at positions n .. n + T - 1. Token t of the step,
t = 0 .. T - 1, was drawn at position n + t - 1, from the output of the token just before it. The
attention of the query at that position is taken: it is computed when the token is drawn, while the
token's own query is computed one pass later, and that of the step's last token never. So row t
covers the positions 0 .. n + t - 1, and row 0 belongs to the context's last token.

**Rows.** In each of the last m layers, weights below `zero_below` become 0 in every head
(`zero_in="heads"`), the rows are averaged over heads, weights of the mean below `zero_below` become
0 (`zero_in="mean"`), the weight of position 0 becomes 0 (`sink`), the row is divided by its sum
(`renormalise` or `sink`; a row of zeros stays 0), and finally A becomes
0.5 A + 0.5 I (`residual`), I having its 1 at the position of the row's own query, n + t - 1.

**Rollout.** R is the product A_L A_(L-1) ... A_(L-m+1), last layer first, of matrices over
positions in which row n + t - 1 of A_l is row t above, and G(t) is the sum of R[n + t - 1, j] over
j < n. Rows of the context are absorbing: weight that reaches the context stays there and counts in
full. Where rows sum to 1 this is exact, as the context attends to nothing else; with zeroing it is
our interpretation, since the context's rows are not computed again for each step. (Row 0 is a row
of the context as well: it is taken as it is where a rollout starts, and as absorbing where one
passes through it.) With

    c_l[t] = sum of A_l[t, j] over j < n
    S_l[t, s] = A_l[t, n + s - 1] for s = 1 .. T - 1, and S_l[t, 0] = 0

(the weights from the step to the context and within the step; s = 0 is a position of the context)
this is G = c_L + S_L (c_(L-1) + S_(L-1) (c_(L-2) + ...)). Where rows sum to 1, it is 1 less the row
sums of S_L S_(L-1) S_(L-2): no matrix over all positions is needed.

Source: ABGV of SpecGuard, arXiv 2604.15244. The paper does not state whether there is a residual
term or a renormalisation, how the first token's weight is treated, or which queries are meant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from stet.core.errors import OptionError
from stet.core.needs import AttentionCapture
from stet.signals.confidence import LOW

if TYPE_CHECKING:
    from stet.core.step_policy import Candidate

STATISTICS = ("min", "mean", "low")
PLACES = ("heads", "mean")


@dataclass(frozen=True, slots=True)
class Grounding:
    """The grounding of a step: the share of its tokens' attention that ends in the context.

    The docstring of the module gives the definition.

    Attributes:
        layers: m, how many of the last layers are used; all where the model has fewer.
        statistic: over the step's tokens: "min", "mean" or "low", the 0.1 quantile.
        residual: mix every layer's attention with the identity, half and half.
        zero_below: weights below it count as 0; 0 for none.
        zero_in: whether that applies to weights of single "heads" or of their "mean".
        renormalise: scale rows to sum to 1 after that.
        sink: set the weight of the first token, an attention sink, to 0, and scale rows to sum to 1
            without it.
    """

    layers: int = 3
    statistic: Literal["min", "mean", "low"] = "min"
    residual: bool = False
    zero_below: float = 0.0
    zero_in: Literal["heads", "mean"] = "heads"
    renormalise: bool = False
    sink: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if self.layers < 1:
            raise OptionError(f"layers is {self.layers}; it must be at least 1.")
        if not 0 <= self.zero_below < 1:
            raise OptionError(f"zero_below is {self.zero_below}; it must be at least 0, below 1.")
        for field, known in (("statistic", STATISTICS), ("zero_in", PLACES)):
            if getattr(self, field) not in known:
                listed = ", ".join(known)
                raise OptionError(f"{field} is {getattr(self, field)!r}; choose from {listed}.")

    @property
    def capture(self) -> AttentionCapture:
        """Which attention the engine must capture."""
        return AttentionCapture(self.layers, frozenset({self._floor}))

    @property
    def _floor(self) -> float:
        return self.zero_below if self.zero_in == "heads" else 0.0

    def measure(self, candidates: Sequence[Candidate]) -> list[float]:
        """The grounding of each candidate of a step, 0 to 1."""
        return [self.step(c.attention(self._floor), c.sequence.prompt_length) for c in candidates]

    def step(self, attention: Tensor, context: int) -> float:
        """The grounding of a step, 0 to 1.

        Args:
            attention: [layers, T, n + T - 1], the rows of the last layers, ascending, averaged over
                heads, and with `zero_in="heads"` already zeroed in each head.
            context: n, the number of tokens before the step.
        """
        values: list[float] = self.tokens(attention, context).tolist()
        if self.statistic == "mean":
            return math.fsum(values) / len(values)
        if self.statistic == "min":
            return min(values)
        return sorted(values)[math.floor(LOW * (len(values) - 1))]

    def tokens(self, attention: Tensor, context: int) -> Tensor:
        """The grounding of each token of a step, [T]; arguments as in `step`."""
        if attention.shape[0] > self.layers:
            attention = attention[-self.layers :]
        rows = self._rows(attention.float(), context)
        # Few operations, as their number determines the cost. The columns after the context are
        # those of rows 1 .. T - 1.
        to_context, among = rows.tensor_split((context,), -1)
        grounding, *onto = to_context.sum(-1).unbind()
        for direct, block in zip(onto, among.unbind()[1:], strict=True):
            grounding = torch.addmv(direct, block, grounding[1:])
        return grounding

    def _rows(self, rows: Tensor, context: int) -> Tensor:
        """The rows [layers, T, S] as the rollout of the module's docstring takes them."""
        if self.zero_in == "mean" and self.zero_below > 0:
            rows = rows.masked_fill(rows < self.zero_below, 0)
        if self.sink:
            rows = torch.cat((torch.zeros_like(rows[..., :1]), rows[..., 1:]), -1)
        if self.sink or self.renormalise:
            rows = rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
        if self.residual:
            own = torch.eye(rows.shape[1], device=rows.device)
            # The query of row t is at position n - 1 + t.
            rows = 0.5 * rows
            rows[..., context - 1 :] += 0.5 * own
        return rows


PUBLISHED = Grounding(layers=3, statistic="min", zero_below=0.01)
"""The settings of arXiv 2604.15244, as far as it states them."""

GROUNDING: dict[str, tuple[str, Grounding]] = {
    "grounding": (
        "The least share of a token's attention that leads to the context, as published.",
        PUBLISHED,
    ),
    "grounding_plain": (
        "As `grounding`, but with all weights counted, however small.",
        Grounding(layers=3, statistic="min"),
    ),
    "grounding_mean": (
        "The mean share of the tokens' attention that goes to the context, in the last layer.",
        Grounding(layers=1, statistic="mean"),
    ),
    "grounding_mean_zeroed": (
        "As `grounding_mean`, but with weights of a head below 0.01 left out.",
        Grounding(layers=1, statistic="mean", zero_below=0.01),
    ),
    "grounding_mean_without_sink": (
        "As `grounding_mean`, but without the weights on the first token.",
        Grounding(layers=1, statistic="mean", sink=True),
    ),
}
"""All signals of grounding, by name: a description in one line, and the settings."""
