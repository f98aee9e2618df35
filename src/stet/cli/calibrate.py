"""`stet calibrate`: fit SpecGuard to a pair and a task."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli import chat as chats
from stet.cli import options as o
from stet.cli.output import out, print_json, stages
from stet.core.files import check_writable

if TYPE_CHECKING:
    from stet.calibration.choosing import Wish
    from stet.calibration.result import Calibration
    from stet.evaluation.tasks.base import LoadedTask

GOAL = "What the threshold is chosen for (one of them)"


def command(
    task: Annotated[
        str, typer.Option("--task", help="A task, or a JSONL file; answers are not needed.")
    ] = "stories",
    split: Annotated[
        str | None,
        typer.Option(help="Never one you report on.", show_default="calibration"),
    ] = None,
    task_file: Annotated[
        Path | None, typer.Option(help="Local file of a named task.", show_default=False)
    ] = None,
    grader: Annotated[
        str | None,
        typer.Option(help="Reads and compares answers.", show_default="the task's"),
    ] = None,
    without_answers: Annotated[
        bool,
        typer.Option("--without-answers", help="Label steps by the target's own answers."),
    ] = False,
    chat: chats.InChat = None,
    system: chats.System = None,
    template_arg: chats.TemplateArg = None,
    problems: Annotated[
        int, typer.Option("--problems", "-n", min=20, help="How many; half of them for fitting.")
    ] = 400,
    max_new_tokens: o.TaskLength = None,
    policy: Annotated[
        str,
        typer.Option(
            "--policy", "-p", help="What is calibrated, with parameters that stay as they are."
        ),
    ] = "specguard:lower=0",
    accurate: Annotated[
        bool,
        typer.Option("--accurate", help="Most right answers; the default.", rich_help_panel=GOAL),
    ] = False,
    accuracy: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Fastest with this share of right answers.", rich_help_panel=GOAL
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Strictest that accepts this share of the draft's steps.",
            rich_help_panel=GOAL,
        ),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(min=0, help="Most accurate within these seconds.", rich_help_panel=GOAL),
    ] = None,
    risk: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Most accepted steps while at most this share of problems is lost to one.",
            rich_help_panel=GOAL,
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(min=0, max=1, help="Probability that the bound on risk fails.")
    ] = 0.05,
    thresholds: Annotated[int, typer.Option(min=2, max=20, help="Thresholds to try.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 8,
    rollouts: Annotated[
        int,
        typer.Option(
            min=0,
            help="A step is good if at least half of so many sampled rollouts by the target "
            "come out right; 0: the greedy one.",
        ),
    ] = 0,
    seed: Annotated[
        int, typer.Option(help="Seed of the division of the problems and of the runs.")
    ] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The calibrated policy, as JSON.")
    ] = Path("specguard.json"),
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled steps and runs; an interrupted calibration goes on there.",
            show_default="calibration/OUTPUT",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="The report page.", show_default="OUTPUT with .html"),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no page.")] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Run nothing: show this calibration and write its page again.",
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
    """Fit SpecGuard to a pair: the score of a step, and its threshold.

    Labels the draft's steps by whether the target still gets from them to the
    right answer, fits the score of their signals, runs every threshold on
    problems that it was not fitted on, and writes the threshold that meets the
    goal. Use the file as a policy: `stet generate --policy specguard.json`.
    """
    target, draft = o.models_of(both, target, draft)
    from stet.calibration.calibrate import calibrate
    from stet.calibration.choosing import Wish
    from stet.calibration.request import CalibrateRequest
    from stet.calibration.result import Calibration
    from stet.core.errors import OptionError
    from stet.evaluation.contenders import parse
    from stet.policies import SpecGuard

    page = None if no_report else report or (source or output).with_suffix(".html")
    if page is not None:
        check_writable(page, parents=True)
    if source is not None:
        _show(Calibration.load(source), page, as_json)
        return
    place = folder or Path("calibration") / output.stem
    for path in (output, place / "settings.json"):
        check_writable(path, parents=True)
    wish = _wish(accuracy, keep, latency, risk, delta, accurate)
    base, *more = parse(policy)
    if more or not isinstance(base.policy, SpecGuard):
        raise OptionError(f"{policy!r} cannot be calibrated; name specguard and its parameters.")
    options: dict[str, Any] = {
        "split": split or _split(task),
        "count": problems,
        "path": task_file,
        "seed": seed,
        **chats.task_options(chat, system, template_arg),
    }
    loaded = _task(task, grader, options)
    if max_new_tokens is not None:
        loaded = replace(loaded, max_new_tokens=max_new_tokens)
    request = CalibrateRequest(
        loaded,
        wish or Wish("accuracy"),
        base.policy,
        thresholds=thresholds,
        without_answers=without_answers,
        rollouts=rollouts,
        batch=batch,
        seed=seed,
        command=shlex.join(["stet", *sys.argv[1:]]),
    )
    if request.label_source.note and wish is None:
        raise OptionError(
            "Without right answers, say what the threshold is chosen for: --keep, --latency, "
            "--risk, or, as agreement with the target, --accuracy or --accurate."
        )
    pair = o.load(
        target,
        draft,
        max_batch=batch,
        policies=[base.policy],
        compile=bool(compile),
        dtype=dtype,
        device=device,
        revision=revision,
        draft_revision=draft_revision,
        trust_remote_code=trust_remote_code,
        self_check=self_check,
        max_length=max_length,
    )
    request = replace(request, task=loaded.suited(pair))
    if request.task.chat is not None:
        chats.announce(pair)
    with stages() as tell:
        found = calibrate(pair, request, place, tell)
    found.save(output)
    _show(found, page, as_json)
    if not as_json:
        out.print(f"Written: {output}; use it as `--policy {output}`.")


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


def _split(task: str) -> str | None:
    """The calibration split of a bundled task; None for other tasks, where the user names it."""
    return "calibration" if task in ("stories", "units") else None


def _wish(
    accuracy: float | None,
    keep: float | None,
    latency: float | None,
    risk: float | None,
    delta: float,
    accurate: bool,
) -> Wish | None:
    from stet.calibration.choosing import Wish
    from stet.core.errors import OptionError

    given: list[Wish] = [Wish("accuracy")] if accurate else []
    if accuracy is not None:
        given.append(Wish("speed", accuracy))
    if keep is not None:
        given.append(Wish("keep", keep))
    if latency is not None:
        given.append(Wish("latency", latency))
    if risk is not None:
        given.append(Wish("risk", risk, delta))
    if len(given) > 1:
        raise OptionError("Ask for one thing: --accurate, --accuracy, --keep, --latency or --risk.")
    return given[0] if given else None


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
