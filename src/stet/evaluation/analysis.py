"""Analysis of a run: from its records to the summary that a report shows.

Every policy is compared with the reference on the questions that both have answered, with the same
seeds. `docs/statistics.md` explains the numbers.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from stet.core.errors import OptionError, StetError
from stet.core.trace import Counters
from stet.evaluation import statistics
from stet.evaluation.paired import Key, Paired, PairedAnswers, facts_of, signal_value, tables_of
from stet.evaluation.recommend import recommend
from stet.evaluation.records import Answer, Results, Run
from stet.evaluation.statistics import Resamples, divide
from stet.evaluation.summary import (
    Change,
    Estimate,
    PairedDifference,
    PolicySummary,
    SignalHistogram,
    Speed,
    Summary,
    Work,
)

BINS = 20
"""Bins of a signal's histogram."""

_UNFINISHED = {"length", "loop", "timeout", "cancelled", "error"}


def summarise(
    results: Results,
    *,
    cost_ratio: float | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> Summary:
    """Compute the summary of a run.

    Args:
        results: the run; missing answers are left out, and named in the notes. With a folder, its
            traces are read too.
        cost_ratio: cost of a target pass in draft passes, for a modelled speed-up.
        bootstrap: resamples for each interval.
        seed: seed of the resamples; the same seed gives the same intervals.

    Raises:
        OptionError: the cost ratio is not a positive number.
        StetError: the reference has no answer yet, or the records contradict each other.
    """
    if cost_ratio is not None and not (cost_ratio > 0 and math.isfinite(cost_ratio)):
        raise OptionError(f"The cost ratio must be a positive number, not {cost_ratio}.")
    run = results.run
    tables = tables_of(results)
    if not tables[run.reference]:
        raise StetError(
            f"There is nothing to compare with yet: the reference {run.reference!r} has no answers."
        )
    traces = facts_of(results)
    comparisons = [Paired.of(run, entry, tables, traces) for entry in run.policies]
    comparisons = [c for c in comparisons if c.pairs]
    resamples = Resamples(bootstrap, seed)
    differences = _differences(run, comparisons, resamples)
    signals = _signals(comparisons)
    policies = [
        PolicySummary(
            label=c.entry.label,
            name=c.entry.name,
            parameters=c.entry.parameters,
            lossless=c.entry.lossless,
            is_reference=c.is_reference,
            is_primary=c.is_primary,
            answers=len(c.pairs),
            failed=sum(bool(p.mine.error) or p.mine.finish_reason in _UNFINISHED for p in c.pairs),
            accuracy=c.share(lambda p: p.right) if run.graded else None,
            difference=differences.get(c.entry.label),
            same_text=_agreement(c, lambda p: p.mine.text == p.reference.text),
            same_answer=(
                _agreement(c, lambda p: p.mine.answer == p.reference.answer) if run.graded else None
            ),
            speed=_speed(c, cost_ratio, resamples),
            work=_work(c),
            changes=_changes(c),
            signals=signals.get(c.entry.label, []),
            groups=_groups(c) if run.graded else {},
        )
        for c in comparisons
    ]
    asked = len(run.questions) * len(run.seeds)
    summary = Summary(
        task=run.task,
        questions=len(run.questions),
        seeds=run.seeds,
        batch=run.batch,
        reference=run.reference,
        target=str(run.target.get("name", "")),
        draft="lookup" if run.draft is None else str(run.draft.get("name", "")),
        policies=policies,
        complete=all(len(table) == asked for table in tables.values()),
        cost_ratio=cost_ratio,
        recommendation="",
        notes=[],
        machine=run.machine,
        versions=run.versions,
        command=run.command,
        date=run.date,
    )
    summary = replace(summary, notes=_notes(run, tables, summary))
    return replace(summary, recommendation=recommend(summary))


# Parts of a policy's summary


def _agreement(paired: Paired, same: Callable[[PairedAnswers], bool]) -> Estimate:
    if paired.is_reference:
        return Estimate(1.0)
    return paired.share(lambda p: p.timed and same(p))


def _differences(
    run: Run, comparisons: Sequence[Paired], resamples: Resamples
) -> dict[str, PairedDifference]:
    """Differences from the reference by policy, with Holm's correction over the primary ones."""
    if not run.graded:
        return {}
    differences: dict[str, PairedDifference] = {}
    for c in comparisons:
        if c.is_reference:
            continue
        per_seed = [[p for p in c.pairs if p.seed == seed] for seed in run.seeds]
        gained = [sum(p.gained for p in pairs) for pairs in per_seed]
        lost = [sum(p.lost for p in pairs) for pairs in per_seed]
        answers = c.per_question(lambda _: 1)
        differences[c.entry.label] = PairedDifference(
            gain=statistics.gain(
                c.per_question(lambda p: p.gained),
                c.per_question(lambda p: p.lost),
                answers,
                resamples,
            ),
            gained=gained,
            lost=lost,
            p_values=[statistics.mcnemar_p(g, x) for g, x in zip(gained, lost, strict=True)],
            p_adjusted=None,
            detectable=statistics.detectable(
                (sum(gained) + sum(lost)) / len(c.pairs), questions=len(answers)
            ),
        )
    # A comparison without an answer yet stays in the family.
    family = [p.label for p in run.policies if p.label in run.primary and p.label != run.reference]
    largest = [max(differences[x].p_values) if x in differences else 1.0 for x in family]
    for label, p in zip(family, statistics.holm(largest), strict=True):
        if label in differences:
            differences[label] = replace(differences[label], p_adjusted=p)
    return differences


def _speed(paired: Paired, cost_ratio: float | None, resamples: Resamples) -> Speed:
    timed = paired.timed
    seconds = [p.mine.seconds for p in timed]
    target = _mean([p.mine.counters.target_seconds for p in timed])
    draft = _mean([p.mine.counters.draft_seconds for p in timed])
    chunks = paired.chunks
    # An answer's share of its chunk: in a batch it also waits, and waiting is no work.
    whole = divide(
        math.fsum(ours.seconds for ours, _ in chunks), sum(len(ours.answered) for ours, _ in chunks)
    )
    median, p90 = np.quantile(seconds, [0.5, 0.9]) if seconds else (math.nan, math.nan)
    latency = throughput = Estimate(1.0)
    if not paired.is_reference:
        latency = statistics.ratio(
            paired.per_question(lambda p: p.reference.seconds, timed),
            paired.per_question(lambda p: p.mine.seconds, timed),
            resamples,
        )
        throughput = statistics.ratio(
            paired.per_chunk(lambda ours, theirs: theirs.seconds),
            paired.per_chunk(lambda ours, theirs: ours.seconds),
            resamples,
        )
    return Speed(
        seconds=_mean(seconds),
        median_seconds=float(median),
        p90_seconds=float(p90),
        tokens_per_second=divide(
            sum(ours.tokens for ours, _ in chunks), math.fsum(ours.seconds for ours, _ in chunks)
        ),
        latency_speedup=latency,
        throughput_speedup=throughput,
        modelled_speedup=None if cost_ratio is None else _model_speedup(timed, cost_ratio),
        target_seconds=target,
        draft_seconds=draft,
        other_seconds=max(whole - target - draft, 0.0),
    )


def _model_speedup(pairs: Sequence[PairedAnswers], cost_ratio: float) -> float:
    """The speed-up if a target pass cost `cost_ratio` draft passes, and nothing else cost time."""

    def cost(counters: Counters) -> float:
        return counters.target_passes * cost_ratio + counters.draft_passes

    return divide(
        sum(cost(p.reference.counters) for p in pairs), sum(cost(p.mine.counters) for p in pairs)
    )


def _work(paired: Paired) -> Work:
    answers = [p.mine for p in paired.timed]
    total = Counters()
    for answer in answers:
        total.add(answer.counters)
    n = max(len(answers), 1)
    facts = [(a, paired.facts_about(a)) for a in answers]
    by_draft = sum(_draft_tokens(a.counters) if f is None else f.by_draft for a, f in facts)
    accepted_mismatches = [float(f.accepted_mismatches) for _, f in facts if f is not None]
    return Work(
        tokens=total.emitted_tokens / n,
        target_passes=total.target_passes / n,
        draft_passes=total.draft_passes / n,
        target_passes_per_token=divide(total.target_passes, total.emitted_tokens),
        target_tokens=(total.emitted_tokens - by_draft) / n,
        draft_tokens=by_draft / n,
        drafted_tokens=total.drafted_tokens / n,
        acceptance_rate=total.acceptance_rate,
        tokens_per_pass=total.tokens_per_pass,
        accepted_per_position=[accepted / total.drafts for accepted in total.accepted_per_position]
        if total.drafts
        else [],
        accepted_mismatches=_mean(accepted_mismatches) if accepted_mismatches else None,
    )


def _draft_tokens(counters: Counters) -> int:
    """Estimate the emitted tokens that the draft wrote, where there is no trace.

    A pass of the target writes one token at most; the tokens beyond that are the draft's. For a
    token policy these are the accepted tokens, for the draft alone all; for a policy that accepts
    whole steps without a block, this is a lower bound.
    """
    unwritten = counters.emitted_tokens - counters.target_passes
    return min(max(counters.accepted_tokens, unwritten), counters.emitted_tokens)


def _mean(values: Sequence[float]) -> float:
    return divide(math.fsum(values), len(values))


def _changes(paired: Paired) -> list[Change]:
    return [
        Change(p.mine.question, p.seed, p.gained)
        for p in paired.pairs
        if paired.run.graded and p.gained != p.lost
    ]


def _groups(paired: Paired) -> dict[str, Estimate]:
    questions = paired.run.questions
    groups: dict[str, list[PairedAnswers]] = {q.group: [] for q in questions if q.group is not None}
    for pair in paired.pairs:
        group = questions[pair.question].group
        if group is not None:
            groups[group].append(pair)
    return {
        group: paired.share(lambda p: p.right, pairs)
        for group, pairs in sorted(groups.items(), key=lambda item: _natural(item[0]))
        if pairs
    }


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts "2 apples" before "10 apples"."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts if part]


# Signals


def _signals(comparisons: Sequence[Paired]) -> dict[str, list[SignalHistogram]]:
    """Histograms of signals by policy; all policies share the edges of the bins."""
    values: dict[tuple[str, str], dict[str, tuple[list[float], list[float]]]] = {}
    for c in comparisons if comparisons[0].run.graded else []:
        for pair in c.pairs:
            if pair.mine.error:
                continue
            facts = c.facts_about(pair.mine)
            found = [("answers", name, signal_value(x)) for name, x in pair.mine.signals.items()]
            found += [("steps", name, x) for name, x in (facts.steps if facts else [])]
            for of, name, x in found:
                if x is not None:
                    both = values.setdefault((of, name), {}).setdefault(c.entry.label, ([], []))
                    both[0 if pair.right else 1].append(x)
    histograms: dict[str, list[SignalHistogram]] = defaultdict(list)
    for (of, name), by_policy in sorted(values.items()):
        everything = [x for right, wrong in by_policy.values() for x in right + wrong]
        edges = np.histogram_bin_edges(everything, BINS)
        for label, (right, wrong) in by_policy.items():
            histograms[label].append(
                SignalHistogram(
                    name=name,
                    of=of,
                    edges=[float(x) for x in edges],
                    right=[int(x) for x in np.histogram(right, edges)[0]],
                    wrong=[int(x) for x in np.histogram(wrong, edges)[0]],
                    auc=statistics.separation(right, wrong),
                )
            )
    return histograms


# Notes


def _notes(run: Run, tables: Mapping[str, Mapping[Key, Answer]], summary: Summary) -> list[str]:
    """Notes for readers of the numbers."""
    notes = [run.note] if run.note else []
    asked = len(run.questions) * len(run.seeds)
    missing = [f"{x} has {len(t)} of {asked}" for x, t in tables.items() if len(t) < asked]
    if missing:
        notes.append(
            f"The run is incomplete ({', '.join(missing)} answers). Each policy is compared with "
            "the reference on the questions that both have answered; a policy without any is left "
            "out."
        )
    for label, table in tables.items():
        keys = [(q.id, seed) for q in run.questions for seed in run.seeds]
        errors = [error for k in keys if k in table and (error := table[k].error)]
        if errors:
            notes.append(
                f"{label} failed in {len(errors)} of {len(table)} answers (first: {errors[0]}) "
                "They count as wrong, and are left out of all measures of speed and work."
            )
    if not run.graded:
        notes.append("The task has no grader: policies are compared by speed and agreement only.")
    primary = [p for p in summary.policies if p.is_primary and p.difference]
    if primary:
        notes.append(
            "P-values are of McNemar's exact test"
            + (", the largest over the seeds," if len(run.seeds) > 1 else "")
            + " after Holm's correction over the comparisons declared beforehand: "
            + f"{', '.join(p.label for p in primary)}. All others are exploratory."
        )
    for policy in primary:
        detectable = policy.difference.detectable if policy.difference else None
        if detectable is not None:
            notes.append(
                f"{policy.label}: as often as grades differed, this many questions show a "
                f"difference of {100 * detectable:.1f} points four times in five (one seed, 5 %, "
                "before Holm's correction); smaller ones are likely to go unnoticed."
            )
    if any(
        x.low is None
        for p in summary.policies
        if not p.is_reference
        for x in (p.speed.latency_speedup, p.speed.throughput_speedup)
    ):
        notes.append(
            f"A speed-up of fewer than {statistics.FEWEST} questions (latency) or chunks "
            "(throughput) has no interval."
        )
    return notes
