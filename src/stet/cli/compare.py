"""`stet compare`: accuracy and speed of any policies, on one task, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live

from stet.cli import options as o
from stet.cli.chat import ChatOptions, announce, template_of
from stet.cli.cluster import ClusterOptions
from stet.cli.compare_options import OutputOptions, PolicyOptions, RunOptions, TaskOptions
from stet.cli.groups import with_groups
from stet.cli.output import a_table, err, number, out, plain, print_json
from stet.cli.parsing import command_line
from stet.core.errors import OptionError
from stet.core.writing import check_writable

if TYPE_CHECKING:
    from rich.table import Table

    from stet.evaluation.contenders import Contender
    from stet.evaluation.records import Answer, Results
    from stet.evaluation.run import Comparison, Plan
    from stet.evaluation.tasks.base import LoadedTask
    from stet.executors.base import Executor


@with_groups
def command(
    task: TaskOptions,
    chat: ChatOptions,
    policies: PolicyOptions,
    run: RunOptions,
    output: OutputOptions,
    models: o.ModelOptions,
    cluster: ClusterOptions,
) -> None:
    """Compare policies on a task: accuracy and speed, with paired statistics.

    Every policy answers the same questions, in turns. The results folder gets
    one record per answer, and a report: table, plots, and the questions where an
    answer changed, with their traces. Run the same command again to go on after
    an interruption; `--from FOLDER` reports again without running.
    """
    models = models.resolve()
    if task.list_tasks:
        _list_tasks()
        return
    if output.source is not None:
        from stet.evaluation.records import read

        _report(read(output.source), output.source, output)
        return
    plan = _make_plan(task.load(chat), policies, run, models)
    folder = output.output or _name_folder(plan.task)
    check_writable(folder / "report.html", parents=True)
    with _open(models, cluster, plan) as executor:
        results = _answer(executor, plan, folder)
    _report(results, folder, output)


def _make_plan(
    task: LoadedTask, policies: PolicyOptions, run: RunOptions, models: o.ModelOptions
) -> Plan:
    from stet.evaluation.run import Plan

    named = policies.read_named()
    contenders = _list_contenders(named, policies, models, graded=task.grader is not None)
    primary = policies.primary
    if primary is None:
        primary = _list_primary(named or contenders, policies.reference)
    return Plan(
        task=task,
        contenders=contenders,
        reference=policies.reference,
        primary=primary,
        seeds=run.seed or [0],
        batch=run.batch,
        options=run.settings(task),
        command=command_line(),
    )


def _list_contenders(
    named: list[Contender], policies: PolicyOptions, models: o.ModelOptions, *, graded: bool
) -> list[Contender]:
    """The named policies, or all that need no settings, with the baselines and the reference."""
    from stet.evaluation.contenders import baselines, defaults, distinct, parse

    has_draft = models.draft != "lookup"
    contenders = named or defaults(
        graded=graded,
        has_draft=has_draft,
        bundled=models.target is None,
        fitted=models.target is None and models.dtype in {"auto", "float32"},
    )
    if policies.baselines and any(not c.entry.lossless for c in named):
        contenders = [*baselines(has_draft=has_draft), *named]
    contenders = distinct(contenders)
    if policies.reference not in [c.label for c in contenders]:
        contenders = [*parse(policies.reference), *contenders]
    return contenders


def _list_primary(contenders: Sequence[Contender], reference: str) -> list[str]:
    """Labels of the comparisons to test: policies that may change answers, except the draft."""
    return [
        c.label
        for c in contenders
        if not c.entry.lossless and c.entry.name != "draft" and c.label != reference
    ]


def _name_folder(task: LoadedTask) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in task.name).strip("-")
    return Path("results") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def _open(models: o.ModelOptions, cluster: ClusterOptions, plan: Plan) -> Iterator[Executor]:
    with cluster.open(
        models,
        max_batch=plan.batch * max(c.samples for c in plan.contenders),
        policies=[c.policy for c in plan.contenders],
        # Policies must not run at different speeds only because one came first: compiled before the
        # run, or never.
        compile_default=False,
    ) as executor:
        if models.compile:
            with err.status("Compiling ..."):
                executor.call(methodcaller("warm_up"))
        yield executor


def _answer(executor: Executor, plan: Plan, folder: Path) -> Results:
    """Answer what is not answered in the folder yet."""
    from stet.evaluation.run import Comparison

    comparison = Comparison(executor, plan, folder)
    if comparison.plan.task.chat is not None:
        announce(executor.call(template_of))
    if comparison.answers:
        err.print(f"{len(comparison.answers)} of {comparison.total} answers are there already.")
    with _progress(comparison) as show:
        return comparison.go(show)


def _report(results: Results, folder: Path, output: OutputOptions) -> None:
    from stet.evaluation.analysis import summarise
    from stet.evaluation.report import terminal, write_report

    if not results.answers:
        raise OptionError(f"{folder} holds no answers yet.")
    check_writable(folder / "report.html")
    with err.status("Computing intervals and drawing the report ..."):
        summary = summarise(results, cost_ratio=output.cost_ratio)
        written = write_report(results, summary, folder)
    if output.as_json:
        print_json(plain(summary))
        return
    out.print(terminal(summary))
    page = next(path for path in written if path.suffix == ".html")
    out.print(f"\nReport: {page}", soft_wrap=True)


def _list_tasks() -> None:
    from stet.evaluation.graders import available_graders
    from stet.evaluation.tasks import available_tasks

    for title, listed in (("Tasks", available_tasks()), ("Graders", available_graders())):
        table = a_table(title, "name", "")
        table.columns[1].justify = "left"
        for item in listed:
            table.add_row(item.name, (item.__doc__ or "").strip().split("\n")[0])
        out.print(table)


@contextmanager
def _progress(comparison: Comparison) -> Iterator[Callable[[list[Answer]], None]]:
    """Show a table of each policy's totals so far, updated after each chunk."""
    board = _Board(comparison)
    if not err.is_terminal:
        yield board.count
        return
    with Live(board.table(), console=err, transient=True, auto_refresh=False) as live:

        def show(answers: list[Answer]) -> None:
            board.count(answers)
            live.update(board.table(), refresh=True)

        yield show


class _Board:
    """Running totals of each policy."""

    def __init__(self, comparison: Comparison) -> None:
        self._total = comparison.total // len(comparison.plan.contenders)
        self._graded = comparison.plan.task.grader is not None
        self._sums: dict[str, dict[str, float]] = {
            c.label: dict.fromkeys(("answers", "right", "tokens", "seconds"), 0.0)
            for c in comparison.plan.contenders
        }
        self.count(comparison.answers)

    def count(self, answers: Sequence[Answer]) -> None:
        """Add answers to the totals."""
        for answer in answers:
            sums = self._sums[answer.policy]
            sums["answers"] += 1
            sums["right"] += bool(answer.right)
            sums["tokens"] += answer.counters.emitted_tokens
            sums["seconds"] += answer.chunk_seconds / answer.chunk_answers

    def table(self) -> Table:
        """The table of the totals so far."""
        table = a_table("Comparing", "policy", "answered", "right", "tokens/s")
        for label, sums in self._sums.items():
            share: Any = sums["right"] / sums["answers"] if sums["answers"] else None
            rate: Any = sums["tokens"] / sums["seconds"] if sums["seconds"] else None
            table.add_row(
                label,
                f"{sums['answers']:.0f} of {self._total}",
                number(share if self._graded else None, ".1%"),
                number(rate, ".0f"),
            )
        return table
