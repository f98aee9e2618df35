"""The greedy texts of many token policies, of which each distinct stretch is written once.

At temperature 0 a block-invariant policy is a choice at each position, and most policies choose
alike nearly everywhere. So one policy leads, and the others say of each block where they would have
put another token. Who never would has the same text. The others go on from the token with which
they part, the first of them leading, and so on. Every text is the one that its policy writes by
itself (`tests/benchmarks/test_shared_texts.py`): of packed weights to the bit, else up to rounding
that depends on the width of a pass. What this does not give are times and passes, which are
measured apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stet.calibration.rollouts import prompt_of
from stet.core.blocks import Blocks
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.reading import read_records
from stet.core.result import Result
from stet.core.verification import DEFERRED, ScoredMismatches, Verification
from stet.core.writing import append_lines, drop_torn_line, json_line
from stet.evaluation.tasks.base import LoadedTask
from stet.pair import Pair
from stet.requests.options import PINNED


@dataclass(frozen=True)
class Panel(TokenPolicy):
    """Decides as one policy does, and records the first token that others would put elsewhere.

    Attributes:
        lead: the policy that is followed.
        others: the policies that are asked, too.
    """

    lead: TokenPolicy
    others: tuple[TokenPolicy, ...] = ()

    name: ClassVar[str] = "panel"
    lossless: ClassVar[bool] = False
    reasons: ClassVar[tuple[str, ...]] = ("accepted", "recovered", "bonus")
    defers_bonus: ClassVar[bool] = True
    block_invariant: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the models' passes."""
        return frozenset[Need]().union(*(p.needs for p in (self.lead, *self.others)))

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        found = self.lead.verify(blocks)
        whole = (found.accepted == blocks.lengths) & (blocks.lengths > 0)
        following = found.next_token.masked_fill(whole, DEFERRED)
        if not blocks.drafted.shape[1]:
            return Verification(found.accepted, following)
        # A lead by itself has a column, too, of nobody who parts.
        others = [_parted(blocks, found, other.verify(blocks)) for other in self.others]
        parted = torch.stack(others or [torch.zeros_like(blocks.drafted)], 2)
        target = blocks.target_tokens[:, :-1]
        mismatch = (blocks.drafted != target) & blocks.present
        return Verification(
            found.accepted,
            following,
            None,
            ScoredMismatches(
                mismatch | (parted > 0).any(2),
                target,
                mismatch.float(),
                parted.float(),
            ),
        )


def _parted(blocks: Blocks, lead: Verification, other: Verification) -> Tensor:
    """[B, K] int64: 1 + the token that the other puts where it parts from the lead; else 0."""
    at = torch.minimum(lead.accepted, other.accepted)
    inside = at < blocks.lengths
    places = at.clamp(max=blocks.drafted.shape[1] - 1)[:, None]
    drafted = blocks.drafted.gather(1, places)[:, 0]
    own = torch.where(at < lead.accepted, drafted, lead.next_token)
    another = torch.where(at < other.accepted, drafted, other.next_token)
    parted = torch.zeros_like(blocks.drafted)
    return parted.scatter_(1, places, ((inside & (own != another)) * (another + 1))[:, None])


@dataclass(frozen=True)
class Written:
    """A policy's answer to a question.

    Attributes:
        policy: its label.
        question: id of the question.
        right: whether the answer is right.
        cut: whether it was cut at the limit.
        tokens: its length.
        mismatches: how many mismatches were decided.
        accepted: at how many of them the draft's token was accepted.
        text: the answer.
    """

    policy: str
    question: str
    right: bool
    cut: bool
    tokens: int
    mismatches: int
    accepted: int
    text: str


class _Place(NamedTuple):
    """A position of a text at which models mismatch, or a policy puts another token."""

    at: int
    mismatch: bool
    draft: int
    parted: Sequence[float]


def _places(result: Result, end: int) -> list[_Place]:
    """The places of a result under a panel, before the end of the text."""
    return [
        _Place(block.position + d.at, d.score > 0, d.draft, d.features)
        for block in result.trace.blocks
        for d in block.mismatches
        if block.position + d.at < end
    ]


def _parting(places: Sequence[_Place], column: int) -> tuple[int, int] | None:
    """Where another policy of the panel parts from the text first, and with which token."""
    return next(((p.at, int(p.parted[column]) - 1) for p in places if p.parted[column] > 0), None)


@dataclass(frozen=True)
class _Job:
    """An answer to go on with, and who wrote it so far."""

    question: int
    written: tuple[int, ...]
    names: tuple[str, ...]
    mismatches: int = 0
    accepted: int = 0

    def grown(
        self, tokens: tuple[int, ...], places: Sequence[_Place], names: Sequence[str]
    ) -> _Job:
        """The answer with further tokens, and the mismatches that were decided in them."""
        decided = [tokens[p.at] == p.draft for p in places if p.mismatch and p.at < len(tokens)]
        return _Job(
            self.question,
            (*self.written, *tokens),
            tuple(names),
            self.mismatches + len(decided),
            self.accepted + sum(decided),
        )


@dataclass
class SharedTexts:
    """Answers of several policies to the questions of a task, resumably.

    Attributes:
        pair: the models.
        task: graded questions.
        policies: block-invariant policies that defer the bonus token or never accept a mismatch.
        path: file of the answers; those that it holds are not written again.
        pool: questions at a time: the more, the fuller are the batches of those that part.
    """

    pair: Pair
    task: LoadedTask
    policies: Mapping[str, TokenPolicy]
    path: Path
    pool: int = 256

    def run(self, on_answers: Callable[[int], None] | None = None) -> list[Written]:
        """Answer everything that is not answered yet.

        Args:
            on_answers: called with the number of answers that are done.
        """
        self.task = self.task.suited(self.pair)
        found = read(self.path)
        drop_torn_line(self.path)
        known = {(w.policy, w.question) for w in found}
        for start in range(0, len(self.task.questions), self.pool):
            places = range(start, min(start + self.pool, len(self.task.questions)))
            jobs = [
                _Job(place, (), missing)
                for place in places
                if (
                    missing := tuple(
                        name
                        for name in self.policies
                        if (name, self.task.questions[place].id) not in known
                    )
                )
            ]
            with self.pair.keeping_texts():
                for made in self._finish(jobs):
                    append_lines(self.path, [json_line(asdict(w)) for w in made])
                    found += made
                    if on_answers is not None:
                        on_answers(len(found))
        return found

    def _finish(self, jobs: list[_Job]) -> Iterator[list[Written]]:
        """Answers as they are written; those of one lead share batches."""
        while jobs:
            leads = [job.names[0] for job in jobs]
            lead = max(sorted(set(leads)), key=leads.count)
            some = [job for job in jobs if job.names[0] == lead]
            jobs = [job for job in jobs if job.names[0] != lead]
            made = [
                self._graded(name, job, job.written)
                for job in some
                if self._ended(job.written)
                for name in job.names
            ]
            if open_ones := [job for job in some if not self._ended(job.written)]:
                texts, more = self._write(lead, open_ones)
                made += texts
                jobs += more
            yield made

    def _write(self, lead: str, jobs: Sequence[_Job]) -> tuple[list[Written], list[_Job]]:
        """Let the lead go on; who would not have parted from it has its text."""
        asked = sorted({name for job in jobs for name in job.names if name != lead})
        prompts = [
            [*prompt_of(self.pair, self.task, self.task.questions[job.question]), *job.written]
            for job in jobs
        ]
        results = self.pair.generate(
            prompts,
            Panel(self.policies[lead], tuple(self.policies[name] for name in asked)),
            max_new_tokens=self.task.max_new_tokens,
            fit=True,
            stop=list(self.task.stop),
            **PINNED,
        )
        made: list[Written] = []
        more: list[_Job] = []
        for job, result in zip(jobs, results, strict=True):
            tokens = tuple(result.token_ids)[: self.task.max_new_tokens - len(job.written)]
            places = _places(result, len(tokens))
            parted: dict[tuple[int, int] | None, list[str]] = {None: [lead]}
            for column, name in enumerate(asked):
                if name in job.names:
                    parted.setdefault(_parting(places, column), []).append(name)
            for parting, names in parted.items():
                if parting is None:
                    whole = job.grown(tokens, places, names)
                    made += [self._graded(name, whole, whole.written) for name in names]
                else:
                    at, token = parting
                    more.append(job.grown((*tokens[:at], token), places, names))
        return made, more

    def _ended(self, written: tuple[int, ...]) -> bool:
        if not written:
            return False
        if written[-1] in self.pair.end_tokens or len(written) >= self.task.max_new_tokens:
            return True
        return any(stop in self._text(written) for stop in self.task.stop)

    def _text(self, written: Sequence[int]) -> str:
        text: str = self.pair.tokenizer.decode(list(written), skip_special_tokens=True)
        return text

    def _graded(self, name: str, job: _Job, written: tuple[int, ...]) -> Written:
        question, grader = self.task.questions[job.question], self.task.grader
        assert grader is not None
        text = self._text(written)
        for stop in self.task.stop:
            text = text.split(stop)[0]
        return Written(
            policy=name,
            question=question.id,
            right=grader.right(grader.extract(text), question.reference or ""),
            cut=len(written) >= self.task.max_new_tokens
            and written[-1] not in self.pair.end_tokens,
            tokens=len(written),
            mismatches=job.mismatches,
            accepted=job.accepted,
            text=text,
        )


def read(path: Path) -> list[Written]:
    """The answers of a file."""
    from pydantic import TypeAdapter

    if not path.exists():
        return []
    return list(read_records(path, TypeAdapter(Written), "a written answer"))
