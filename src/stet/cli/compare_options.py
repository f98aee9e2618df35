"""Options of `stet compare`, by theme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli.chat import ChatOptions
from stet.cli.groups import OptionGroup
from stet.cli.options import OUTPUT, AsJson
from stet.cli.parsing import parse_draft_length, parse_setting
from stet.cli.sampling import TaskLength, Temperature

if TYPE_CHECKING:
    from stet.evaluation.contenders import Contender
    from stet.evaluation.tasks.base import LoadedTask


@dataclass(frozen=True, slots=True)
class TaskOptions(OptionGroup):
    """The task, and which of its questions are asked how."""

    panel = "Task"

    task: Annotated[
        str,
        typer.Option(
            "--task", help="A task by name (`stet compare --list-tasks`), or a JSONL file."
        ),
    ] = "stories"
    task_file: Annotated[
        Path | None,
        typer.Option(help="Local file of a named task, instead of the hub.", show_default=False),
    ] = None
    split: Annotated[
        str | None, typer.Option(help="Split of the task.", show_default="the task's own")
    ] = None
    problems: Annotated[
        int | None, typer.Option("--problems", "-n", min=1, help="How many, chosen at random.")
    ] = 300
    shots: Annotated[
        int | None,
        typer.Option(
            min=0, help="Worked examples before each question.", show_default="the task's own"
        ),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt template; fields of the record in {{ braces }}.",
            show_default="the task's own",
        ),
    ] = None
    field: Annotated[
        list[str] | None,
        typer.Option(
            help="Field of a JSONL file: question=NAME or answer=NAME. May be repeated.",
            show_default=False,
        ),
    ] = None
    grader: Annotated[
        str | None, typer.Option(help="How answers are graded.", show_default="the task's own")
    ] = None
    list_tasks: Annotated[bool, typer.Option("--list-tasks", help="List tasks and graders.")] = (
        False
    )

    def load(self, chat: ChatOptions) -> LoadedTask:
        """Load the questions.

        Raises:
            StetError: for a task, a file or a setting that does not exist or fit.
        """
        from stet.evaluation.tasks import load_task

        return load_task(
            self.task,
            split=self.split,
            count=self.problems,
            shots=self.shots,
            template=self.template,
            grader=self.grader,
            **chat.task_settings(),
            path=self.task_file,
            fields=dict(parse_setting(text, "--field") for text in self.field or []) or None,
        )


@dataclass(frozen=True, slots=True)
class PolicyOptions(OptionGroup):
    """What is compared, and with what."""

    panel = "Policies"

    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help="NAME or NAME:parameter=value,...; value|value tries each. May be repeated.",
            show_default="all that need no settings",
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(help="TOML or YAML file with a list of policies.", show_default=False),
    ] = None
    baselines: Annotated[bool, typer.Option(help="Add the baselines beside any lossy policy.")] = (
        True
    )
    reference: Annotated[str, typer.Option(help="What the others are compared to.")] = "target"
    primary: Annotated[
        list[str] | None,
        typer.Option(
            help="Label of a comparison to test; the others are exploratory. May be repeated.",
            show_default="the lossy policies that were named",
        ),
    ] = None

    def read_named(self) -> list[Contender]:
        """The policies that the command line and the file name.

        Raises:
            StetError: for a policy or a parameter that does not exist, or an unreadable file.
        """
        from stet.evaluation.contenders import parse, read_file

        named = [made for text in self.policy or [] for made in parse(text)]
        return [*named, *(read_file(self.config) if self.config is not None else [])]


@dataclass(frozen=True, slots=True)
class RunOptions(OptionGroup):
    """How the questions are answered."""

    panel = "Run"

    seed: Annotated[
        list[int] | None,
        typer.Option(
            help="Each seed is a full run over all questions. May be repeated.", show_default="0"
        ),
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 1
    max_new_tokens: TaskLength = None
    temperature: Temperature = 0.0
    draft_length: Annotated[
        str, typer.Option("--draft-length", "-k", help="Tokens per block, or auto.")
    ] = "auto"
    probabilities: Annotated[
        bool,
        typer.Option(
            help="Record both models' probabilities: signals in the report, a little slower."
        ),
    ] = True

    def settings(self, task: LoadedTask) -> dict[str, Any]:
        """The options of every answer.

        Raises:
            OptionError: for a block length that is neither a number nor "auto".
        """
        return {
            "max_new_tokens": self.max_new_tokens or task.max_new_tokens,
            "fit": self.max_new_tokens is None,
            "temperature": self.temperature,
            "draft_length": parse_draft_length(self.draft_length),
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True, slots=True)
class OutputOptions(OptionGroup):
    """Where results are written or read, and what is shown of them."""

    panel = OUTPUT

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Results folder; an interrupted run there goes on.",
            show_default="results/TASK-DATE-TIME",
        ),
    ] = None
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Report on the results in this folder, without running anything.",
            show_default=False,
        ),
    ] = None
    cost_ratio: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Cost of a target pass in draft passes, elsewhere: adds a modelled speed-up.",
            show_default=False,
        ),
    ] = None
    as_json: AsJson = False
