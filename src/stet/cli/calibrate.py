"""`stet calibrate`: fit SpecGuard to a pair and a task."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stet.cli import options as o
from stet.cli.output import a_table, out, print_json, stages

if TYPE_CHECKING:
    from stet.calibration.choosing import Wish
    from stet.calibration.result import Calibration

GOAL = "What the threshold is chosen for (one of them)"


def command(
    task: Annotated[
        str, typer.Option("--task", help="A task with right answers, or a JSONL file.")
    ] = "stories",
    split: Annotated[
        str | None,
        typer.Option(help="Never one you report on.", show_default="calibration"),
    ] = None,
    task_file: Annotated[
        Path | None, typer.Option(help="Local file of a named task.", show_default=False)
    ] = None,
    problems: Annotated[
        int, typer.Option("--problems", "-n", min=20, help="How many; half of them for fitting.")
    ] = 400,
    policy: Annotated[
        str,
        typer.Option(
            "--policy", "-p", help="What is calibrated, with parameters that stay as they are."
        ),
    ] = "specguard",
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
            help="Strictest that keeps this share of the draft's steps.",
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
            help="Most kept steps while at most this share of problems is lost to one.",
            rich_help_panel=GOAL,
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(min=0, max=1, help="Chance that the bound on risk fails.")
    ] = 0.05,
    thresholds: Annotated[int, typer.Option(min=2, max=20, help="Thresholds to try.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the division of the problems and the runs.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The calibrated policy, as JSON.")
    ] = Path("specguard.json"),
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where labelled steps and runs are kept; an interrupted calibration goes on.",
            show_default="calibration/OUTPUT",
        ),
    ] = None,
    as_json: o.AsJson = False,
    target: o.Target = None,
    draft: o.Draft = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    revision: o.Revision = None,
    draft_revision: o.DraftRevision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    max_length: o.MaxLength = None,
    compile: o.Compile = None,
) -> None:
    """Fit SpecGuard to a pair: which signals tell good steps from bad, and where to draw the line.

    Labels the draft's steps by whether the target still gets from them to the right
    answer, fits the score, runs every threshold on problems that it was not fitted
    on, and writes the one that does what was asked for. Use the file as a policy:
    `stet generate --policy specguard.json`.
    """
    from stet.calibration.calibrate import Request, calibrate
    from stet.errors import OptionError
    from stet.evaluation.contenders import parse
    from stet.evaluation.tasks import load_task
    from stet.policies import SpecGuard

    wish = _wish(accuracy, keep, latency, risk, delta, accurate)
    base, *more = parse(policy)
    if more or not isinstance(base.policy, SpecGuard):
        raise OptionError(f"{policy!r} cannot be calibrated; name specguard and its parameters.")
    loaded = load_task(task, split=split or _split(task), count=problems, path=task_file, seed=seed)
    request = Request(
        loaded,
        wish,
        base.policy,
        thresholds=thresholds,
        batch=batch,
        seed=seed,
        command=shlex.join(["stet", *sys.argv[1:]]),
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
        max_length=max_length,
    )
    with stages() as report:
        found = calibrate(pair, request, folder or Path("calibration") / output.stem, report)
    found.save(output)
    if as_json:
        print_json(asdict(found))
        return
    _show(found)
    out.print(f"\nWritten: {output}; use it as `--policy {output}`.")


def _split(task: str) -> str | None:
    """The bundled tasks have a part for this; of others the user has to say."""
    return "calibration" if task in ("stories", "units") else None


def _wish(
    accuracy: float | None,
    keep: float | None,
    latency: float | None,
    risk: float | None,
    delta: float,
    accurate: bool,
) -> Wish:
    from stet.calibration.choosing import Wish
    from stet.errors import OptionError

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
    return given[0] if given else Wish("accuracy")


def _show(found: Calibration) -> None:
    signals = a_table(
        "Signals: does more of it mean a good step?",
        "signal",
        "AUROC",
        "95 %",
        "like steps",
        "weight",
    )
    weights = dict(zip(found.parameters["signals"], found.parameters["weights"], strict=True))
    for quality in sorted(found.qualities, key=lambda q: -abs(q.auroc - 0.5)):
        signals.add_row(
            quality.name,
            f"{quality.auroc:.3f}",
            f"{quality.low:.3f}-{quality.high:.3f}",
            "-" if quality.within is None else f"{quality.within:.3f}",
            "wrong way"
            if quality.name in found.wrong_way
            else f"{weights.get(quality.name, 0):.2f}",
        )
    out.print(signals)
    table = a_table(
        "Thresholds, each run by itself",
        "threshold",
        "right",
        "seconds",
        "steps kept",
        "lost to a step",
    )
    for name, point in found.references.items():
        table.add_row(name, f"{point.accuracy:.1%}", f"{point.seconds:.3f}", "-", "-")
    for point in found.points:
        mark = " *" if point == found.chosen else ""
        table.add_row(
            f"{point.threshold:g}{mark}",
            f"{point.accuracy:.1%}",
            f"{point.seconds:.3f}",
            f"{point.kept:.1%}",
            "-" if point.losses is None else str(point.losses),
        )
    out.print(table)
    out.print(found.claim)
