"""The report on a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stet.evaluation.report.table import INCOMPLETE, INTERVALS, Column, columns, heading
from stet.evaluation.summary import PolicySummary, Summary

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table


def terminal(summary: Summary) -> RenderableType:
    """The report for a terminal: table, notes, recommendation.

    Columns are dropped, the least important first, until the table fits the width.
    """
    return _Report(summary)


@dataclass(frozen=True, slots=True)
class _Report:
    summary: Summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.padding import Padding
        from rich.text import Text

        summary = self.summary
        yield Text.assemble((f"Comparison on {summary.task}", "bold"))
        yield Text(heading(summary))
        if not summary.complete:
            yield Text(INCOMPLETE, style="bold")
        table, left_out = self._table(console, options)
        yield table
        yield Text(_key(summary, left_out), style="dim")
        if summary.notes:
            yield Text("\nNotes", style="bold")
            for note in summary.notes:
                yield _item(note)
        if summary.recommendation:
            yield Text("\nRecommendation", style="bold")
            yield Padding(Text(summary.recommendation), (0, 0, 0, 2))

    def _table(self, console: Console, options: ConsoleOptions) -> tuple[Table, list[Column]]:
        from rich.measure import Measurement

        shown = columns(self.summary)
        left_out: list[Column] = []
        while True:
            table = _table_of(shown, self.summary.policies)
            wide = options.update(max_width=10_000)
            width = Measurement.get(console, wide, table).maximum
            if width <= options.max_width or len(shown) <= 3:
                return table, left_out
            column = max(shown, key=lambda column: column.rank)
            shown.remove(column)
            left_out.append(column)


def _table_of(shown: list[Column], policies: list[PolicySummary]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in shown:
        first = column is shown[0]
        table.add_column(
            Text(column.short, justify="left" if first else "right"),
            justify="left" if first else "right",
            style="bold" if first else "",
            overflow="fold" if first else "ellipsis",
            no_wrap=not first,
            max_width=24 if first else None,
            vertical="top",
        )
    for policy in policies:
        cells = [column.cell(policy) for column in shown]
        second = any(cell.interval for cell in cells)
        row = []
        for cell in cells:
            text = Text(cell.text)
            if second:
                text.append("\n" + cell.interval, style="dim not bold")
            row.append(text)
        table.add_row(*row)
    return table


def _key(summary: Summary, left_out: list[Column]) -> str:
    words = [INTERVALS, f"Difference and speed-up are against {summary.reference}."]
    if left_out:
        names = ", ".join(column.heading.split(",")[0] for column in left_out)
        words.append(f"Not shown because of the width: {names}.")
    return " ".join(words)


def _item(note: str) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    item = Table.grid(padding=(0, 1, 0, 0))
    item.add_column(width=3, justify="right")
    item.add_column(ratio=1)
    item.add_row("-", Text(note))
    return item
