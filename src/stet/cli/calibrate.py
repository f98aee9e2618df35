"""`stet calibrate`: fit SpecGuard to a pair and a task."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.cli import options as o
from stet.cli.calibrate_options import (
    GoalOptions,
    OutputOptions,
    ReportOptions,
    RunOptions,
    TaskOptions,
)
from stet.cli.chat import ChatOptions, announce, template_of
from stet.cli.cluster import ClusterOptions
from stet.cli.groups import with_groups
from stet.cli.output import out, print_json, stages
from stet.cli.parsing import command_line
from stet.core.errors import OptionError
from stet.core.folders import SETTINGS
from stet.core.writing import check_writable

if TYPE_CHECKING:
    from stet.calibration.request import CalibrateRequest
    from stet.calibration.result import Calibration
    from stet.evaluation.tasks.base import LoadedTask
    from stet.policies import SpecGuard


@with_groups
def command(
    task: TaskOptions,
    chat: ChatOptions,
    goal: GoalOptions,
    run: RunOptions,
    output: OutputOptions,
    report: ReportOptions,
    models: o.ModelOptions,
    cluster: ClusterOptions,
) -> None:
    """Fit SpecGuard to a pair: the score of a step, and its threshold.

    Labels the draft's steps by whether the target still gets from them to the
    right answer, fits the score of their signals, runs every threshold on
    problems that it was not fitted on, and writes the threshold that meets the
    goal. Use the file as a policy: `stet generate --policy specguard.json`.
    """
    models = models.resolve()
    page = report.choose_page(report.source or output.output)
    if page is not None:
        check_writable(page, parents=True)
    if report.source is not None:
        from stet.calibration.result import Calibration

        _show(Calibration.load(report.source), page, report.as_json)
        return
    for path in (output.output, output.place / SETTINGS):
        check_writable(path, parents=True)
    request = _make_request(task, chat, goal, run)
    found = _calibrate(models, cluster, request, output.place)
    found.save(output.output)
    _show(found, page, report.as_json)
    if not report.as_json:
        out.print(f"Written: {output.output}; use it as `--policy {output.output}`.")


def _make_request(
    task: TaskOptions, chat: ChatOptions, goal: GoalOptions, run: RunOptions
) -> CalibrateRequest:
    from stet.calibration.choosing import Wish
    from stet.calibration.request import CalibrateRequest

    wish = goal.make_wish(run.delta)
    policy = _read_policy(run.policy)
    loaded = _task(task.task, task.grader, {**task.settings(run.seed), **chat.task_settings()})
    if task.max_new_tokens is not None:
        loaded = replace(loaded, max_new_tokens=task.max_new_tokens)
    request = CalibrateRequest(
        loaded,
        wish or Wish("accuracy"),
        policy,
        thresholds=run.thresholds,
        without_answers=task.without_answers,
        rollouts=run.rollouts,
        head=run.head,
        batch=run.batch,
        seed=run.seed,
        command=command_line(),
    )
    if request.label_source.note and wish is None:
        raise OptionError(
            "Without right answers, say what the threshold is chosen for: --keep, --latency, "
            "--risk, or, as agreement with the target, --accuracy or --accurate."
        )
    return request


def _read_policy(text: str) -> SpecGuard:
    from stet.evaluation.contenders import parse
    from stet.policies import SpecGuard

    base, *more = parse(text)
    if more or not isinstance(base.policy, SpecGuard):
        raise OptionError(f"{text!r} cannot be calibrated; name specguard and its parameters.")
    return base.policy


def _calibrate(
    models: o.ModelOptions, cluster: ClusterOptions, request: CalibrateRequest, place: Path
) -> Calibration:
    from stet.calibration.calibrate import calibrate

    with cluster.open(
        models, max_batch=request.batch, policies=[request.base], compile_default=False
    ) as executor:
        request = replace(request, task=executor.call(request.task.suited))
        if request.task.chat is not None:
            announce(executor.call(template_of))
        with stages() as tell:
            return calibrate(executor, request, place, tell)


def _task(name: str, grader: str | None, options: dict[str, Any]) -> LoadedTask:
    """Load the task; prompts without answers may have a grader too, to read the target's."""
    from stet.evaluation.graders import resolve_grader
    from stet.evaluation.tasks import TaskError, load_task

    try:
        return load_task(name, grader=grader, **options)
    except TaskError:
        if grader is None:
            raise
        loaded = load_task(name, grader="none", **options)
        if any(q.reference is not None for q in loaded.questions):
            raise
        return replace(loaded, grader=resolve_grader(grader))


def _show(found: Calibration, page: Path | None, as_json: bool) -> None:
    from stet.calibration.report import terminal, write_page

    if page is not None:
        write_page(found, page)
    if as_json:
        print_json(asdict(found))
        return
    out.print(terminal(found))
    if page is not None:
        out.print(f"\nReport: {page}")
