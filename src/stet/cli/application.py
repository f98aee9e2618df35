"""The application that every command adds itself to, and how it fails."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stet.cli.output import show_error
from stet.errors import StetError

if TYPE_CHECKING:
    from typer import Context

EXAMPLES = """
[bold]Examples[/bold]

  [cyan]stet demo[/cyan]                                        speculation on bundled problems, measured
  [cyan]stet generate "Ann has 3 boxes ..." --show-origin[/cyan]  who wrote which word, target or draft
  [cyan]stet generate --file prompts.jsonl --json > out.jsonl[/cyan]
  [cyan]stet generate --target BIG --draft SMALL --policy block --temperature 0.7 "Why?"[/cyan]
  [cyan]stet doctor --target BIG --draft SMALL[/cyan]           is this pair worth using, and with which K?
  [cyan]stet policies[/cyan]                                    the rules that decide which drafts stand

Models are folders or Hugging Face hub names; without --target the small bundled pair is used.
Exit codes: 0 fine, 1 negative verdict or failed request, 2 a mistake in what was asked, 130 Ctrl-C.
"""


class Application(TyperGroup):
    """A group of commands in which a user's mistake is one sentence, never a traceback."""

    def invoke(self, ctx: Context) -> Any:
        """Run the command and turn what may go wrong into an exit code."""
        try:
            return super().invoke(ctx)
        except StetError as error:
            show_error(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interrupt:
            show_error("Interrupted; what was written so far is whole.")
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    name="stet",
    cls=Application,
    no_args_is_help=True,
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
    """Speculative decoding in which the rule that decides what stands is yours to choose.

    A small draft model writes ahead, the large target model checks a whole block in one pass, and a
    verification policy decides which of the draft's tokens stand. Lossless policies give the
    target's own text, faster.
    """
