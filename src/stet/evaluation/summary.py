"""The content of a report, as typed records: the source of every table, plot and file.

`analysis.summarise` computes it from the records of a run; nothing in a report is computed
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; the interval is None where one cannot be given.

    The number itself is nan where there is no data.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A policy's accuracy minus the reference's, on the same questions.

    Attributes:
        gain: the difference, with a bootstrap interval clustered by question.
        gained: questions right with the policy and wrong with the reference, per seed.
        lost: questions wrong with the policy and right with the reference, per seed.
        p_values: McNemar's exact test, per seed; seeds are never pooled.
        p_adjusted: the largest of these over the seeds, after Holm's correction over the primary
            comparisons; None where the comparison was not declared beforehand.
        detectable: the smallest difference that so many questions find with 80 % power at 5 %,
            given the discordance seen; None where nothing differs, or too few were asked.
    """

    gain: Estimate
    gained: list[int]
    lost: list[int]
    p_values: list[float]
    p_adjusted: float | None
    detectable: float | None


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a policy. A number is nan where no answer or chunk could be timed for it.

    Attributes:
        seconds: mean seconds of an answer.
        median_seconds: median seconds of an answer.
        p90_seconds: 90th percentile of the seconds of an answer.
        tokens_per_second: emitted tokens per second of wall clock, all questions together.
        latency_speedup: the reference's seconds over the policy's, summed over the same questions.
        throughput_speedup: the reference's wall clock over the policy's, summed over whole chunks.
        modelled_speedup: speed-up computed from the counters where a target pass costs the given
            number of draft passes; None where no ratio was given.
        target_seconds: mean machine seconds of an answer in the target: its share of each pass.
        draft_seconds: mean machine seconds of an answer in the draft.
        other_seconds: mean machine seconds of an answer elsewhere. The three sum up to a chunk's
            wall clock over its answers.
    """

    seconds: float
    median_seconds: float
    p90_seconds: float
    tokens_per_second: float
    latency_speedup: Estimate
    throughput_speedup: Estimate
    modelled_speedup: float | None
    target_seconds: float
    draft_seconds: float
    other_seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a policy, independent of the machine; means are per answer.

    Attributes:
        tokens: emitted tokens.
        target_passes: forward passes of the target.
        draft_passes: forward passes of the draft.
        target_passes_per_token: passes per emitted token.
        target_tokens: emitted tokens that the target wrote.
        draft_tokens: emitted tokens that the draft wrote.
        drafted_tokens: tokens that the draft proposed.
        acceptance_rate: share of drafted tokens that were accepted; None where none was drafted.
        tokens_per_pass: emitted tokens per target pass; None without one.
        accepted_per_position: share of blocks whose i-th token was accepted.
        accepted_mismatches: draft tokens accepted against the target's own choice; None without
            traces.
    """

    tokens: float
    target_passes: float
    draft_passes: float
    target_passes_per_token: float
    target_tokens: float
    draft_tokens: float
    drafted_tokens: float
    acceptance_rate: float | None
    tokens_per_pass: float | None
    accepted_per_position: list[float]
    accepted_mismatches: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A question whose grade differs from the reference's.

    Attributes:
        question: id of the question.
        seed: seed of both answers.
        gained: True: right with the policy, wrong with the reference; False: the reverse.
    """

    question: str
    seed: int
    gained: bool


@dataclass(frozen=True, slots=True)
class SignalHistogram:
    """The distribution of a signal over right and wrong answers (or their steps).

    Attributes:
        name: name of the signal.
        of: "answers" or "steps".
        edges: the bins' edges, one more than bins.
        right: counts where the answer is right.
        wrong: counts where the answer is wrong.
        auc: probability that a right one has the larger value; None without both kinds.
    """

    name: str
    of: str
    edges: list[float]
    right: list[int]
    wrong: list[int]
    auc: float | None


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """Everything about one policy of a run.

    Attributes:
        label: the policy's label.
        name: the policy's own name.
        parameters: the values of its parameters.
        lossless: whether it guarantees the target's own distribution.
        is_reference: whether the others are compared to it.
        is_primary: whether its comparison was declared beforehand.
        answers: number of answers to questions that the reference has answered too.
        failed: number of answers that failed or ran out of tokens.
        accuracy: share of right answers, Wilson's interval with one seed, clustered by question
            with several; None without a grader.
        difference: difference from the reference's accuracy; None for the reference itself or
            without a grader.
        same_text: share of answers with the reference's own text.
        same_answer: share of answers equal to the reference's.
        speed: its speed.
        work: its work.
        changes: questions whose grade differs from the reference's.
        signals: histograms of its signals.
        groups: accuracy per group of questions, where the task has groups.
    """

    label: str
    name: str
    parameters: dict[str, Any]
    lossless: bool
    is_reference: bool
    is_primary: bool
    answers: int
    failed: int
    accuracy: Estimate | None
    difference: PairedDifference | None
    same_text: Estimate
    same_answer: Estimate | None
    speed: Speed
    work: Work
    changes: list[Change] = field(default_factory=list[Change])
    signals: list[SignalHistogram] = field(default_factory=list[SignalHistogram])
    groups: dict[str, Estimate] = field(default_factory=dict[str, Estimate])


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole report.

    Attributes:
        task: name of the task.
        questions: number of questions.
        seeds: the seeds.
        batch: questions at a time.
        reference: label of the reference.
        target: name of the target.
        draft: name of the draft, "lookup" for none.
        policies: the summaries of the policies that have answers, in the order of the run.
        complete: whether every policy has answered every question.
        cost_ratio: the cost of a target pass in draft passes that the user gave, if any.
        recommendation: the recommendation, one paragraph.
        notes: notes for readers of the numbers (power, the bundled pair, missing answers).
        machine: the machine it ran on.
        versions: versions of the software.
        command: the command line.
        date: start of the run.
    """

    task: str
    questions: int
    seeds: list[int]
    batch: int
    reference: str
    target: str
    draft: str
    policies: list[PolicySummary]
    complete: bool
    cost_ratio: float | None
    recommendation: str
    notes: list[str]
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    date: str
