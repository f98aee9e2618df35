"""`stet compare`: accuracy and speed of any policies, on one task, in one run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from stet.cli import chat as chats
from stet.cli import options as o
from stet.cli.output import a_table, err, number, out, plain, print_json
from stet.core.errors import OptionError
from stet.core.files import check_writable

if TYPE_CHECKING:
    from rich.table import Table

    from stet.evaluation.contenders import Contender
    from stet.evaluation.records import Answer, Results
    from stet.evaluation.run import Comparison
    from stet.evaluation.tasks.base import LoadedTask

TASK = "Task"
POLICIES = "Policies"
RUN = "Run"


def command(
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="A task by name (`stet compare --list-tasks`), or a JSONL file.",
            rich_help_panel=TASK,
        ),
    ] = "stories",
    task_file: Annotated[
        Path | None,
        typer.Option(
            help="Local file of a named task, instead of the hub.",
            rich_help_panel=TASK,
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of the task.", rich_help_panel=TASK, show_default="the task's own"
        ),
    ] = None,
    problems: Annotated[
        int | None,
        typer.Option(
            "--problems", "-n", min=1, help="How many, chosen at random.", rich_help_panel=TASK
        ),
    ] = 300,
    shots: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Worked examples before each question.",
            rich_help_panel=TASK,
            show_default="the task's own",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt template; fields of the record in {{ braces }}.",
            rich_help_panel=TASK,
            show_default="the task's own",
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            help="Field of a JSONL file: question=NAME or answer=NAME. May be repeated.",
            rich_help_panel=TASK,
            show_default=False,
        ),
    ] = None,
    grader: Annotated[
        str | None,
        typer.Option(
            help="How answers are graded.", rich_help_panel=TASK, show_default="the task's own"
        ),
    ] = None,
    chat: chats.InChat = None,
    system: chats.System = None,
    template_arg: chats.TemplateArg = None,
    list_tasks: Annotated[
        bool,
        typer.Option("--list-tasks", help="List tasks and graders.", rich_help_panel=TASK),
    ] = False,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help="NAME or NAME:parameter=value,...; value|value tries each. May be repeated.",
            rich_help_panel=POLICIES,
            show_default="all that need no settings",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML or YAML file with a list of policies.",
            rich_help_panel=POLICIES,
            show_default=False,
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(help="Add the baselines beside any lossy policy.", rich_help_panel=POLICIES),
    ] = True,
    reference: Annotated[
        str,
        typer.Option(help="What the others are compared to.", rich_help_panel=POLICIES),
    ] = "target",
    primary: Annotated[
        list[str] | None,
        typer.Option(
            help="Label of a comparison to test; the others are exploratory. May be repeated.",
            rich_help_panel=POLICIES,
            show_default="the lossy policies that were named",
        ),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            help="Each seed is a full run over all questions. May be repeated.",
            rich_help_panel=RUN,
            show_default="0",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Questions at a time.", rich_help_panel=RUN)
    ] = 1,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="Longest answer.",
            rich_help_panel=RUN,
            show_default="the task's own",
        ),
    ] = None,
    temperature: o.Temperature = 0.0,
    draft_length: Annotated[
        str,
        typer.Option(
            "--draft-length", "-k", help="Tokens per block, or auto.", rich_help_panel=RUN
        ),
    ] = "auto",
    probabilities: Annotated[
        bool,
        typer.Option(
            help="Record both models' probabilities: signals in the report, a little slower.",
            rich_help_panel=RUN,
        ),
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Results folder; an interrupted run there goes on.",
            rich_help_panel=o.OUTPUT,
            show_default="results/TASK-DATE-TIME",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Report on the results in this folder, without running anything.",
            rich_help_panel=o.OUTPUT,
            show_default=False,
        ),
    ] = None,
    cost_ratio: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Cost of a target pass in draft passes, elsewhere: adds a modelled speed-up.",
            rich_help_panel=o.OUTPUT,
            show_default=False,
        ),
    ] = None,
    as_json: o.AsJson = False,
    both: o.Both = None,
    target: o.Target = None,
    draft: o.Draft = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    revision: o.Revision = None,
    draft_revision: o.DraftRevision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    self_check: o.SelfCheck = True,
    max_length: o.MaxLength = None,
    compile: o.Compile = None,
) -> None:
    """Compare policies on a task: accuracy and speed, with paired statistics.

    Every policy answers the same questions, in turns. The results folder gets
    one record per answer, and a report: table, plots, and the questions where an
    answer changed, with their traces. Run the same command again to go on after
    an interruption; `--from FOLDER` reports again without running.
    """
    target, draft = o.models_of(both, target, draft)
    if list_tasks:
        _list_tasks()
        return
    if source is not None:
        from stet.evaluation.records import read

        _report(read(source), source, cost_ratio, as_json)
        return
    from stet.evaluation.contenders import baselines as plain_rules
    from stet.evaluation.contenders import defaults, distinct, parse, read_file
    from stet.evaluation.run import Comparison, Plan
    from stet.evaluation.tasks import load_task

    loaded = load_task(
        task,
        split=split,
        count=problems,
        shots=shots,
        template=template,
        grader=grader,
        **chats.task_options(chat, system, template_arg),
        path=task_file,
        fields=dict(o.pair_of(text, "--field") for text in field or []) or None,
    )
    has_draft = draft != "lookup"
    named = [made for text in policy or [] for made in parse(text)]
    named += read_file(config) if config is not None else []
    graded = loaded.grader is not None
    contenders = named or defaults(
        graded=graded,
        has_draft=has_draft,
        bundled=target is None,
        fitted=target is None and dtype in {"auto", "float32"},
    )
    if baselines and any(not c.entry.lossless for c in named):
        contenders = [*plain_rules(has_draft=has_draft), *named]
    contenders = distinct(contenders)
    if reference not in [c.label for c in contenders]:
        contenders = [*parse(reference), *contenders]
    plan = Plan(
        task=loaded,
        contenders=contenders,
        reference=reference,
        primary=primary if primary is not None else _primary(named or contenders, reference),
        seeds=seed or [0],
        batch=batch,
        options={
            "max_new_tokens": max_new_tokens or loaded.max_new_tokens,
            "fit": max_new_tokens is None,
            "temperature": temperature,
            "draft_length": o.draft_length_of(draft_length),
            "probabilities": probabilities,
        },
        command=shlex.join(["stet", *sys.argv[1:]]),
    )
    folder = output or Path("results") / f"{_file_name(loaded)}-{datetime.now():%Y%m%d-%H%M%S}"
    check_writable(folder / "report.html", parents=True)
    pair = o.load(
        target,
        draft,
        max_batch=batch * max(c.samples for c in contenders),
        policies=[c.policy for c in contenders],
        # Policies must not run at different speeds only because one came first: compiled before the
        # run, or never.
        compile=bool(compile),
        dtype=dtype,
        device=device,
        revision=revision,
        draft_revision=draft_revision,
        trust_remote_code=trust_remote_code,
        self_check=self_check,
        max_length=max_length,
    )
    if compile:
        with err.status("Compiling ..."):
            pair.warm_up()
    comparison = Comparison(pair, plan, folder)
    if comparison.plan.task.chat is not None:
        chats.announce(pair)
    if comparison.answers:
        err.print(f"{len(comparison.answers)} of {comparison.total} answers are there already.")
    with _progress(comparison) as show:
        results = comparison.go(show)
    _report(results, folder, cost_ratio, as_json)


def _primary(contenders: Sequence[Contender], reference: str) -> list[str]:
    """Labels of the comparisons to test: policies that may change answers, except the draft."""
    return [
        c.label
        for c in contenders
        if not c.entry.lossless and c.entry.name != "draft" and c.label != reference
    ]


def _file_name(task: LoadedTask) -> str:
    return "".join(c if c.isalnum() else "-" for c in task.name).strip("-")


def _report(results: Results, folder: Path, cost_ratio: float | None, as_json: bool) -> None:
    from stet.evaluation.analysis import summarise
    from stet.evaluation.report import terminal, write_report

    if not results.answers:
        raise OptionError(f"{folder} holds no answers yet.")
    check_writable(folder / "report.html")
    with err.status("Computing intervals and drawing the report ..."):
        summary = summarise(results, cost_ratio=cost_ratio)
        written = write_report(results, summary, folder)
    if as_json:
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
