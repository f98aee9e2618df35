"""`stet tune-draft`: tune the draft, so that it writes more of what its target would."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stet.cli import fit_options, train_options
from stet.cli import options as o
from stet.cli.chat import ChatOptions, announce, goes_into_chat, template_of
from stet.cli.groups import OptionGroup, with_groups
from stet.cli.options import AsJson
from stet.cli.output import a_table, out, print_json, stages
from stet.core.errors import OptionError
from stet.core.folders import SETTINGS
from stet.core.writing import check_writable

if TYPE_CHECKING:
    from stet.tuning import Example, Tuned, TuneRequest

HELD_OUT = 0.1
"""Share of a user's examples that are kept for validation."""


@dataclass(frozen=True, slots=True)
class TaskOptions(train_options.TaskOptions):
    """The questions whose answers by the target are learned; right answers are not needed."""

    task: Annotated[
        str, typer.Option("--task", help="A task, or a JSONL file; answers are not needed.")
    ] = "stories"
    problems: Annotated[
        int, typer.Option("--problems", "-n", min=20, help="Questions to learn from.")
    ] = 800
    validation: Annotated[
        int, typer.Option(min=16, help="Questions by which the best state is chosen.")
    ] = 60
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Learn from examples of your own instead: JSONL with prompt and answer, or with "
            "messages.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class LearningOptions(OptionGroup):
    """How the draft learns."""

    panel = "Training"

    rank: Annotated[int, typer.Option(min=1, help="Rank of the low-rank updates.")] = 16
    epochs: Annotated[float, typer.Option(help="Times that every example is seen.")] = 2.0
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-4
    step_examples: Annotated[int, typer.Option(min=1, help="Examples of an optimiser step.")] = 16


@dataclass(frozen=True, slots=True)
class OutputOptions(OptionGroup):
    """Where the adapter is written, and what it is made from."""

    output: Annotated[
        Path, typer.Option("--output", "--out", "-o", help="Folder of the adapter.")
    ] = Path("tuned-draft")
    folder: Annotated[
        Path | None, fit_options.work_folder("tuning", "the target's answers and the state")
    ] = None
    as_json: AsJson = False

    @property
    def place(self) -> Path:
        """The folder of answers and state."""
        return self.folder or Path("tuning") / self.output.name


@with_groups
def command(
    task: TaskOptions,
    chat: ChatOptions,
    learning: LearningOptions,
    run: train_options.RunOptions,
    output: OutputOptions,
    models: o.ModelOptions,
) -> None:
    """Tune the draft on its target's own texts, so that more of its tokens are accepted.

    Has the target answer questions, tunes the draft on the answers by low-rank updates (LoRA), and
    writes an adapter: `stet generate -t BIG -d tuned-draft`. With --examples it learns from texts
    of your own instead. An interrupted run goes on where it stopped.
    """
    models = models.resolve()
    if models.target is None or models.draft in (None, "lookup"):
        raise OptionError("Name both models: --target, and the draft that is to be tuned.")
    for path in (output.place / SETTINGS, output.output / "adapter_config.json"):
        check_writable(path, parents=True)
    request = _make_request(models, task, chat, learning, run, output)
    found = _tune(models, request, output)
    if output.as_json:
        print_json(asdict(found))
        return
    _show(found)
    out.print(f"\nWritten: {output.output}; use it as `-t {models.target} -d {output.output}`.")


def _make_request(
    models: o.ModelOptions,
    task: TaskOptions,
    chat: ChatOptions,
    learning: LearningOptions,
    run: train_options.RunOptions,
    output: OutputOptions,
) -> TuneRequest:
    from stet.tuning import TuneRequest

    learned, checked = _collect(models, task, chat, run, output.place)
    return TuneRequest(
        learned,
        checked,
        rank=learning.rank,
        epochs=learning.epochs,
        rate=learning.rate,
        batch=learning.step_examples,
        seed=run.seed,
    )


def _collect(
    models: o.ModelOptions,
    task: TaskOptions,
    chat: ChatOptions,
    run: train_options.RunOptions,
    folder: Path,
) -> tuple[list[Example], list[Example]]:
    """The examples to learn and those to validate on; the pair is closed then."""
    from stet.tuning import read_examples, write_examples
    from stet.tuning.examples import divide

    questions = None if task.examples is not None else task.load(chat, run.seed)
    with o.load(models, max_batch=run.batch, compile_default=False) as pair:
        if pair.difference is not None:
            raise OptionError(
                f"{pair.difference}; a draft learns the target's tokens: choose one of its family."
            )
        if questions is None:
            assert task.examples is not None
            settings = chat.settings()
            in_chat = goes_into_chat(pair, chat.in_chat, settings)
            given = read_examples(pair, task.examples, settings if in_chat else None)
            return divide(given, HELD_OUT)
        suited = [part.suited(pair) for part in questions]
        if suited[0].chat is not None:
            announce(template_of(pair))
        with stages() as tell:
            learned, checked = (
                write_examples(pair, part, folder / name, run.batch, tell)
                for name, part in zip(("learned", "validation"), suited, strict=True)
            )
        return learned, checked


def _tune(models: o.ModelOptions, request: TuneRequest, output: OutputOptions) -> Tuned:
    from stet.models.loading import device_of
    from stet.tuning import tune

    assert models.draft is not None
    with stages() as tell:
        return tune(
            models.draft,
            request,
            output.place,
            output.output,
            tell,
            revision=models.draft_revision,
            device=device_of(models.device),
        )


def _show(found: Tuned) -> None:
    table = a_table("On the validation examples", "step", "nats per token", "the target's token")
    for check in found.checks:
        chosen = " <" if check == found.best else ""
        table.add_row(f"{check.step}{chosen}", f"{check.loss:.3f}", f"{check.agreement:.1%}")
    out.print(table)
