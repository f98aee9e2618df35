"""Options of `stet calibrate`, by theme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli import fit_options
from stet.cli.groups import After, OptionGroup
from stet.core.errors import OptionError

if TYPE_CHECKING:
    from stet.calibration.choosing import Wish


@dataclass(frozen=True, slots=True)
class TaskOptions(fit_options.TaskOptions):
    """The task whose problems SpecGuard is fitted on; their answers are not needed."""

    task: Annotated[
        str, typer.Option("--task", help="A task, or a JSONL file; answers are not needed.")
    ] = "stories"
    split: Annotated[
        str | None, typer.Option(help="Never one you report on.", show_default="calibration")
    ] = None
    without_answers: Annotated[
        bool,
        typer.Option("--without-answers", help="Label steps by the target's own answers."),
        After("grader"),
    ] = False
    problems: Annotated[
        int, typer.Option("--problems", "-n", min=20, help="How many; half of them for fitting.")
    ] = 400

    def settings(self, seed: int) -> dict[str, Any]:
        """The problems as `load_task` takes them, without the grader."""
        return {
            "split": self.choose_split(self.split, "calibration"),
            "count": self.problems,
            "path": self.task_file,
            "seed": seed,
        }


@dataclass(frozen=True, slots=True)
class GoalOptions(OptionGroup):
    """What the threshold is chosen for."""

    panel = "What the threshold is chosen for (one of them)"

    accurate: Annotated[
        bool, typer.Option("--accurate", help="Most right answers; the default.")
    ] = False
    accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Fastest with this share of right answers."),
    ] = None
    keep: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Strictest that accepts this share of the draft's steps."),
    ] = None
    latency: Annotated[
        float | None, typer.Option(min=0, help="Most accurate within these seconds.")
    ] = None
    risk: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Most accepted steps while at most this share of problems is lost to one.",
        ),
    ] = None

    def make_wish(self, delta: float) -> Wish | None:
        """The goal as a wish; None: none was given.

        Raises:
            OptionError: for several goals.
        """
        from stet.calibration.choosing import Wish

        given = [Wish("accuracy")] if self.accurate else []
        if self.accuracy is not None:
            given.append(Wish("speed", self.accuracy))
        if self.keep is not None:
            given.append(Wish("keep", self.keep))
        if self.latency is not None:
            given.append(Wish("latency", self.latency))
        if self.risk is not None:
            given.append(Wish("risk", self.risk, delta))
        if len(given) > 1:
            raise OptionError(
                "Ask for one thing: --accurate, --accuracy, --keep, --latency or --risk."
            )
        return given[0] if given else None


@dataclass(frozen=True, slots=True)
class RunOptions(OptionGroup):
    """What is calibrated, and how."""

    policy: Annotated[
        str,
        typer.Option(
            "--policy", "-p", help="What is calibrated, with parameters that stay as they are."
        ),
    ] = "specguard:lower=0"
    delta: Annotated[
        float, typer.Option(min=0, max=1, help="Probability that the bound on risk fails.")
    ] = 0.05
    thresholds: Annotated[int, typer.Option(min=2, max=20, help="Thresholds to try.")] = 8
    batch: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 8
    rollouts: Annotated[
        int,
        typer.Option(
            min=0,
            help="A step is good if at least half of so many sampled rollouts by the target "
            "come out right; 0: the greedy one.",
        ),
    ] = 0
    head: Annotated[
        bool,
        typer.Option(
            "--head", help="Also train a signal: a small head on the draft's hidden states."
        ),
    ] = False
    seed: Annotated[
        int, typer.Option(help="Seed of the division of the problems and of the runs.")
    ] = 0


@dataclass(frozen=True, slots=True)
class OutputOptions(OptionGroup):
    """Where the policy is written, and what it is made from."""

    output: Annotated[
        Path, typer.Option("--output", "-o", help="The calibrated policy, as JSON.")
    ] = Path("specguard.json")
    folder: Annotated[
        Path | None, fit_options.work_folder("calibration", "labelled steps and runs")
    ] = None

    @property
    def place(self) -> Path:
        """The folder of labelled steps and runs."""
        return self.folder or Path("calibration") / self.output.stem


@dataclass(frozen=True, slots=True)
class ReportOptions(fit_options.ReportOptions):
    """How the outcome is shown, or an earlier one again."""

    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Run nothing: show this calibration and write its page again.",
            show_default=False,
        ),
    ] = None
