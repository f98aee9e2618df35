"""The main table for every form of the report: its columns, and the format of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stet.evaluation.summary import Estimate, PairedDifference, PolicySummary, Summary
from stet.pages.words import MISSING, number, plural


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text, with its interval where it has one."""

    text: str
    interval: str = ""

    @property
    def line(self) -> str:
        """The value and its interval in one line."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the main table.

    Attributes:
        heading: heading with the unit.
        short: heading in two lines, for a terminal.
        meaning: one sentence on the meaning.
        rank: 0 for the column that is dropped last where space is short.
        cell: makes the cell of a policy.
    """

    heading: str
    short: str
    meaning: str
    rank: int
    cell: Callable[[PolicySummary], Cell]


def interval(estimate: Estimate, form: str = ".2f", scale: float = 1.0) -> str:
    """An interval as text, empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = number(estimate.low * scale, form), number(estimate.high * scale, form)
    between = ", " if form.startswith("+") else "–"
    return f"{low}{between}{high}"


def estimate_cell(estimate: Estimate | None, form: str = ".2f", scale: float = 1.0) -> Cell:
    """A number and its interval."""
    if estimate is None:
        return Cell(MISSING)
    return Cell(number(estimate.value * scale, form), interval(estimate, form, scale))


def p_value(value: float | None) -> str:
    """A p-value as text; "<0.001" for small ones."""
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def role(policy: PolicySummary) -> str:
    """The role of a policy in this comparison, in a word."""
    if policy.is_reference:
        return "reference"
    return "lossless" if policy.lossless else ""


def per_seed(numbers: list[int]) -> str:
    """One number for each seed, as text."""
    return " / ".join(str(number) for number in numbers) or MISSING


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, ".0f")


def _shares(value: Estimate | None) -> Cell:
    return Cell(_percent(None if value is None else value.value))


def _difference(difference: PairedDifference | None) -> Cell:
    return estimate_cell(None if difference is None else difference.gain, "+.1f", 100)


def _p_adjusted(difference: PairedDifference | None) -> Cell:
    return Cell(p_value(None if difference is None else difference.p_adjusted))


def columns(summary: Summary) -> list[Column]:
    """The columns that have numbers for this run, in their order."""
    policies = summary.policies
    graded = any(policy.accuracy is not None for policy in policies)
    compared = any(policy.difference is not None for policy in policies)
    tested = any(p.difference is not None and p.difference.p_adjusted is not None for p in policies)
    failed = any(policy.failed for policy in policies)
    modelled = any(policy.speed.modelled_speedup is not None for policy in policies)
    reference = summary.reference
    found: list[tuple[bool, Column]] = [
        (
            True,
            Column(
                "policy",
                "policy",
                "Lossless policies guarantee the distribution of the target's own text, up to "
                "rounding.",
                0,
                lambda p: Cell(p.label, role(p)),
            ),
        ),
        (
            graded,
            Column(
                "accuracy, %",
                "accuracy\n%",
                "Share of right answers.",
                1,
                lambda p: estimate_cell(p.accuracy, ".1f", 100),
            ),
        ),
        (
            compared,
            Column(
                "difference, points",
                "difference\npoints",
                f"Accuracy minus that of {reference}, on the same questions.",
                3,
                lambda p: _difference(p.difference),
            ),
        ),
        (
            tested,
            Column(
                "p, adjusted",
                "p\n(adj.)",
                "McNemar's exact test, the largest over the seeds, with Holm's correction; only of "
                "comparisons declared beforehand.",
                4,
                lambda p: _p_adjusted(p.difference),
            ),
        ),
        (
            True,
            Column(
                "speed-up, times",
                "speed-up\ntimes",
                f"Seconds of {reference} over those of the policy, summed over the same questions.",
                2,
                lambda p: estimate_cell(p.speed.latency_speedup),
            ),
        ),
        (
            True,
            Column(
                "throughput, times",
                "throughput\ntimes",
                f"Wall clock of {reference} over that of the policy, summed over whole batches.",
                12,
                lambda p: estimate_cell(p.speed.throughput_speedup),
            ),
        ),
        (
            modelled,
            Column(
                "modelled, times",
                "modelled\ntimes",
                f"Speed-up by the counters alone, a target pass costing "
                f"{number(summary.cost_ratio, 'g')} draft passes.",
                8,
                lambda p: Cell(number(p.speed.modelled_speedup)),
            ),
        ),
        (
            True,
            Column(
                "tokens/s",
                "tokens\n/s",
                "Emitted tokens per second of wall clock, all questions together.",
                5,
                lambda p: Cell(number(p.speed.tokens_per_second, ".0f")),
            ),
        ),
        (
            True,
            Column(
                "acceptance, %",
                "accepted\n%",
                "Share of the drafted tokens that were accepted.",
                6,
                lambda p: Cell(_percent(p.work.acceptance_rate)),
            ),
        ),
        (
            True,
            Column(
                "tokens/pass",
                "tokens\n/pass",
                "Emitted tokens per forward pass of the target.",
                7,
                lambda p: Cell(number(p.work.tokens_per_pass)),
            ),
        ),
        (
            True,
            Column(
                "passes/token",
                "passes\n/token",
                "Forward passes of the target per emitted token.",
                11,
                lambda p: Cell(number(p.work.target_passes_per_token)),
            ),
        ),
        (
            any(policy.same_answer is not None for policy in policies),
            Column(
                "same answer, %",
                "same\nanswer %",
                f"Share of answers equal to that of {reference}.",
                9,
                lambda p: _shares(p.same_answer),
            ),
        ),
        (
            True,
            Column(
                "same text, %",
                "same\ntext %",
                f"Share of texts equal to that of {reference}.",
                10,
                lambda p: _shares(p.same_text),
            ),
        ),
        (
            failed,
            Column(
                "failed",
                "failed",
                "Answers that failed or ran out of tokens.",
                5,
                lambda p: Cell(str(p.failed)),
            ),
        ),
    ]
    return [column for shown, column in found if shown]


def heading(summary: Summary) -> str:
    """The settings of the run, in one line."""
    seeds = len(summary.seeds)
    draft = "drafts looked up in the text" if summary.draft == "lookup" else summary.draft
    return (
        f"{plural(summary.questions, 'question')}, {plural(seeds, 'seed')}, "
        f"batch {summary.batch}; target {summary.target}, draft {draft}"
    )


INTERVALS = "Intervals are at 95 %."
INCOMPLETE = "Incomplete: not every policy has answered every question."
