"""The settings of a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from stet.arbiter import DEFAULT, needs_of
from stet.core.errors import OptionError
from stet.training.fitting import FitSettings
from stet.training.gradient import GradientSettings

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask

Labels = Literal["answers", "target", "shuffled"]
LABELS = ("answers", "target", "shuffled")

Method = Literal["groups", "flips", "none"]
METHODS = ("groups", "flips", "none")

CURVE = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The thresholds that are tried on the validation questions."""


@dataclass(frozen=True)
class TrainRequest:
    """The settings of a training.

    Attributes:
        task: the training questions.
        validation: the validation questions, for early stopping and the choice of a threshold; none
            of `task`.
        labels: the label source: "answers", the right ones of `task` and `validation`; "target",
            the target's own in their place; or "shuffled", for a control: right answers, but the
            warm start is fitted to outcomes that were dealt to the mismatches at random.
        features: the features of the arbiter.
        fit: settings of the warm start.
        gradient: settings of policy gradient.
        method: "groups" (policy gradient with group-relative advantages), "flips" (policy gradient
            from one-flip counterfactuals) or "none" (the warm start alone).
        branched: mismatches of an answer that are branched, drawn at random; None: all. Each takes
            an answer to be finished, and long answers have many.
        sweeps: how often branches are collected; after the first time, under the arbiter fitted so
            far.
        rounds: the largest number of rounds of policy gradient.
        check_every: rounds between validations.
        patience: validations without improvement after which training stops.
        within: the loss of accuracy that must be excluded for a faster threshold to be chosen.
        error: the probability of excluding it where it is there.
        held_out: share of a sweep's questions that are held out for early stopping of the fit.
        batch: questions at a time.
        seed: seed of all random choices.
        command: the command line, for the record.
    """

    task: LoadedTask
    validation: LoadedTask
    labels: Labels = "answers"
    features: tuple[str, ...] = DEFAULT
    fit: FitSettings = field(default_factory=FitSettings)
    gradient: GradientSettings = field(default_factory=GradientSettings)
    method: Method = "groups"
    branched: int | None = None
    sweeps: int = 2
    rounds: int = 24
    check_every: int = 4
    patience: int = 3
    within: float = 0.01
    error: float = 0.05
    held_out: float = 0.2
    batch: int = 32
    seed: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used.

        Raises:
            OptionError: the message says what is wrong.
        """
        needs_of(self.features)  # refuses unknown names
        if not self.features:
            raise OptionError("An arbiter needs at least one feature.")
        if self.labels not in LABELS:
            raise OptionError(f"labels is {self.labels!r}; choose from {', '.join(LABELS)}.")
        if self.method not in METHODS:
            raise OptionError(f"method is {self.method!r}; choose from {', '.join(METHODS)}.")
        if self.labels == "shuffled" and self.method != "none":
            raise OptionError(
                "Shuffled labels are a control of the warm start; policy gradient would learn from "
                'the right answers after all: choose the method "none".'
            )
        if self.branched is not None and self.branched < 1:
            raise OptionError(f"branched is {self.branched}; at least one mismatch is branched.")
        if self.sweeps < 1:
            raise OptionError(f"sweeps is {self.sweeps}; branches are collected at least once.")
        if self.rounds < 0:
            raise OptionError(f"rounds is {self.rounds}; it must not be negative.")
        if not 0 <= self.within < 1:
            raise OptionError(f"within is {self.within}; it is a share of answers, 0 to 1.")
        if not 0 < self.error < 0.5:
            raise OptionError(f"error is {self.error}; it is a probability, above 0 and below 0.5.")
        for name, task, least in (("task", self.task, 20), ("validation", self.validation, 10)):
            if task.grader is None or any(q.reference is None for q in task.questions):
                raise OptionError(
                    f"The reward is a right answer, and {task.name!r} ({name}) has questions "
                    "without one; choose a task with answers."
                )
            if len(task.questions) < least:
                raise OptionError(
                    f"{len(task.questions)} {name} questions are too few; take {least} or more."
                )
        shared = {q.prompt for q in self.task.questions} & {
            q.prompt for q in self.validation.questions
        }
        if shared:
            raise OptionError(
                f"{len(shared)} of the validation questions are also trained on; choose another "
                "split or seed for them."
            )

    def settings(self, fingerprint: str) -> dict[str, Any]:
        """All settings that a folder's results depend on."""
        return {
            "pair": fingerprint,
            "task": self.task.name,
            "questions": [q.id for q in self.task.questions],
            "chat": None if self.task.chat is None else asdict(self.task.chat),
            "max_new_tokens": self.task.max_new_tokens,
            "validation": [q.id for q in self.validation.questions],
            "labels": self.labels,
            "features": list(self.features),
            "fit": {**asdict(self.fit), "hidden": list(self.fit.hidden)},
            "gradient": asdict(self.gradient),
            "method": self.method,
            **({} if self.branched is None else {"branched": self.branched}),
            "sweeps": self.sweeps,
            "check_every": self.check_every,
            "within": self.within,
            "error": self.error,
            "held_out": self.held_out,
            "seed": self.seed,
        }
