"""The application to which every command is added, and its exit codes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stet.cli.cluster import with_address
from stet.cli.output import StdoutClosed, check_stdout, show_error
from stet.core.errors import StetError

EXAMPLES = """
[bold]Examples[/bold]

  What speculation does, on bundled problems, measured:
    [cyan]stet demo[/cyan]

  Who wrote which word, the target or the draft:
    [cyan]stet generate "Ann has 3 boxes of 12 pens. How many pens?" --show-origin[/cyan]

  Many prompts, models of your own, sampled; one JSON object per answer:
    [cyan]stet generate -f prompts.jsonl -t BIG -d SMALL --temperature 0.7 --json[/cyan]

  Is this pair worth using here, and with how many drafted tokens?
    [cyan]stet doctor -t BIG -d SMALL --prompts prompts.jsonl[/cyan]

Models are folders, GGUF files or Hugging Face hub names; without --target,
the small bundled pair is used, and nothing is downloaded.

Exit codes: 0 fine, 1 `stet doctor` advises against the pair or a request
failed, 2 a mistake in what was asked for, or something could not be read or
written, 130 interrupted, 141 whoever read stdout has gone.
"""


class Application(TyperGroup):
    """A group of commands in which a user's mistake is one sentence, never a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of the group; those of its command follow, with what they imply."""
        return super().parse_args(ctx, with_address(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command and turn errors into an exit code."""
        try:
            check_stdout()
            return super().invoke(ctx)
        except StetError as error:
            show_error(str(error))
            raise typer.Exit(2) from error
        except StdoutClosed as closed:
            raise typer.Exit(141) from closed  # as the shell tells of a broken pipe
        except KeyboardInterrupt as interrupt:
            show_error("Interrupted; what was written so far is whole.")
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    name="stet",
    cls=Application,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXAMPLES,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stet {version('stet-decoding')}")
        raise typer.Exit


@app.callback()
def stet(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Speculative decoding with a verification policy of your choice.

    A small draft model drafts a block of tokens, the large target model scores
    the whole block in one pass, and a verification policy decides which of the
    drafted tokens are accepted. Lossless policies give the target's own text (up
    to rounding), only faster.
    """
