"""`stet train`: train an arbiter for CoSpec on a pair and a task."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stet.cli import options as o
from stet.cli.chat import ChatOptions, announce, template_of
from stet.cli.cluster import ClusterOptions
from stet.cli.groups import with_groups
from stet.cli.output import a_table, out, print_json, stages
from stet.cli.parsing import command_line
from stet.cli.train_options import (
    LearningOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
    TaskOptions,
)
from stet.core.errors import OptionError
from stet.core.folders import SETTINGS
from stet.core.writing import check_writable

if TYPE_CHECKING:
    from stet.training.request import TrainRequest
    from stet.training.training import Trained


@with_groups
def command(
    task: TaskOptions,
    chat: ChatOptions,
    learning: LearningOptions,
    run: RunOptions,
    output: OutputOptions,
    report: ReportOptions,
    models: o.ModelOptions,
    cluster: ClusterOptions,
) -> None:
    """Train an arbiter: at a mismatch, whose token leads to right answers?

    Answers questions, rolls out both tokens at every mismatch, fits an arbiter to
    the outcomes, and improves it by policy gradient on whole answers. Use the
    folder as a policy: `stet generate --policy cospec --param arbiter=policy`.
    """
    models = models.resolve()
    if report.inspect:
        _inspect(output.place, report.as_json)
        return
    page = report.choose_page(output.output)
    for path in (output.place / SETTINGS, output.output / "arbiter.json", page):
        if path is not None:
            check_writable(path, parents=True)
    request = _make_request(task, chat, learning, run)
    found = _train(models, cluster, request, output.place)
    found.arbiter.save(output.output)
    if page is not None:
        from stet.training.report import write_page

        write_page(found.record, page)
    if report.as_json:
        print_json(found.record)
        return
    _show(found)
    if page is not None:
        out.print(f"\nReport: {page}")
    out.print(
        f"\nWritten: {output.output}; use it as `--policy cospec --param arbiter={output.output}`."
    )


def _make_request(
    task: TaskOptions, chat: ChatOptions, learning: LearningOptions, run: RunOptions
) -> TrainRequest:
    from stet.arbiter import DEFAULT
    from stet.training.fitting import FitSettings
    from stet.training.gradient import GradientSettings
    from stet.training.request import TrainRequest

    widths = _parse_widths(learning.hidden)
    learnt, checked = task.load(chat, run.seed)
    return TrainRequest(
        learnt,
        checked,
        labels=learning.labels,  # type: ignore[arg-type]
        features=tuple(learning.features) if learning.features else DEFAULT,
        fit=FitSettings(hidden=widths, cost=max(learning.cost, 0.001)),
        gradient=GradientSettings(cost=learning.cost),
        method=learning.method,  # type: ignore[arg-type]
        branched=learning.branched,
        sweeps=learning.sweeps,
        rounds=learning.rounds,
        within=learning.within,
        error=learning.error,
        batch=run.batch,
        seed=run.seed,
        command=command_line(),
    )


def _parse_widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(w) for w in text.split(",") if int(w))
    except ValueError as error:
        raise OptionError(f"hidden is {text!r}; give widths such as 32 or 64,32.") from error


def _train(
    models: o.ModelOptions, cluster: ClusterOptions, request: TrainRequest, place: Path
) -> Trained:
    from stet.training.training import train

    with cluster.open(models, max_batch=request.batch, compile_default=False) as executor:
        request = replace(
            request,
            task=executor.call(request.task.suited),
            validation=executor.call(request.validation.suited),
        )
        if request.task.chat is not None:
            announce(executor.call(template_of))
        with stages() as tell:
            return train(executor, request, place, tell)


def _show(found: Trained) -> None:
    table = a_table(
        "On the validation questions", "threshold", "right", "tokens/pass", "accepted mismatches"
    )
    rows = [("target alone", found.target), *((f"{m.threshold:g}", m) for m in found.final)]
    for label, m in rows:
        share = m.accepted_mismatches / m.mismatches if m.mismatches else 0.0
        chosen = " <" if label == f"{found.arbiter.threshold:g}" else ""
        table.add_row(
            label + chosen, f"{m.accuracy:.1%}", f"{m.tokens_per_pass:.2f}", f"{share:.0%}"
        )
    for number, cells in enumerate(found.cells, 1):
        parts = ", ".join(f"{name} {count}" for name, count in cells.items())
        out.print(f"Branches, sweep {number}: {parts}.")
    out.print(table)
    if found.outlook is not None:
        out.print(found.outlook.words)
    for part, note in found.record["notes"].items():
        out.print(f"Of the {part}: {note}")


def _inspect(folder: Path, as_json: bool) -> None:
    from stet.training.inspecting import inspect_folder

    found = inspect_folder(folder)
    if as_json:
        print_json([asdict(item) for item in found])
        return
    for item in found:
        parts = ", ".join(f"{name} {count}" for name, count in item.cells.items())
        out.print(
            f"[bold]{item.name}[/]: {item.branches} mismatches of {item.questions} "
            f"questions; {parts}."
        )
        if item.outlook is not None:
            out.print(item.outlook.words)
        if not item.auroc:
            continue
        table = a_table("Draft only against target only", "feature", "AUROC", "draft", "target")
        for name, (auroc, draft, target) in item.auroc.items():
            table.add_row(name, f"{auroc:.3f}", f"{draft:.2f}", f"{target:.2f}")
        out.print(table)
