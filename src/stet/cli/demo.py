"""`stet demo`: what speculation does, on generated problems, in a minute or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.panel import Panel
from rich.table import Table

from stet.cli import options as o
from stet.cli.chat import put_into_chat
from stet.cli.demo_mismatch import accepted_mismatch_answer, find_accepted_mismatch
from stet.cli.demo_step import caught_step
from stet.cli.groups import with_groups
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
    from stet.requests.inputs import Prompt

POLICIES = ("target", "draft", "exact", "confident", "specguard.bundled", "cospec")
"""What the bundled pair shows."""

UNTRAINED = ("target", "draft", "exact", "confident", "specguard")
"""What a pair shows for which nothing was trained or calibrated."""

STEPS = ("target", "draft", "specguard")
"""What models with two tokenizers show, which have no tokens in common."""

BRIEFLY = (
    'Reason briefly, step by step. End with a line of the form "Answer: N", where N is a number.'
)

LONGEST = 200
"""Tokens of an answer of a pair that was not trained on these problems, at most."""


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


@dataclass(frozen=True, slots=True)
class Show:
    """What is shown of a pair.

    Attributes:
        policies: each answers every problem.
        prompts: the problems as the models read them.
        is_right: whether a text answers a problem.
        options: of every request.
    """

    policies: tuple[str, ...]
    prompts: list[Prompt]
    is_right: Callable[[str, Problem], bool]
    options: dict[str, Any]


@with_groups
def command(
    models: o.ModelOptions,
    problems: Annotated[
        int | None,
        typer.Option(min=1, help="How many problems to solve.", show_default="36, or what fits"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Begin no further problem after so long.")
    ] = 120.0,
    as_json: o.AsJson = False,
) -> None:
    """Solve word problems with the target, the draft, and both together.

    Prints accuracy and speed side by side, then one answer in which every word
    shows who wrote it. With the bundled pair also one step that was rejected and
    rewritten, and one answer that is right because of an accepted mismatch. The
    bundled models are small and were trained on one synthetic distribution: they
    show that the software works, not that a method helps your models. Name yours
    with -t and -d for the same table; for other prompts there is `stet doctor`.
    """
    from stet.bundled import generate

    models = models.resolve()
    tasks = generate("stories", "test", problems or PROBLEMS)
    pair = o.load(models, max_batch=1)
    show = _show_of(pair, tasks, bundled=models.target is None)
    rows = solve(pair, tasks, show, seconds)
    tasks = tasks[: len(rows[0].results)]
    if as_json:
        print_json([_record(row, rows[0], len(tasks)) for row in rows])
        return
    _print(pair, tasks, rows)


PROBLEMS = 36


def _show_of(pair: Pair, tasks: Sequence[Problem], *, bundled: bool) -> Show:
    """What to show of a pair: the bundled one knows the problems, others are told what is asked."""
    if bundled:
        from stet.bundled import parse_answer

        prompts: list[Prompt] = [task.prompt for task in tasks]
        return Show(POLICIES, prompts, lambda text, task: parse_answer(text) == task.answer, {})
    from stet.evaluation.graders import Number
    from stet.requests.chat import Chat

    grader = Number()
    names: tuple[str, ...] = UNTRAINED if pair.difference is None else STEPS
    if pair.draft is None:
        names = ("target", "exact")
    return Show(
        names,
        put_into_chat(
            pair, [f"{task.text}\n\n{BRIEFLY}" for task in tasks], None, Chat(), quiet=True
        ),
        lambda text, task: grader.right(grader.extract(text), str(task.answer)),
        {"max_new_tokens": LONGEST, "fit": True},
    )


def _print(pair: Pair, tasks: Sequence[Problem], rows: Sequence[DemoRow]) -> None:
    out.print(_table(rows, len(tasks)))
    out.print()
    by_name = {row.policy: row.results for row in rows}
    shown = "exact" if "exact" in by_name else rows[-1].policy
    out.print(_worked_example(tasks, next(row for row in rows if row.policy == shown)))
    if "specguard.bundled" in by_name:
        example = caught_step(tasks, by_name["specguard.bundled"], by_name["draft"])
        if example is not None:
            out.print()
            out.print(example)
    if "cospec" in by_name:
        found = find_accepted_mismatch(pair, tasks, by_name["cospec"], by_name["target"])
        if found is not None:
            out.print()
            out.print(accepted_mismatch_answer(found))


def solve(pair: Pair, tasks: Sequence[Problem], show: Show, seconds: float) -> list[DemoRow]:
    """Solve problems with every policy, one at a time, until all are done or the time is up.

    The policies take turns on each problem, so that a machine's drift affects all alike; one
    problem is begun beforehand, uncounted, to warm up.
    """
    rows = [DemoRow(policy) for policy in show.policies]
    for row in rows:
        pair.generate([show.prompts[0]], row.policy, **{**show.options, "max_new_tokens": WARM_UP})
    began = perf_counter()
    with progress("Solving") as tell:
        for done, (task, prompt) in enumerate(zip(tasks, show.prompts, strict=True), 1):
            # The first policy finds cold caches, so the order rotates too.
            turn = done % len(rows)
            for row in (*rows[turn:], *rows[:turn]):
                (result,) = pair.generate([prompt], row.policy, **show.options)
                row.results.append(result)
                row.right += show.is_right(result.text, task)
            for row in rows:
                row.same_text += row.results[-1].text == rows[0].results[-1].text
            tell(done, len(tasks))
            if perf_counter() - began > seconds:
                break
    return rows


WARM_UP = 32


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
