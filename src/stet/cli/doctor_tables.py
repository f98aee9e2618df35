"""Tables of `stet doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.cli.output import a_table, number, out

if TYPE_CHECKING:
    from stet.doctor.differences import Difference
    from stet.doctor.doctor import Diagnosis

SHOWN = 5
"""The most differing texts that are listed."""


def print_pair(record: dict[str, Any]) -> None:
    """Print the models of a pair, and its memory plan."""
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
    title = (
        f"Memory plan, in MB: caches of {plan['tokens']:,} tokens, "
        f"up to {plan['max_length']:,} in a sequence"
    )
    table = a_table(title, "", "weights", "caches", "made so far", "workspace", "device")
    for model, made in zip(plan["models"], plan["made"], strict=True):
        sizes = (model["weights"], model["cache"], made, model["workspace"])
        table.add_row(model["role"], *[f"{size / 1e6:.1f}" for size in sizes], model["device"])
    out.print(table)
    free = ", ".join(f"{size / 1e6:.0f} on {name}" for name, size in plan["available"].items())
    out.print(
        f"{plan['total'] / 1e6:.1f} MB in all; free at load: {free}. "
        f"This process takes {plan['process'] / 1e6:.0f} MB now.\n"
    )


def print_costs(diagnosis: Diagnosis, source: str) -> None:
    """Print the costs of passes, and how many drafted tokens are accepted."""
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


def print_forecasts(diagnosis: Diagnosis) -> None:
    """Print the expected speed-up of every block length."""
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


def print_differences(parted: list[Difference], count: int, dtype: str) -> None:
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
