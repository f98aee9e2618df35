"""A policy's answers paired with the reference's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stet.core.errors import StetError
from stet.evaluation import records, statistics
from stet.evaluation.records import Answer, PolicyEntry, Results, Run
from stet.evaluation.summary import Estimate

Key = tuple[str, int]
"""Question and seed."""


@dataclass(frozen=True, slots=True)
class PairedAnswers:
    """An answer and the reference's answer to the same question with the same seed."""

    question: int
    seed: int
    mine: Answer
    reference: Answer

    @property
    def right(self) -> bool:
        """Whether this answer is right; a failed answer is wrong."""
        return _right(self.mine)

    @property
    def gained(self) -> bool:
        """Whether only this answer is right."""
        return self.right and not _right(self.reference)

    @property
    def lost(self) -> bool:
        """Whether only the reference's answer is right."""
        return _right(self.reference) and not self.right

    @property
    def timed(self) -> bool:
        """Whether both answers ended without an error, so that their times can be compared."""
        return not (self.mine.error or self.reference.error)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts for the report from an answer's trace."""

    tokens: int
    by_draft: int
    accepted_mismatches: int
    steps: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class PairedChunk:
    """The answers of one policy that were decoded in one batch, and their time in all."""

    answered: frozenset[str]
    failed: frozenset[str]
    seconds: float
    tokens: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Paired:
    """A policy's answers paired with the reference's, in the order of the questions and seeds."""

    run: Run
    entry: PolicyEntry
    pairs: list[PairedAnswers]
    chunks: list[tuple[PairedChunk, PairedChunk]]
    facts: Mapping[Key, Facts] = field(default_factory=dict[Key, Facts])

    @classmethod
    def of(
        cls,
        run: Run,
        entry: PolicyEntry,
        tables: Mapping[str, Mapping[Key, Answer]],
        traces: Mapping[str, Mapping[Key, Facts]],
    ) -> Paired:
        """Pair the answers of this entry's policy with those of the run's reference."""
        mine, reference = tables[entry.label], tables[run.reference]
        pairs = [
            PairedAnswers(number, seed, mine[question.id, seed], reference[question.id, seed])
            for number, question in enumerate(run.questions)
            for seed in run.seeds
            if (question.id, seed) in mine and (question.id, seed) in reference
        ]
        ours, theirs = chunks_of(mine.values()), chunks_of(reference.values())
        chunks = [
            (ours[key], theirs[key])
            for key in sorted(ours.keys() & theirs.keys())
            if ours[key].whole
            and theirs[key].whole
            and ours[key].answered == theirs[key].answered
            and ours[key].failed == theirs[key].failed
        ]
        return cls(run, entry, pairs, chunks, traces.get(entry.label, {}))

    @property
    def is_reference(self) -> bool:
        """Whether this is the reference paired with itself."""
        return self.entry.label == self.run.reference

    @property
    def is_primary(self) -> bool:
        """Whether this comparison was declared beforehand."""
        return self.entry.label in self.run.primary and not self.is_reference

    @property
    def timed(self) -> list[PairedAnswers]:
        """The pairs whose times can be compared."""
        return [p for p in self.pairs if p.timed]

    def per_question(
        self, value: Callable[[PairedAnswers], float], pairs: Sequence[PairedAnswers] | None = None
    ) -> list[float]:
        """The sums of a value over the seeds of each question that has any."""
        sums: dict[int, float] = defaultdict(float)
        for pair in self.pairs if pairs is None else pairs:
            sums[pair.question] += value(pair)
        return list(sums.values())

    def per_chunk(self, value: Callable[[PairedChunk, PairedChunk], float]) -> list[float]:
        """The sums of a value over the chunks (one for each seed) of the same questions."""
        sums: dict[frozenset[str], float] = defaultdict(float)
        for ours, theirs in self.chunks:
            sums[ours.answered] += value(ours, theirs)
        return list(sums.values())

    def share(
        self, success: Callable[[PairedAnswers], bool], pairs: Sequence[PairedAnswers] | None = None
    ) -> Estimate:
        """The share of answers for which `success` is true, clustered by question."""
        return statistics.share(
            self.per_question(success, pairs), self.per_question(lambda _: 1, pairs)
        )

    def facts_about(self, answer: Answer) -> Facts | None:
        """Facts of the whole answer; None for a vote, whose trace is of only one of its samples."""
        facts = self.facts.get((answer.question, answer.seed))
        known = facts is not None and facts.tokens == answer.counters.emitted_tokens
        return facts if known else None


def _right(answer: Answer) -> bool:
    return bool(answer.right) and not answer.error


def tables_of(results: Results) -> dict[str, dict[Key, Answer]]:
    """The answers by policy, question and seed."""
    run = results.run
    questions, seeds = {q.id for q in run.questions}, set(run.seeds)
    tables: dict[str, dict[Key, Answer]] = {p.label: {} for p in run.policies}
    if run.reference not in tables:
        raise StetError(f"The reference {run.reference!r} is none of the run's policies.")
    for answer in results.answers:
        what = f"{answer.policy!r} to question {answer.question!r} with seed {answer.seed}"
        table = tables.get(answer.policy)
        if table is None or answer.question not in questions or answer.seed not in seeds:
            raise StetError(f"There is an answer of {what}, which is not part of the run.")
        if (answer.question, answer.seed) in table:
            raise StetError(f"There are two answers of {what}; each is asked for once.")
        table[answer.question, answer.seed] = answer
    return tables


def chunks_of(answers: Iterable[Answer]) -> dict[tuple[int, int], PairedChunk]:
    """The chunks by seed and number; the time of each is counted once for all of its answers."""
    members: dict[tuple[int, int], list[Answer]] = defaultdict(list)
    for answer in answers:
        members[answer.seed, answer.chunk].append(answer)
    return {
        key: PairedChunk(
            answered=frozenset(a.question for a in group),
            failed=frozenset(a.question for a in group if a.error),
            seconds=group[0].chunk_seconds,
            tokens=sum(a.counters.emitted_tokens for a in group),
            whole=len(group) == group[0].chunk_answers,
        )
        for key, group in members.items()
    }


def facts_of(results: Results) -> dict[str, dict[Key, Facts]]:
    """Facts from the traces, by policy, question and seed; empty where there are none."""
    found: dict[str, dict[Key, Facts]] = defaultdict(dict)
    if results.folder is None:
        return found
    for line in records.read_traces(results.folder):
        trace = line.get("trace") or {}
        tokens = trace.get("tokens") or []
        # Where an answer has two traces, the later is that of the recorded answer.
        found[line["policy"]][line["question"], line["seed"]] = Facts(
            tokens=len(tokens),
            by_draft=sum(token["origin"] == "draft" for token in tokens),
            accepted_mismatches=sum(
                block["position"] + i < len(tokens)
                for block in trace.get("blocks") or []
                for i in block["accepted_mismatches"]
            ),
            steps=[
                (name, number)
                for step in trace.get("steps") or []
                for name, value in (step.get("signals") or {}).items()
                if (number := signal_value(value)) is not None
            ],
        )
    return found


def signal_value(value: Any) -> float | None:
    """The value of a signal; the raw one where it was also normalised."""
    if isinstance(value, dict):
        value = value.get("raw", value.get("normalised"))
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
