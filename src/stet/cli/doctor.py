"""`stet doctor`: is this pair worth using, and how?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from stet.cli import options as o
from stet.cli.chat import ChatOptions, put_into_chat
from stet.cli.doctor_options import PromptOptions, ShortSamplingOptions
from stet.cli.doctor_tables import print_costs, print_differences, print_forecasts, print_pair
from stet.cli.groups import with_groups
from stet.cli.output import out, print_json, progress
from stet.cli.sampling import SamplingOptions

if TYPE_CHECKING:
    from stet.doctor.differences import Difference
    from stet.doctor.doctor import Diagnosis
    from stet.pair import Pair
    from stet.requests.inputs import Prompt

LEAST = 20.0
"""Seconds of measuring, at least, however long loading took."""

MARKS = {"use": "bold green", "marginal": "bold yellow", "avoid": "bold red"}


@with_groups
def command(
    models: o.ModelOptions,
    prompts: PromptOptions,
    chat: ChatOptions,
    sampling: ShortSamplingOptions,
    as_json: o.AsJson = False,
) -> None:
    """Measure whether speculation pays for a pair, on this machine and your prompts.

    Checks that the models fit together and into memory, measures the cost of a
    pass of each, counts how often drafted tokens are accepted, and computes the
    expected speed-up of every block length. Says plainly when a pair should not
    be used, and why; the exit code is then 1. Counts texts that are not the
    target's own, and says whether rounding explains them.
    """
    began = perf_counter()
    models = models.resolve()
    from stet.doctor.examining import check

    texts, source = prompts.read()
    how = chat.settings()
    pair = o.load(models, max_batch=prompts.batch)
    check(pair)
    inputs = put_into_chat(pair, texts, chat.in_chat, how)
    record = describe_pair(pair)
    if not as_json:
        print_pair(record)
    seconds = max(prompts.seconds - (perf_counter() - began), LEAST)
    examined = _examine(pair, inputs, sampling, prompts.batch, seconds)
    if as_json:
        print_json({**record, **_describe(examined, source, sampling.temperature, prompts.batch)})
    else:
        _print_findings(examined, source, prompts.batch, record["models"][0]["dtype"])
    if examined.diagnosis.verdict == "avoid" or examined.faults:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Examined:
    """What is found about a pair.

    Attributes:
        diagnosis: costs, acceptance, forecasts and advice.
        prompts: number of prompts that were measured with.
        differences: texts that are not the target's own; None where answers are sampled, and may
            differ.
    """

    diagnosis: Diagnosis
    prompts: int
    differences: list[Difference] | None

    @property
    def faults(self) -> list[Difference]:
        """The differences that rounding does not explain."""
        return [each for each in self.differences or [] if not each.is_rounding]


def _examine(
    pair: Pair, prompts: Sequence[Prompt], sampling: SamplingOptions, batch: int, seconds: float
) -> Examined:
    """Answer the prompts with and without a draft, and compare."""
    from stet.doctor import doctor
    from stet.doctor.differences import differences
    from stet.doctor.examining import MEASURED, examine
    from stet.engine.load import Others

    began = perf_counter()
    others = Others()
    # What `draft_length="auto"` goes by is measured, too, and kept for it.
    passes = pair.costs if pair.draft is not None and batch == 1 else None
    with progress("Measuring") as show:
        plain, speculative = examine(
            pair,
            prompts,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            batch=batch,
            # Some is left for looking at texts that differ.
            seconds=0.9 * seconds - (perf_counter() - began),
            on_progress=show,
        )
    lacking = len(speculative) < len(MEASURED)
    diagnosis = doctor.diagnose(
        plain, speculative, passes if lacking else None, disturbed=others.disturb()
    )
    answers = plain.whole.traces
    parted: list[Difference] | None = None
    if sampling.temperature == 0:
        other = speculative[diagnosis.measured_length].whole.traces
        parted = differences(pair, prompts, answers, other, batch=batch)
    return Examined(diagnosis, len(answers), parted)


def _describe(examined: Examined, source: str, temperature: float, batch: int) -> dict[str, Any]:
    """The findings, for JSON."""
    return {
        "prompts": source,
        "prompt_count": examined.prompts,
        "batch": batch,
        "temperature": temperature,
        "acceptance_rate": examined.diagnosis.acceptance.rate,
        **asdict(examined.diagnosis),
        "differing_texts": [asdict(difference) for difference in examined.differences or []],
    }


def _print_findings(examined: Examined, source: str, batch: int, dtype: str) -> None:
    diagnosis = examined.diagnosis
    print_costs(diagnosis, f"{examined.prompts} {source}, batches of {batch}")
    print_forecasts(diagnosis)
    if examined.differences is not None:
        print_differences(examined.differences, examined.prompts, dtype)
    if diagnosis.disturbed:
        out.print(
            "Other work held the machine's cores meanwhile, so these figures are of both; measure "
            "again when it is quiet.",
            style="yellow",
        )
    out.print(diagnosis.advice, style=MARKS[diagnosis.verdict])


def describe_pair(pair: Pair) -> dict[str, Any]:
    """The models of a pair, and its memory plan, for JSON."""
    import psutil

    models = pair.models
    return {
        "models": [
            {
                "role": model.role,
                "name": model.name,
                "parameters": sum(weight.numel() for weight in model.model.parameters()),
                "dtype": str(model.dtype).removeprefix("torch."),
                "device": str(model.device),
                "context": model.max_length,
                "vocabulary": model.vocab_size,
            }
            for model in models
        ],
        "memory": {
            **asdict(pair.memory),
            "tokens": pair.memory.tokens,
            "total": pair.memory.total,
            "made": [runner.cache.nbytes for runner in pair.engine.runners.values()],
            "process": psutil.Process().memory_info().rss,
        },
    }
