"""Options of `stet doctor`, by theme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stet.cli.groups import OptionGroup
from stet.cli.prompts import read_prompts
from stet.cli.sampling import SamplingOptions, longest_answer


@dataclass(frozen=True, slots=True)
class PromptOptions(OptionGroup):
    """The prompts that are measured with, and how many at a time."""

    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="Prompts like those you will serve, one per line (or JSON lines). "
            "Without it: samples that come with Stet.",
            show_default=False,
        ),
    ] = None
    limit: Annotated[int, typer.Option(min=1, help="Use at most so many prompts.")] = 8
    batch: Annotated[
        int, typer.Option(min=1, help="Prompts decoded together: the load you expect.")
    ] = 1

    seconds: Annotated[
        float,
        typer.Option(
            min=1, help="About how long to take, loading included; longer gives narrower intervals."
        ),
    ] = 55.0

    def read(self) -> tuple[list[str], str]:
        """Read the prompts, and describe their source."""
        if self.prompts is not None:
            return read_prompts(self.prompts)[: self.limit], f"prompts of {self.prompts}"
        from stet.bundled import generate

        problems = generate("stories", "calibration", self.limit)
        return [problem.text for problem in problems], "word problems that come with Stet"


@dataclass(frozen=True, slots=True)
class ShortSamplingOptions(SamplingOptions):
    """The length of answers, shorter than where they are wanted, and the temperature."""

    max_new_tokens: Annotated[int | None, longest_answer("-n", show_default="96, or what fits")] = (
        None
    )
