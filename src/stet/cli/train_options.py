"""Options of `stet train`, by theme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stet.cli import fit_options
from stet.cli.groups import After, OptionGroup


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
            help="Label source: right 'answers', or the 'target' for its own (AutoJudge)."
        ),
    ] = "answers"
    method: Annotated[
        str,
        typer.Option(
            help="After the fit: policy gradient from 'groups' of answers, from one-flip "
            "counterfactuals ('flips'), or 'none'.",
        ),
    ] = "groups"
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
            help="Accuracy that may be given up for speed where the threshold is chosen.",
        ),
    ] = 0.005


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
