"""Options of the commands that fit a policy to a pair and a task: questions, folder, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stet.cli.groups import OptionGroup
from stet.cli.options import AsJson
from stet.cli.sampling import TaskLength

BUNDLED = ("stories", "units")
"""The bundled tasks, which have splits to fit on; of other tasks the user names the splits."""


@dataclass(frozen=True, slots=True)
class TaskOptions(OptionGroup):
    """The task on whose questions a policy is fitted."""

    task: Annotated[str, typer.Option("--task", help="A task, or a JSONL file.")] = "stories"
    split: Annotated[str | None, typer.Option(help="Split to fit on.")] = None
    task_file: Annotated[
        Path | None, typer.Option(help="Local file of a named task.", show_default=False)
    ] = None
    grader: Annotated[
        str | None, typer.Option(help="Reads and compares answers.", show_default="the task's")
    ] = None
    problems: Annotated[int, typer.Option("--problems", "-n", min=20, help="How many.")] = 400
    max_new_tokens: TaskLength = None

    def choose_split(self, given: str | None, bundled: str) -> str | None:
        """The split that the user named, or the one that a bundled task has for this."""
        return given or (bundled if self.task in BUNDLED else None)


def work_folder(run: str, holds: str) -> Any:
    """The option `--folder`: where a run keeps what it has done.

    Args:
        run: what may be interrupted; by default its folder is in one of this name.
        holds: what is kept there.
    """
    return typer.Option(
        help=f"Folder of {holds}; an interrupted {run} goes on there.",
        show_default=f"{run}/OUTPUT",
    )


@dataclass(frozen=True, slots=True)
class ReportOptions(OptionGroup):
    """How the outcome is shown: as a page, and on the terminal or as JSON."""

    report: Annotated[
        Path | None, typer.Option(help="The report page.", show_default="OUTPUT with .html")
    ] = None
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no page.")] = False
    as_json: AsJson = False

    def choose_page(self, output: Path) -> Path | None:
        """The page of what is written to `output`; None: no page."""
        return None if self.no_report else self.report or output.with_suffix(".html")
