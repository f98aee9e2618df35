"""Options of `stet train`, by theme."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stet.cli import fit_options
from stet.cli.chat import ChatOptions
from stet.cli.groups import After, OptionGroup
from stet.core.errors import OptionError

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask


@dataclass(frozen=True, slots=True)
class TaskOptions(fit_options.TaskOptions):
    """The task with right answers that the arbiter learns from, and is validated on."""

    task: Annotated[
        str, typer.Option("--task", help="A task with right answers, or a JSONL file.")
    ] = "stories"
    split: Annotated[
        str | None, typer.Option(help="Split to learn from.", show_default="policy_train")
    ] = None
    validation_split: Annotated[
        str | None,
        typer.Option(
            help="Split for early stopping and for the threshold.", show_default="validation"
        ),
        After("split"),
    ] = None
    problems: Annotated[
        int, typer.Option("--problems", "-n", min=20, help="Questions to learn from.")
    ] = 1500
    validation: Annotated[
        int,
        typer.Option(min=10, help="Questions for early stopping and for the threshold."),
        After("problems"),
    ] = 400

    def load(self, chat: ChatOptions, seed: int) -> tuple[LoadedTask, LoadedTask]:
        """Load the questions to learn from and those to validate on, which may be of one split.

        Raises:
            StetError: for a task, a file or a setting that does not exist or fit, or one split with
                too few questions for both.
        """
        from stet.evaluation.tasks import load_task

        learnt = self.choose_split(self.split, "policy_train")
        validated = self.choose_split(self.validation_split, "validation")

        def load(split: str | None, count: int) -> LoadedTask:
            loaded = load_task(
                self.task,
                split=split,
                count=count,
                path=self.task_file,
                seed=seed,
                grader=self.grader,
                **chat.task_settings(),
            )
            longest = self.max_new_tokens
            return loaded if longest is None else replace(loaded, max_new_tokens=longest)

        if learnt == validated:
            return self._divide(load(learnt, self.problems + self.validation))
        return load(learnt, self.problems), load(validated, self.validation)

    def _divide(self, whole: LoadedTask) -> tuple[LoadedTask, LoadedTask]:
        """Divide the questions of one split; the last ones are for validation."""
        left = len(whole.questions) - self.validation
        if left <= 0:
            raise OptionError(
                f"Task {whole.name!r} has {len(whole.questions)} questions, and --validation takes "
                f"{self.validation} of them, so that none are left to learn from; take fewer, or "
                "name another --validation-split."
            )
        return (
            replace(whole, questions=whole.questions[:left]),
            replace(whole, questions=whole.questions[left:]),
        )


@dataclass(frozen=True, slots=True)
class LearningOptions(OptionGroup):
    """The arbiter, and how it learns."""

    panel = "Training"

    features: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            help="An input of the arbiter; may be given several times.",
            show_default="all numbers; see docs/cospec.md",
        ),
    ] = None
    hidden: Annotated[
        str,
        typer.Option(
            help="Widths of its hidden layers, such as 32 or 64,32; 0 for a linear arbiter."
        ),
    ] = "32"
    labels: Annotated[
        str,
        typer.Option(
            help="Label source: right 'answers', the 'target' for its own (AutoJudge), or "
            "'shuffled' ones, a control that must win nothing (with --method none)."
        ),
    ] = "answers"
    method: Annotated[
        str,
        typer.Option(
            help="After the fit: policy gradient from 'groups' of answers, from one-flip "
            "counterfactuals ('flips'), or 'none'.",
        ),
    ] = "groups"
    branched: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Mismatches of an answer that are branched, at most, drawn at random; long "
            "answers have many.",
            show_default="all",
        ),
    ] = None
    sweeps: Annotated[
        int,
        typer.Option(
            min=1, help="Times that branches are collected, each time from other questions."
        ),
    ] = 2
    rounds: Annotated[int, typer.Option(min=0, help="The most rounds of policy gradient.")] = 24
    cost: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Cost of a target's token that ends a block, in right answers."
        ),
    ] = 0.01
    within: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Loss of accuracy that must be excluded where a faster threshold is chosen.",
        ),
    ] = 0.01
    error: Annotated[
        float,
        typer.Option(min=0, max=0.5, help="Probability of excluding it where it is there."),
    ] = 0.05


@dataclass(frozen=True, slots=True)
class RunOptions(OptionGroup):
    """How questions are answered."""

    batch: Annotated[int, typer.Option(min=1, help="Answers at a time.")] = 32
    seed: Annotated[int, typer.Option(help="Seed of questions, weights and decisions.")] = 0


@dataclass(frozen=True, slots=True)
class OutputOptions(OptionGroup):
    """Where the policy is written, and what it is made from."""

    output: Annotated[
        Path, typer.Option("--output", "--out", "-o", help="Folder of the trained policy.")
    ] = Path("policy")
    folder: Annotated[Path | None, fit_options.work_folder("training", "branches and rounds")] = (
        None
    )

    @property
    def place(self) -> Path:
        """The folder of branches and rounds."""
        return self.folder or Path("training") / self.output.name


@dataclass(frozen=True, slots=True)
class ReportOptions(fit_options.ReportOptions):
    """How the outcome is shown; the page is beside the folder of the policy."""

    report: Annotated[
        Path | None, typer.Option(help="The report page.", show_default="OUTPUT.html")
    ] = None
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Train nothing: show the branches of the folder.")
    ] = False
