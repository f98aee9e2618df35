"""A reward from the draft's own hidden states, without a further model."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from stet.core.errors import LoadError, OptionError
from stet.core.needs import Need
from stet.core.operations import Operation
from stet.core.parsing import first_problem
from stet.core.tensors import upload
from stet.core.writing import write_text

if TYPE_CHECKING:
    from stet.core.step_policy import Candidate, Step

SETTINGS, WEIGHTS = "head.json", "head.safetensors"
"""The files in a head's folder."""

FORMAT = 1


class HeadNet(nn.Module):
    """A network that pools features of a step's tokens and computes a logit from them.

    Features are pooled by their minimum, maximum and mean, and the last token's are added: a single
    bad token can make a step wrong.

    Args:
        width: D, the size of the hidden states.
        inner: H, the size of the hidden layers; a token has H / 2 features.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.width, self.inner = width, inner
        self.read = nn.Linear(width, inner)
        self.features = nn.Linear(inner, inner // 2)
        self.mixed = nn.Linear(4 * (inner // 2), inner)
        self.output = nn.Linear(inner, 1)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """The logits of B steps, [B].

        Args:
            hidden: [B, T, D] float32, padded on the right.
            lengths: [B] int64, the number of tokens of each step, at least 1.
        """
        tokens = self.features(functional.gelu(self.read(hidden)))
        places = torch.arange(hidden.shape[1], device=hidden.device)
        present = (places < lengths[:, None])[..., None]
        pooled = [
            tokens[torch.arange(len(tokens), device=hidden.device), lengths - 1],
            (tokens * present).sum(1) / lengths[:, None],
            tokens.masked_fill(~present, -torch.inf).amax(1),
            tokens.masked_fill(~present, torch.inf).amin(1),
        ]
        logits: Tensor = self.output(functional.gelu(self.mixed(torch.cat(pooled, 1))))[:, 0]
        return logits


def padded(steps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad steps of [T, D] hidden states each to a batch [B, T, D]; also their lengths [B]."""
    lengths = upload([len(states) for states in steps], steps[0].device)
    return nn.utils.rnn.pad_sequence(list(steps), batch_first=True), lengths


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """The contents of `head.json`.

    Attributes:
        format: version of the file format.
        pair: fingerprint of the pair that it was trained on.
        width: size of the draft's hidden states.
        inner: size of the head's hidden layers.
    """

    format: int
    pair: str
    width: int
    inner: int


@dataclass(eq=False)
class RewardHead:
    """A small network on the hidden states that a step's tokens were drawn from.

    It needs no further pass of a model. It is fitted to one draft; other pairs are refused.

    Attributes:
        net: the network.
        pair: fingerprint of the pair that it was trained on.
        name: its folder, for traces and messages.
    """

    net: HeadNet
    pair: str | None
    name: str = "head"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DRAFT_HIDDEN})
    _place: torch.device = field(default=torch.device("cpu"), init=False, repr=False)

    @classmethod
    def load(cls, folder: str | Path) -> RewardHead:
        """Read a head that `save` wrote.

        Raises:
            LoadError: a file is missing or invalid.
        """
        folder = Path(folder)
        try:
            text = (folder / SETTINGS).read_text(encoding="utf-8")
            settings = TypeAdapter(HeadSettings).validate_json(text)
            weights = load_file(folder / WEIGHTS)
        except OSError as error:
            raise LoadError(
                f"{folder} is no reward head ({error.strerror}); it needs {SETTINGS} and {WEIGHTS}."
            ) from error
        except ValidationError as error:
            problem = first_problem(error, "the file")
            raise LoadError(f"{folder / SETTINGS} is not of a reward head ({problem}).") from error
        except SafetensorError as error:
            raise LoadError(f"{folder / WEIGHTS} cannot be read ({error}).") from error
        if settings.format != FORMAT:
            raise LoadError(
                f"{folder / SETTINGS} has format {settings.format}, and this version reads "
                f"{FORMAT}; train the head again."
            )
        net = HeadNet(settings.width, settings.inner)
        try:
            net.load_state_dict({name: weight.float() for name, weight in weights.items()})
        except RuntimeError as error:
            raise LoadError(f"{folder / WEIGHTS} does not fit {SETTINGS}; copy both.") from error
        return cls(net.eval().requires_grad_(False), settings.pair, str(folder))

    def save(self, folder: str | Path) -> None:
        """Write the head to a folder, as two files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.net.state_dict()
        save_file({k: w.detach().cpu().contiguous() for k, w in weights.items()}, folder / WEIGHTS)
        settings = {
            "format": FORMAT,
            "pair": self.pair,
            "width": self.net.width,
            "inner": self.net.inner,
        }
        write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")

    def rate(self, step: Step) -> Generator[Operation, Any, list[float]]:
        """Rate the candidates of a step, without any operation of a model.

        Raises:
            OptionError: the draft's hidden states have another size than the head reads.
        """
        yield from ()
        rewards: list[float] = self._read(step.candidates).sigmoid().tolist()
        return rewards

    def logits(self, candidates: Sequence[Candidate]) -> list[float]:
        """The logit of each candidate's reward.

        Raises:
            OptionError: the draft's hidden states have another size than the head reads.
        """
        found: list[float] = self._read(candidates).tolist()
        return found

    def _read(self, candidates: Sequence[Candidate]) -> Tensor:
        steps = [candidate.hidden for candidate in candidates]
        width, device = steps[0].shape[1], steps[0].device
        if width != self.net.width:
            raise OptionError(
                f"The reward head {self.name} reads hidden states of {self.net.width} numbers and "
                f"this draft has {width}; train one for this pair."
            )
        if device != self._place:
            self.net.to(device)
            self._place = device
        logits: Tensor = self.net(*padded(steps))
        return logits
