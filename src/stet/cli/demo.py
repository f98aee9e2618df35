"""`stet demo`: what speculation does, on the bundled problems, in a minute or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel
from rich.table import Table

from stet.cli import options as o
from stet.cli.demo_mismatch import accepted_mismatch_answer, find_accepted_mismatch
from stet.cli.demo_step import caught_step
from stet.cli.output import (
    a_table,
    coloured,
    counters_json,
    legend,
    number,
    out,
    print_json,
    progress,
)
from stet.core.trace import Counters

if TYPE_CHECKING:
    from stet.bundled import Problem
    from stet.core.result import Result
    from stet.pair import Pair

POLICIES = ("target", "draft", "exact", "confident", "specguard.bundled", "cospec")


@dataclass(slots=True)
class DemoRow:
    """One policy's results on all problems."""

    policy: str
    results: list[Result] = field(default_factory=list)
    right: int = 0
    same_text: int = 0

    @property
    def counters(self) -> Counters:
        """Counters of all its answers together."""
        total = Counters()
        for result in self.results:
            total.add(result.counters)
        return total

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens per second of wall clock, one problem at a time."""
        seconds = sum(result.seconds for result in self.results)
        return self.counters.emitted_tokens / seconds if seconds else 0.0


def command(
    problems: Annotated[int, typer.Option(min=1, help="How many test problems to solve.")] = 36,
    as_json: o.AsJson = False,
) -> None:
    """Solve bundled word problems with the target, the draft, and both together.

    Prints accuracy and speed side by side, then one answer in which every word
    shows who wrote it, one step that was rejected and rewritten, and one answer
    that is right because of an accepted mismatch. The bundled models are small
    and were trained on one synthetic distribution: the demo shows that the
    software works, not that a method helps your models. For that there is
    `stet doctor`.
    """
    from stet.bundled import generate

    tasks = generate("stories", "test", problems)
    pair = o.load(o.ModelOptions(), max_batch=1)
    rows = solve(pair, tasks)
    if as_json:
        print_json([_record(row, rows[0], len(tasks)) for row in rows])
        return
    _show(pair, tasks, rows)


def _show(pair: Pair, tasks: Sequence[Problem], rows: Sequence[DemoRow]) -> None:
    out.print(_table(rows, len(tasks)))
    out.print()
    by_name = {row.policy: row.results for row in rows}
    out.print(_worked_example(tasks, next(row for row in rows if row.policy == "exact")))
    example = caught_step(tasks, by_name["specguard.bundled"], by_name["draft"])
    if example is not None:
        out.print()
        out.print(example)
    accepted_mismatches = find_accepted_mismatch(pair, tasks, by_name["cospec"], by_name["target"])
    if accepted_mismatches is not None:
        out.print()
        out.print(accepted_mismatch_answer(accepted_mismatches))


def solve(pair: Pair, tasks: Sequence[Problem]) -> list[DemoRow]:
    """Solve every problem with every policy, one at a time.

    The policies take turns on each problem, so that a machine's drift affects all alike; one
    problem is solved beforehand, uncounted, to warm up.
    """
    from stet.bundled import parse_answer

    rows = [DemoRow(policy) for policy in POLICIES]
    for row in rows:
        pair.generate([tasks[0].prompt], row.policy, max_new_tokens=32)
    with progress("Solving") as show:
        for done, task in enumerate(tasks, 1):
            # The first policy finds cold caches, so the order rotates too.
            turn = done % len(rows)
            for row in (*rows[turn:], *rows[:turn]):
                (result,) = pair.generate([task.prompt], row.policy)
                row.results.append(result)
                row.right += parse_answer(result.text) == task.answer
            for row in rows:
                row.same_text += row.results[-1].text == rows[0].results[-1].text
            show(done, len(tasks))
    return rows


def _table(rows: Sequence[DemoRow], count: int) -> Table:
    table = a_table(
        f"{count} word problems, one at a time, greedy",
        "policy",
        "right\nanswers",
        "tokens per\ntarget pass",
        "drafts\naccepted",
        "tokens/s",
        "speed-up",
        "target's\nown text",
    )
    for row in rows:
        counters = row.counters
        table.add_row(
            row.policy,
            f"{row.right} ({row.right / count:.0%})",
            number(counters.tokens_per_pass),
            number(counters.acceptance_rate, ".0%"),
            f"{row.tokens_per_second:.0f}",
            f"{row.tokens_per_second / rows[0].tokens_per_second:.2f}x",
            f"{row.same_text} of {count}",
        )
    return table


def _record(row: DemoRow, target: DemoRow, count: int) -> dict[str, Any]:
    return {
        "policy": row.policy,
        "problems": count,
        "accuracy": row.right / count,
        "tokens_per_second": row.tokens_per_second,
        "speedup": row.tokens_per_second / target.tokens_per_second,
        "same_text_share": row.same_text / count,
        "counters": counters_json(row.counters),
    }


def _worked_example(tasks: Sequence[Problem], row: DemoRow) -> Panel:
    """The answer to which both models contributed most evenly, in the styles of their tokens."""
    written = [
        sum(token.origin == "target" for token in result.tokens) / max(len(result.tokens), 1)
        for result in row.results
    ]
    chosen = max(range(len(written)), key=lambda i: min(written[i], 1 - written[i]))
    result = row.results[chosen]
    body = legend()
    body.append(f"\n\n{tasks[chosen].text}\n\n", style="dim")
    body.append_text(coloured(result.tokens, result.text))
    reasons: dict[str, int] = {}
    for token in result.tokens:
        reasons[token.reason] = reasons.get(token.reason, 0) + 1
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    body.append(f"\n\n{len(result.tokens)} tokens ({told})", style="dim")
    passes = result.counters.target_passes
    body.append(f" in {passes} passes of the target", style="dim")
    return Panel(body, title=f"One answer of `{row.policy}`, word by word", title_align="left")
