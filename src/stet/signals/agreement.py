"""Agreement among the candidates of a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from stet.core.steps import normalise


def agreeing(texts: Sequence[str]) -> list[float]:
    """For each text, the share of texts equal to it, case and white space aside."""
    keys = [normalise(text) for text in texts]
    counts = Counter(keys)
    return [counts[key] / len(keys) for key in keys]


def centrality(embeddings: Tensor) -> list[float]:
    """The closeness of each candidate to the others, by the criterion of the soft medoid.

    With S the matrix of cosines, the published selector takes argmin_j softmax(S)_jj, the softmax
    over each row. That is argmax_j of the sum over l != j of exp(S_jl), which is returned here
    divided by the number of others; 1 candidate gives 0.

    Source: the self-consistency selector of SpecGuard, arXiv 2604.15244.

    Args:
        embeddings: [k, D], one row for each candidate.
    """
    count = embeddings.shape[0]
    if count < 2:
        return [0.0] * count
    unit = torch.nn.functional.normalize(embeddings.float(), dim=-1)
    close = (unit @ unit.T).exp()
    close.fill_diagonal_(0)
    values: list[float] = (close.sum(1) / (count - 1)).tolist()
    return values
