"""Options of `stet generate`, by theme; those about sampling are in `sampling`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stet.cli.groups import After, OptionGroup
from stet.cli.options import OUTPUT, AsJson, RemoteModelOptions
from stet.cli.parsing import parse_draft_length, parse_policy
from stet.cli.prompts import read_prompts, read_stdin
from stet.core.errors import OptionError
from stet.core.reading import decode, has_halves


@dataclass(frozen=True, slots=True)
class PromptOptions(OptionGroup):
    """Where the prompts come from."""

    prompt: Annotated[
        str | None,
        typer.Argument(help='The prompt. "-", or nothing in a pipe: read it from stdin.'),
    ] = None
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help='One prompt per line; in a .jsonl file one {"prompt": ...} per line.',
            show_default=False,
        ),
    ] = None

    def read(self) -> list[str]:
        """Read the prompts.

        Raises:
            OptionError: there is none, there are two sources, or one cannot be read.
        """
        prompt = self.prompt
        if prompt is not None and self.file is not None:
            raise OptionError("Give a prompt or --file, not both.")
        if self.file is not None:
            return read_prompts(self.file)
        if prompt is None or prompt == "-":
            if prompt is None and sys.stdin is not None and sys.stdin.isatty():
                raise OptionError('Give a prompt: stet generate "..." (or --file, or a pipe).')
            prompt = read_stdin()
        if not prompt:
            raise OptionError("The prompt is empty.")
        if has_halves(prompt):  # the bytes that were typed, where the locale does not know UTF-8
            prompt = decode(os.fsencode(prompt), "The prompt")
        return [prompt]


@dataclass(frozen=True, slots=True)
class PolicyOptions(OptionGroup):
    """What decides which drafted tokens are accepted."""

    panel = "Policy"

    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            "-p",
            help="Decides which drafted tokens are accepted; see `stet policies`.",
        ),
    ] = "exact"
    param: Annotated[
        list[str] | None,
        typer.Option(help="A parameter of the policy, name=value. May be repeated."),
    ] = None
    draft_length: Annotated[
        str,
        typer.Option(
            "--draft-length",
            "-k",
            help="Tokens drafted per block, or auto: chosen by what was accepted so far.",
        ),
    ] = "auto"

    def settings(self) -> dict[str, Any]:
        """These options as `Pair.generate` takes them.

        Raises:
            OptionError: for a policy or parameter that does not exist, or no block length.
        """
        return {
            "policy": parse_policy(self.policy, self.param or []),
            "draft_length": parse_draft_length(self.draft_length),
        }


@dataclass(frozen=True, slots=True)
class ServingOptions(RemoteModelOptions):
    """The pair, and how many prompts it decodes together."""

    batch: Annotated[
        int, typer.Option(min=1, help="Most prompts decoded together."), After("max_length")
    ] = 16


@dataclass(frozen=True, slots=True)
class OutputOptions(OptionGroup):
    """What is shown of the answers, and recorded."""

    panel = OUTPUT

    show_origin: Annotated[
        bool,
        typer.Option(
            "--show-origin",
            help="Mark who wrote what: draft or target. With --json: a record per token.",
        ),
    ] = False
    logprobs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Record the n likeliest tokens at each position (with --json or --trace).",
        ),
    ] = 0
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Append the trace, token by token, to this JSON-lines file.", show_default=False
        ),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No summary and no progress bar.")
    ] = False
    as_json: AsJson = False
