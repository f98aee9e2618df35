"""The settings of a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stet.calibration.choosing import MOST, Wish
from stet.calibration.label_source import TARGETS_TEXT, LabelSource, label_source_of
from stet.core.errors import OptionError
from stet.policies import SpecGuard
from stet.signals import SIGNALS

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask


@dataclass(frozen=True)
class CalibrateRequest:
    """The settings of a calibration.

    Attributes:
        task: the questions, which are divided into two parts, for fitting and for choosing. Where
            they have no right answers, the target's own are the label source.
        wish: what the threshold is chosen for.
        base: the policy whose other parameters are kept.
        signals: names of the signals to choose from.
        thresholds: number of thresholds that are tried, at most `MOST`.
        fit_share: share of the questions that weights are fitted on.
        without_answers: do not use right answers even where there are any.
        rollouts: number of sampled completions by the target that label a step; 0 for the greedy
            one.
        head: also train a signal, a small head on the draft's hidden states, on the same steps.
        batch: questions at a time.
        seed: seed of the division and of all runs.
        command: the command line, for the record.
    """

    task: LoadedTask
    wish: Wish
    base: SpecGuard
    signals: Sequence[str] = tuple(SIGNALS)
    thresholds: int = 8
    fit_share: float = 0.5
    without_answers: bool = False
    rollouts: int = 0
    head: bool = False
    batch: int = 8
    seed: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used.

        Raises:
            OptionError: the message says what is wrong.
        """
        if self.rollouts < 0:
            raise OptionError(f"rollouts is {self.rollouts}; it must not be negative.")
        if self.rollouts and self.label_source is TARGETS_TEXT:
            raise OptionError(
                "Sampled rollouts are compared by their answers; name a grader that reads them."
            )
        if not 2 <= self.thresholds <= MOST:
            raise OptionError(f"thresholds is {self.thresholds}; it must be from 2 to {MOST}.")
        if len(self.task.questions) < 20:
            raise OptionError(f"{len(self.task.questions)} questions are too few; take 20 or more.")

    @property
    def label_source(self) -> LabelSource:
        """The label source of answers and steps."""
        return label_source_of(self.task, self.without_answers)
