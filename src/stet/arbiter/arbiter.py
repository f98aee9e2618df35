"""A trained arbiter: its network and the names of its features, on disk and in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stet.arbiter.features import measure, named, needs_of
from stet.arbiter.network import Network, PlainNetwork
from stet.arbiter.position import Position, Spot
from stet.core.errors import LoadError, OptionError
from stet.core.needs import Need
from stet.core.parsing import first_problem
from stet.core.upgrades import NAMES
from stet.core.writing import write_text

SETTINGS, WEIGHTS = "arbiter.json", "arbiter.safetensors"
"""The files in an arbiter's folder."""

FORMAT = 1

MOST_NUMBERS = 500
"""Multiplications of a network above which tensors are cheaper also for a single mismatch."""


@dataclass(frozen=True, slots=True)
class ArbiterSettings:
    """The contents of `arbiter.json`.

    Attributes:
        format: version of the file format.
        pair: fingerprint of the pair that it was trained on; None for any.
        features: names of its features, in order.
        inputs: size of the network's input.
        hidden: widths of the network's hidden layers.
        threshold: probability above which the draft's token is accepted.
        trained: how it was trained: data, seeds, versions.
    """

    format: int
    pair: str | None
    features: tuple[str, ...]
    inputs: int
    hidden: tuple[int, ...]
    threshold: float
    trained: dict[str, Any]


@dataclass(eq=False)
class Arbiter:
    """A trained arbiter: the probability that the draft's token is the better one at a mismatch.

    Attributes:
        network: computes the logit of that probability.
        features: names of its features.
        pair: fingerprint of the only pair that it may be used with; None for any.
        threshold: probability above which the draft's token is accepted.
        name: its folder or hub name, for traces and messages.
        trained: how it was trained.
    """

    network: Network
    features: tuple[str, ...]
    pair: str | None = None
    threshold: float = 0.5
    name: str = "arbiter"
    trained: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Refuse unknown features, and a threshold out of range.

        Raises:
            OptionError: the message names them.
        """
        self.in_block = any(feature.in_block for feature in named(self.features))
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold is {self.threshold}; it must be between 0 and 1.")
        measures = [f.number for f in named(self.features) if f.number is not None]
        fits = len(measures) == self.network.inputs and len(measures) == len(self.features)
        fits = fits and self.network.size <= MOST_NUMBERS
        self._measures = measures if fits else None
        self._numbers: tuple[tuple[int, ...], PlainNetwork] | None = None
        self._copies: dict[torch.device, tuple[tuple[int, ...], Network]] = {}

    def __reduce__(self) -> tuple[type[Arbiter], tuple[Any, ...]]:
        """Be sent to another process as what it was made of; the rest is made there again."""
        made_of = self.network, self.features, self.pair, self.threshold, self.name, self.trained
        return type(self), made_of

    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the models' passes for its features."""
        return needs_of(self.features)

    def describe(self, at: Position) -> Tensor:
        """Compute the features of N mismatches, [N, F].

        Raises:
            OptionError: their number is not the size of the network's input.
        """
        found = measure(at, self.features)
        if found.shape[1] != self.network.inputs:
            raise OptionError(
                f"The arbiter {self.name} reads {self.network.inputs} numbers of a mismatch "
                f"and this pair gives {found.shape[1]}; train one for this pair (`stet train`)."
            )
        return found

    def logits_of(self, features: Tensor) -> Tensor:
        """The logits [N] that the draft's token is to be accepted, from features [N, F]."""
        with torch.no_grad():
            logits: Tensor = self._on(features.device)(features)
        return logits

    def _on(self, device: torch.device) -> Network:
        """The network on a device; off the host a copy, made again whenever weights change."""
        if device.type == "cpu":
            return self.network
        version = self.network.version
        known = self._copies.get(device)
        if known is None or known[0] != version:
            with torch.inference_mode(False):
                known = self._copies[device] = version, deepcopy(self.network).to(device)
        return known[1]

    @property
    def in_numbers(self) -> bool:
        """Whether single mismatches are cheaper without tensors, see `probability`."""
        return self._measures is not None

    def probability(self, at: Spot) -> float:
        """The probability that the draft's token is to be accepted, at a position on a CPU."""
        assert self._measures is not None
        version = self.network.version
        if self._numbers is None or self._numbers[0] != version:
            self._numbers = version, PlainNetwork(self.network)
        logit = self._numbers[1].logit([measure(at) for measure in self._measures])
        return 1 / (1 + exp(-logit)) if logit > -700 else 0.0

    @classmethod
    def load(cls, folder: str | Path) -> Arbiter:
        """Load an arbiter from its folder.

        Raises:
            LoadError: a file is missing, unreadable, or of another format.
        """
        folder = Path(folder).expanduser()
        try:
            record = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            settings: ArbiterSettings = TypeAdapter(ArbiterSettings).validate_python(record)
            weights = load_file(folder / WEIGHTS)
        except OSError as error:
            raise LoadError(
                f"There is no arbiter in {folder}: it holds {SETTINGS} and {WEIGHTS}."
            ) from error
        except ValidationError as error:
            problem = first_problem(error, "the file")
            raise LoadError(f"{folder / SETTINGS} is not of an arbiter ({problem}).") from error
        except (ValueError, SafetensorError) as error:
            raise LoadError(f"{folder} cannot be read ({error}).") from error
        if settings.format != FORMAT:
            raise LoadError(
                f"{folder / SETTINGS} has format {settings.format}, and this version reads "
                f"{FORMAT}; train the arbiter again."
            )
        network = Network(settings.inputs, settings.hidden)
        try:
            network.load_state_dict({name: weight.float() for name, weight in weights.items()})
        except RuntimeError as error:
            raise LoadError(f"{folder / WEIGHTS} does not fit {SETTINGS}; copy both.") from error
        return cls(
            network.eval().requires_grad_(False),
            tuple(NAMES.get(name, name) for name in settings.features),
            settings.pair,
            settings.threshold,
            str(folder),
            settings.trained,
        )

    def save(self, folder: str | Path) -> None:
        """Write the arbiter to a folder, as two files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: w.detach().cpu().contiguous() for k, w in self.network.state_dict().items()},
            folder / WEIGHTS,
        )
        settings = {
            "format": FORMAT,
            "pair": self.pair,
            "features": list(self.features),
            "inputs": self.network.inputs,
            "hidden": list(self.network.hidden),
            "threshold": self.threshold,
            "trained": dict(self.trained),
        }
        write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
