"""The arbiter's network: a linear model or a small perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import tanh
from operator import mul

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """The logit, for each mismatch, of the probability that the draft's token is to be accepted.

    Inputs are first standardised to mean 0 and standard deviation 1, by statistics of the training
    data that are stored with the weights.

    Args:
        inputs: F, the number of features of a mismatch.
        hidden: widths of the hidden layers; none for a linear model.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, tuple(hidden)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        widths = [inputs, *hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def fit_inputs(self, features: Tensor) -> None:
        """Set mean and scale from features [N, F]; constant features are ignored from then on."""
        mean, spread = features.mean(0), features.std(0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), 0.0))

    def forward(self, features: Tensor) -> Tensor:
        """The logits [N] for features [N, F]."""
        x = (features - self.mean) * self.scale
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        logits: Tensor = self.layers[-1](x)[..., 0]
        return logits

    @property
    def size(self) -> int:
        """Multiplications for one mismatch."""
        return sum(a * b for a, b in pairwise((self.inputs, *self.hidden, 1)))

    @property
    def version(self) -> tuple[int, ...]:
        """A version of the weights, which differs after every change to them."""
        weights = (*self.parameters(), *self.buffers())
        return tuple(0 if w.is_inference() else w._version for w in weights)


class PlainNetwork:
    """A copy of a network in plain numbers, to run on a single mismatch without tensors.

    Args:
        network: the network whose weights are copied.
    """

    def __init__(self, network: Network) -> None:
        self._mean: list[float] = network.mean.tolist()
        self._scale: list[float] = network.scale.tolist()
        self._layers: list[tuple[list[list[float]], list[float]]] = []
        for layer in network.layers:
            assert isinstance(layer, nn.Linear)
            self._layers.append((layer.weight.tolist(), layer.bias.tolist()))

    def logit(self, features: Sequence[float]) -> float:
        """The logit for F features."""
        x = [(v - m) * s for v, m, s in zip(features, self._mean, self._scale, strict=True)]
        *between, last = self._layers
        for weights, bias in between:
            x = [tanh(b + sum(map(mul, row, x))) for row, b in zip(weights, bias, strict=True)]
        found: float = last[1][0] + sum(map(mul, last[0][0], x))
        return found
