"""Printing of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stet.core.errors import StetError
from stet.core.reading import has_halves

if TYPE_CHECKING:
    from collections.abc import Callable

    from stet.core.result import Result
    from stet.core.trace import Counters, FinishReason, TokenRecord
    from stet.executors.prompting import Answered


class StdoutError(StetError):
    """Results could not be written to stdout."""


class StdoutClosed(Exception):
    """The reader of stdout has closed it, as `head` does: no error, but nothing left to do."""


class _Stream(io.TextIOBase):
    """stdout or stderr, whatever object it is at the time.

    Nothing written to stdout is lost silently: characters that its encoding lacks are escaped, and
    a failure is an error of the command. stderr is best effort; a failure there must not cost the
    results.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def _stream(self) -> Any:
        # A progress bar puts itself in front of both, and sends what is printed to stderr.
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def write(self, text: str) -> int:
        stream = self._stream
        with self._failures(stream):
            try:
                stream.write(text)
            except UnicodeEncodeError:
                known = text.encode(self.encoding, "backslashreplace")
                stream.write(known.decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        stream = self._stream
        with self._failures(stream):
            stream.flush()

    @contextmanager
    def _failures(self, stream: Any) -> Iterator[None]:
        if stream is None:
            if self._name == "stdout":
                raise StdoutError("stdout is closed; there is nowhere to write results to.")
            return
        try:
            yield
        except OSError as error:
            _silence(stream)
            if self._name == "stderr":
                return
            if isinstance(error, BrokenPipeError):
                raise StdoutClosed from error
            raise StdoutError(
                f"Results cannot be written to stdout ({error.strerror or error})."
            ) from error


def _silence(stream: Any) -> None:
    """Send the rest of a stream's buffer to the null device; Python would fail on it at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


_stdout = _Stream("stdout")
out = Console(file=cast("IO[str]", _stdout), highlight=False)
err = Console(file=cast("IO[str]", _Stream("stderr")), stderr=True, highlight=False)

# Blue and orange differ for every kind of colour vision; underline and weight without colour.
STYLES = {"draft": "#56b4e9", "target": "bold underline #e69f00"}


def show_error(message: str) -> None:
    """Print one sentence on stderr."""
    err.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout."""
    value = plain(value)
    line = json.dumps(value, ensure_ascii=False)
    if has_halves(line) or not _fits(line, _stdout.encoding):
        line = json.dumps(value)  # escaped, which reads back as the same
    # Not through rich: it would wrap and colour what a program is to read.
    _stdout.write(line + "\n")
    _stdout.flush()


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def check_stdout() -> None:
    """Refuse, before long work, a stdout that is closed.

    Raises:
        StdoutError: stdout is closed.
    """
    _stdout.flush()


def plain(value: Any) -> Any:
    """Convert records, paths and tuples to types that JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def counters_json(counters: Counters) -> dict[str, Any]:
    """The counters with the rates that follow from them."""
    return {
        **asdict(counters),
        "acceptance_rate": counters.acceptance_rate,
        "tokens_per_pass": counters.tokens_per_pass,
        "mean_acceptance_length": counters.mean_acceptance_length,
    }


def a_table(title: str, label: str, *headings: str) -> Table:
    """An empty table: a column of labels, then columns of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column(label, style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def number(value: float | None, form: str = ".2f") -> str:
    """A number for a table, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def summary(counters: Counters, seconds: float) -> str:
    """One line with the cost of an answer: tokens, seconds, passes, accepted tokens."""
    rate = counters.emitted_tokens / seconds if seconds else 0.0
    parts = [f"{counters.emitted_tokens} tokens in {seconds:.2f} s ({rate:.0f} tokens/s)"]
    if counters.target_passes:
        each = number(counters.tokens_per_pass)
        parts.append(f"{counters.target_passes} target passes, {each} tokens each")
    if counters.drafted_tokens:
        parts.append(
            f"{counters.accepted_tokens} of {counters.drafted_tokens} drafted tokens accepted "
            f"({number(counters.acceptance_rate, '.0%')})"
        )
    return ", ".join(parts)


_ENDINGS: dict[FinishReason, str] = {
    "length": "reached the limit of tokens",
    "loop": "went in a loop",
    "timeout": "ran out of time",
}


def cut_short(results: Sequence[Result | Answered]) -> str | None:
    """A sentence on how many answers were cut short, and why; None where none was."""
    reasons = Counter(result.finish_reason for result in results)
    found = [f"{reasons[reason]} {words}" for reason, words in _ENDINGS.items() if reasons[reason]]
    return f"Of {len(results)} answers {', '.join(found)}." if found else None


def legend(console: Console = out) -> Text:
    """An explanation of the styles of `coloured`."""
    text = Text()
    text.append_text(_mark("written by the draft and accepted", "draft", console))
    text.append("   ")
    text.append_text(_mark("written by the target", "target", console))
    return text


def coloured(tokens: Sequence[TokenRecord], text: str, console: Console = out) -> Text:
    """A text in which each part has the style of the model that wrote it.

    Args:
        tokens: the tokens of the text, perhaps followed by ones that are not shown (a stop token).
        text: the text that is shown.
        console: the console that will print it; one without styles gets brackets instead.
    """
    styled = Text()
    for origin, piece in _spans(tokens, text):
        styled.append_text(_mark(piece, origin, console))
    return styled


def _mark(piece: str, origin: str, console: Console) -> Text:
    if console.color_system is None and origin == "target":
        return Text(f"[[{piece}]]")
    return Text(piece, style=STYLES[origin])


def _spans(tokens: Sequence[TokenRecord], text: str) -> Iterator[tuple[str, str]]:
    """Pieces of `text` with one origin each."""
    # Tokens that end inside a character, or begin a text, decode differently alone than together.
    # A piece is searched for near its expected place; one that cannot be placed is joined to the
    # next that can.
    start, end, origin = 0, 0, tokens[0].origin if tokens else "target"
    for token in tokens:
        piece = token.text if text.startswith(token.text, end) else token.text.strip()
        found = text.find(piece, end, end + len(piece) + 8) if piece else -1
        if token.origin != origin:
            if end > start:
                yield origin, text[start:end]
            start, origin = end, token.origin
        if found >= 0:
            end = found + len(piece)
    if len(text) > start:
        yield origin, text[start:]


@contextmanager
def progress(label: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr; call the result with how much is done, of how much."""
    with stages(hidden=hidden) as report:
        yield lambda done, total: report(label, done, total)


@contextmanager
def stages(*, hidden: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show progress bars on stderr, one per stage; call the result with stage, done and total."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = hidden or not err.is_terminal
    known: dict[str, TaskID] = {}
    with Progress(*columns, console=err, transient=True, disable=hidden) as bar:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in known:
                known[stage] = bar.add_task(stage, total=None)
            bar.update(known[stage], completed=done, total=total)

        yield report
