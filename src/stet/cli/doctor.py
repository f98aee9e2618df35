"""`stet doctor`: is this pair worth using, and how?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stet.cli import chat as chats
from stet.cli import options as o
from stet.cli.output import a_table, number, out, print_json, progress

if TYPE_CHECKING:
    from stet.doctor.differences import Difference
    from stet.doctor.doctor import Diagnosis
    from stet.pair import Pair

PATIENCE = 300.0
"""Seconds after which no further prompts are measured with."""

SHOWN = 5
"""The most differing texts that are listed."""

MARKS = {"use": "bold green", "marginal": "bold yellow", "avoid": "bold red"}


def command(
    both: o.Both = None,
    target: o.Target = None,
    draft: o.Draft = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="Prompts like those you will serve, one per line (or JSON lines). "
            "Without it: samples that come with Stet.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Use at most so many prompts.")] = 8,
    batch: Annotated[
        int, typer.Option(min=1, help="Prompts decoded together: the load you expect.")
    ] = 1,
    chat: chats.InChat = None,
    system: chats.System = None,
    template_arg: chats.TemplateArg = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            "-n",
            min=1,
            help="Longest answer.",
            rich_help_panel=o.SAMPLING,
            show_default="96, or what fits",
        ),
    ] = None,
    temperature: o.Temperature = 0.0,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    revision: o.Revision = None,
    draft_revision: o.DraftRevision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    self_check: o.SelfCheck = True,
    max_length: o.MaxLength = None,
    compile: o.Compile = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure whether speculation pays for a pair, on this machine and your prompts.

    Checks that the models fit together and into memory, measures the cost of a
    pass of each, counts how often drafted tokens are accepted, and computes the
    expected speed-up of every block length. Says plainly when a pair should not
    be used, and why; the exit code is then 1. Counts texts that are not the
    target's own, and says whether rounding explains them.
    """
    target, draft = o.models_of(both, target, draft)
    from stet.doctor import doctor
    from stet.doctor.differences import differences

    texts, source = _samples(prompts, limit)
    how = chats.chat_of(chat, system, template_arg)
    pair = o.load(
        target,
        draft,
        max_batch=batch,
        compile=compile,
        dtype=dtype,
        device=device,
        revision=revision,
        draft_revision=draft_revision,
        trust_remote_code=trust_remote_code,
        self_check=self_check,
        max_length=max_length,
    )
    doctor.check(pair)
    inputs = chats.inputs(pair, texts, chat, how)
    record = describe_pair(pair)
    if not as_json:
        _print_pair(record)
    with progress("Measuring") as show:
        plain, speculative = doctor.examine(
            pair,
            inputs,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch=batch,
            patience=PATIENCE,
            on_progress=show,
        )
    diagnosis = doctor.diagnose(plain, speculative)
    answers = plain.whole.traces
    parted: list[Difference] = []
    if temperature == 0:
        other = speculative[diagnosis.measured_length].whole.traces
        parted = differences(pair, inputs, answers, other, batch=batch)
    if as_json:
        print_json(
            {
                **record,
                "prompts": source,
                "prompt_count": len(answers),
                "batch": batch,
                "temperature": temperature,
                "acceptance_rate": diagnosis.acceptance.rate,
                **asdict(diagnosis),
                "differing_texts": [asdict(difference) for difference in parted],
            }
        )
    else:
        _print_costs(diagnosis, f"{len(answers)} {source}, batches of {batch}")
        _print_forecasts(diagnosis)
        if temperature == 0:
            _print_differences(parted, len(answers), record["models"][0]["dtype"])
        out.print(diagnosis.advice, style=MARKS[diagnosis.verdict])
    if diagnosis.verdict == "avoid" or not all(each.is_rounding for each in parted):
        raise typer.Exit(1)


def _samples(file: Path | None, limit: int) -> tuple[list[str], str]:
    """Prompts to measure with, and a description of their source."""
    if file is not None:
        return o.prompts_in(file)[:limit], f"prompts of {file}"
    from stet.bundled import generate

    problems = generate("stories", "calibration", limit)
    return [problem.text for problem in problems], "word problems that come with Stet"


def _print_costs(diagnosis: Diagnosis, source: str) -> None:
    costs = diagnosis.costs
    single = costs.target_pass(1)
    out.print(f"Measured with {source}.\n")
    table = a_table("Costs of a pass", "", "milliseconds", "of a target pass")
    rows = [(f"target, {n} token{'s' * (n > 1)}", costs.target[n]) for n in sorted(costs.target)]
    rows += [("draft, 1 token", costs.draft), ("a round, beside both", costs.overhead)]
    for label, seconds in rows:
        table.add_row(label, f"{1000 * seconds:.2f}", f"{seconds / single:.2f}")
    out.print(table)
    shares = " ".join(f"{share:.0%}" for share in diagnosis.acceptance.accepted_share)
    out.print(
        f"\nAcceptance: {diagnosis.acceptance.rate:.0%} of drafted tokens are accepted where those "
        f"before them were.\nAccepted by position in the block: {shares}\n"
    )


def _print_forecasts(diagnosis: Diagnosis) -> None:
    title = "Expected, by drafted tokens per block (K)"
    table = a_table(title, "K", "tokens per pass", "tokens/s", "speed-up", "")
    for row in diagnosis.forecasts:
        is_best = row is diagnosis.best
        table.add_row(
            str(row.draft_length),
            number(row.tokens_per_pass),
            number(row.tokens_per_second, ".1f" if row.tokens_per_second < 10 else ".0f"),
            f"{row.speedup:.2f}x",
            "best" if is_best else "",
            style="bold" if is_best else None,
        )
    out.print(table)
    out.print(
        f"\nMeasured with K = {diagnosis.measured_length}: {diagnosis.measured_speedup:.2f}x, "
        "prompts included."
    )


def _print_differences(parted: list[Difference], count: int, dtype: str) -> None:
    """Print how many texts are not the target's own, where they differ, and whether it matters."""
    out.print(f"The target's own text on {count - len(parted)} of {count} prompts, in {dtype}.\n")
    if not parted:
        return
    title = "Where texts differ from the target's own"
    table = a_table(title, "prompt", "token", "target's", "instead", "margin, nats")
    for each in sorted(parted, key=lambda each: each.is_rounding)[:SHOWN]:
        table.add_row(
            str(each.prompt + 1),
            str(each.position + 1),
            repr(each.target),
            repr(each.other),
            "not found again" if each.margin is None else number(each.margin),
            style=None if each.is_rounding else "bold red",
        )
    out.print(table)
    faults = [each for each in parted if not each.is_rounding]
    if faults:
        out.print(
            f"{len(faults)} of these are more than rounding in {dtype} explains: the target's "
            "margin is too large there. This model is not run faithfully here; please report it.",
            style="bold red",
        )
    else:
        out.print(
            "The margin is how much more probable the target finds its own token than the second "
            f"best. Where it is this small, rounding in {dtype} decides: a pass over a block sums "
            "in another order than a pass over a single token. In float32 this is rare."
        )
    out.print()


def describe_pair(pair: Pair) -> dict[str, Any]:
    """The models of a pair, and its memory plan, for JSON."""
    from stet.core.draft_length import LONGEST
    from stet.models.memory import plan_memory
    from stet.pair import SPARE_ROWS

    models = pair.models
    plan = plan_memory(
        models[0],
        pair.draft,
        max_rows=pair.max_rows + SPARE_ROWS,
        max_length=pair.max_length,
        block=LONGEST,
    )
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
        "memory": {**asdict(plan), "total": plan.total},
    }


def _print_pair(record: dict[str, Any]) -> None:
    table = a_table("Models", "", "name", "parameters", "dtype", "device", "context")
    for model in record["models"]:
        table.add_row(
            model["role"],
            Path(model["name"]).name,
            f"{model['parameters'] / 1e6:.1f} M",
            model["dtype"],
            model["device"],
            "any" if model["context"] is None else f"{model['context']} tokens",
        )
    out.print(table)
    tokenizers = "They share one tokenizer and run" if len(record["models"]) == 2 else "It runs"
    out.print(f"{tokenizers} faithfully with Stet's attention and cache.\n")

    plan = record["memory"]
    title = f"Memory plan, in MB: {plan['max_rows']} x {plan['max_length']} tokens"
    table = a_table(title, "", "weights", "caches", "workspace", "device")
    for model in plan["models"]:
        sizes = [f"{model[use] / 1e6:.1f}" for use in ("weights", "cache", "workspace")]
        table.add_row(model["role"], *sizes, model["device"])
    out.print(table)
    free = ", ".join(f"{size / 1e6:.0f} on {name}" for name, size in plan["available"].items())
    out.print(f"{plan['total'] / 1e6:.1f} MB in all; free now: {free}.\n")
