"""Hidden states of the steps that a policy decides about, kept beside their labels."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stet.calibration.samples import StepSample
from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Operation
from stet.core.step_policy import Step, StepDecision
from stet.policies import SpecGuard

States = dict[tuple[str, int], Tensor]
"""[T, D] float16: what a step was drawn from, by question and number of steps before it."""


@dataclass(frozen=True)
class Recording(SpecGuard):
    """SpecGuard that keeps the hidden states of what it decided about.

    Attributes:
        kept: [T, D] float16 on the host, by the tokens up to the step's end, the prompt included.
    """

    kept: dict[tuple[int, ...], Tensor] = field(
        default_factory=dict[tuple[int, ...], Tensor], compare=False, repr=False
    )

    @classmethod
    def of(cls, policy: SpecGuard) -> Recording:
        """The same policy, recording."""
        return cls(**{f.name: getattr(policy, f.name) for f in fields(SpecGuard)})

    @cached_property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the draft's passes."""
        return super().needs | {Need.DRAFT_HIDDEN}

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Decide as SpecGuard does."""
        decision = yield from super().judge(step)
        chosen = step.candidates[decision.chosen]
        self.kept[tuple(chosen.sequence.tokens)] = chosen.hidden.half().cpu()
        return decision


def save(folder: Path, number: int, states: Mapping[tuple[str, int], Tensor]) -> None:
    """Write the states of a batch of questions, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"states-{number:05d}.safetensors"
    partial = path.with_suffix(".partial")
    save_file({f"{at} {problem}": s.contiguous() for (problem, at), s in states.items()}, partial)
    partial.replace(path)


def load(folder: Path) -> States:
    """Read all states of a folder.

    Raises:
        StetError: a file cannot be read.
    """
    found: States = {}
    for path in sorted(folder.glob("states-*.safetensors")):
        try:
            columns = load_file(path)
        except (OSError, SafetensorError) as error:
            raise StetError(f"{path} cannot be read ({error}); delete it and go on.") from error
        for name, states in columns.items():
            at, _, problem = name.partition(" ")
            found[problem, int(at)] = states
    return found


def states_of(steps: list[StepSample], states: States) -> list[Tensor]:
    """The states of labelled steps, in their order.

    Raises:
        StetError: a step has none.
    """
    try:
        return [states[step.problem, step.index] for step in steps]
    except KeyError as error:
        raise StetError(f"There are no hidden states of step {error}; collect it again.") from error
