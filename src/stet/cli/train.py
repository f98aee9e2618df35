"""`stet train`: train an arbiter for CoSpec on a pair and a task."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli import chat as chats
from stet.cli import options as o
from stet.cli.output import a_table, out, print_json, stages
from stet.core.files import check_writable

if TYPE_CHECKING:
    from stet.training.training import Trained

LEARNING = "Training"


def command(
    task: Annotated[
        str, typer.Option("--task", help="A task with right answers, or a JSONL file.")
    ] = "stories",
    split: Annotated[
        str | None, typer.Option(help="Split to learn from.", show_default="policy_train")
    ] = None,
    validation_split: Annotated[
        str | None,
        typer.Option(
            help="Split for early stopping and for the threshold.", show_default="validation"
        ),
    ] = None,
    task_file: Annotated[
        Path | None, typer.Option(help="Local file of a named task.", show_default=False)
    ] = None,
    grader: Annotated[
        str | None,
        typer.Option(help="Reads and compares answers.", show_default="the task's"),
    ] = None,
    chat: chats.InChat = None,
    system: chats.System = None,
    template_arg: chats.TemplateArg = None,
    problems: Annotated[
        int, typer.Option("--problems", "-n", min=20, help="Questions to learn from.")
    ] = 1500,
    validation: Annotated[
        int, typer.Option(min=10, help="Questions for early stopping and for the threshold.")
    ] = 400,
    max_new_tokens: o.TaskLength = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            help="An input of the arbiter; may be given several times.",
            show_default="all numbers; see docs/cospec.md",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    hidden: Annotated[
        str,
        typer.Option(
            help="Widths of its hidden layers, such as 32 or 64,32; 0 for a linear arbiter.",
            rich_help_panel=LEARNING,
        ),
    ] = "32",
    labels: Annotated[
        str,
        typer.Option(
            help="Label source: right 'answers', or the 'target' for its own (AutoJudge).",
            rich_help_panel=LEARNING,
        ),
    ] = "answers",
    method: Annotated[
        str,
        typer.Option(
            help="After the fit: policy gradient from 'groups' of answers, from one-flip "
            "counterfactuals ('flips'), or 'none'.",
            rich_help_panel=LEARNING,
        ),
    ] = "groups",
    sweeps: Annotated[
        int,
        typer.Option(
            min=1,
            help="Times that branches are collected, each time from other questions.",
            rich_help_panel=LEARNING,
        ),
    ] = 2,
    rounds: Annotated[
        int,
        typer.Option(min=0, help="The most rounds of policy gradient.", rich_help_panel=LEARNING),
    ] = 24,
    cost: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Cost of a target's token that ends a block, in right answers.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.01,
    within: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Accuracy that may be given up for speed where the threshold is chosen.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.005,
    batch: Annotated[int, typer.Option(min=1, help="Answers at a time.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of questions, weights and decisions.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "--out", "-o", help="Folder of the trained policy.")
    ] = Path("policy"),
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder of branches and rounds; an interrupted training goes on there.",
            show_default="training/OUTPUT",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="The report page.", show_default="OUTPUT.html"),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no page.")] = False,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Train nothing: show the branches of the folder.")
    ] = False,
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
    """Train an arbiter: at a mismatch, whose token leads to right answers?

    Answers questions, rolls out both tokens at every mismatch, fits an arbiter to
    the outcomes, and improves it by policy gradient on whole answers. Use the
    folder as a policy: `stet generate --policy cospec --param arbiter=policy`.
    """
    target, draft = o.models_of(both, target, draft)
    from stet.training.report import write_page
    from stet.training.training import train

    place = folder or Path("training") / output.name
    if inspect:
        _inspect(place, as_json)
        return
    page = None if no_report else report or output.with_suffix(".html")
    for path in (place / "settings.json", output / "arbiter.json", page):
        if path is not None:
            check_writable(path, parents=True)
    request = _request(
        task=(task, split, validation_split, problems, validation),
        options={
            "path": task_file,
            "seed": seed,
            "grader": grader,
            **chats.task_options(chat, system, template_arg),
        },
        longest=max_new_tokens,
        features=features,
        hidden=hidden,
        method=method,
        sweeps=sweeps,
        rounds=rounds,
        cost=cost,
        within=within,
        batch=batch,
        seed=seed,
    )
    pair = o.load(
        target,
        draft,
        max_batch=batch,
        policies=[],
        compile=bool(compile),
        dtype=dtype,
        device=device,
        revision=revision,
        draft_revision=draft_revision,
        trust_remote_code=trust_remote_code,
        self_check=self_check,
        max_length=max_length,
    )
    suited = {name: getattr(request, name).suited(pair) for name in ("task", "validation")}
    request = replace(request, **suited)
    if request.task.chat is not None:
        chats.announce(pair)
    request = _with_labels(pair, request, labels, place)
    with stages() as tell:
        found = train(pair, request, place, tell)
    found.arbiter.save(output)
    if page is not None:
        write_page(found.record, page)
    if as_json:
        print_json(found.record)
        return
    _show(found)
    if page is not None:
        out.print(f"\nReport: {page}")
    out.print(f"\nWritten: {output}; use it as `--policy cospec --param arbiter={output}`.")


def _request(
    *,
    task: tuple[str, str | None, str | None, int, int],
    options: dict[str, Any],
    longest: int | None,
    features: list[str] | None,
    hidden: str,
    method: str,
    sweeps: int,
    rounds: int,
    cost: float,
    within: float,
    batch: int,
    seed: int,
) -> Any:
    from stet.arbiter import DEFAULT
    from stet.core.errors import OptionError
    from stet.evaluation.tasks import load_task
    from stet.training.fitting import FitSettings
    from stet.training.gradient import GradientSettings
    from stet.training.request import TrainRequest

    name, split, other, count, watched = task
    bundled = name in ("stories", "units")
    chosen = split or ("policy_train" if bundled else None)
    judged = other or ("validation" if bundled else None)
    try:
        widths = tuple(int(w) for w in hidden.split(",") if int(w))
    except ValueError as error:
        raise OptionError(f"hidden is {hidden!r}; give widths such as 32 or 64,32.") from error
    if chosen == judged:  # then two parts of one split
        whole = load_task(name, split=chosen, count=count + watched, **options)
        asked = max(len(whole.questions) - watched, 0)
        parts = whole.questions[:asked], whole.questions[asked:]
        learnt, checked = (replace(whole, questions=part) for part in parts)
    else:
        learnt = load_task(name, split=chosen, count=count, **options)
        checked = load_task(name, split=judged, count=watched, **options)
    if longest is not None:
        learnt, checked = (replace(t, max_new_tokens=longest) for t in (learnt, checked))
    return TrainRequest(
        learnt,
        checked,
        features=tuple(features) if features else DEFAULT,
        fit=FitSettings(hidden=widths, cost=max(cost, 0.001)),
        gradient=GradientSettings(cost=cost),
        method=method,  # type: ignore[arg-type]
        sweeps=sweeps,
        rounds=rounds,
        within=within,
        batch=batch,
        seed=seed,
        command=shlex.join(["stet", *sys.argv[1:]]),
    )


def _with_labels(pair: Any, request: Any, labels: str, folder: Path) -> Any:
    """The request with the target's own answers as its label source, if that is asked for."""
    from stet.calibration.label_source import with_own_answers
    from stet.core.errors import OptionError

    if labels not in ("answers", "target"):
        raise OptionError(f"labels is {labels!r}; choose from answers, target.")
    if labels == "answers":
        return request
    folder.mkdir(parents=True, exist_ok=True)
    with stages() as tell:
        task, validation = (
            with_own_answers(pair, t, folder / f"{name}-own.jsonl", request.batch, tell)
            for name, t in (("task", request.task), ("validation", request.validation))
        )
    return replace(request, task=task, validation=validation, labels=labels)


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
        if not item.auroc:
            continue
        table = a_table("Draft only against target only", "feature", "AUROC", "draft", "target")
        for name, (auroc, draft, target) in item.auroc.items():
            table.add_row(name, f"{auroc:.3f}", f"{draft:.2f}", f"{target:.2f}")
        out.print(table)
