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

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
from stet.core.writing import append_lines, drop_torn_line, json_line, write_text
from stet.evaluation.tasks.base import LoadedTask
from stet.pair import Pair
from stet.requests.options import PINNED

AHEAD = 4
"""So many requests wait for a place in the batch."""


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
        path: file of the answers; those that it holds are not written again. Beside it is a file
            of those that are begun, so that little is lost.
    """

    pair: Pair
    task: LoadedTask
    policies: Mapping[str, TokenPolicy]
    path: Path

    def run(self, on_answers: Callable[[int], None] | None = None) -> list[Written]:
        """Answer everything that is not answered yet.

        Args:
            on_answers: called with the number of answers that are done.
        """
        self.task = self.task.suited(self.pair)
        found = read(self.path)
        drop_torn_line(self.path)
        with self.pair.keeping_texts():
            asyncio.run(self._finish(self._open(found), found, on_answers or (lambda _: None)))
        return found

    @property
    def begun(self) -> Path:
        """The file of the answers that are begun."""
        return self.path.with_suffix(".begun.json")

    def _open(self, found: Sequence[Written]) -> deque[_Job]:
        """What is still to be written: what was begun before, and what was not."""
        known = {(w.policy, w.question) for w in found}
        missing = {
            place: [name for name in self.policies if (name, question.id) not in known]
            for place, question in enumerate(self.task.questions)
        }
        jobs: deque[_Job] = deque()
        told = json.loads(self.begun.read_text()) if self.begun.exists() else []
        for entry in told:
            names = [name for name in entry["names"] if name in missing[entry["question"]]]
            for name in names:
                missing[entry["question"]].remove(name)
            if names:
                written = tuple(entry["written"])
                jobs.append(_Job(**entry | {"names": tuple(names), "written": written}))
        jobs.extend(_Job(place, (), tuple(names)) for place, names in missing.items() if names)
        return jobs

    async def _finish(
        self, jobs: deque[_Job], found: list[Written], on_answers: Callable[[int], None]
    ) -> None:
        """Write all answers, so many at a time that the batch is always full."""
        running: dict[asyncio.Task[tuple[list[Written], list[_Job]]], _Job] = {}
        while jobs or running:
            while jobs and len(running) < self.pair.max_batch + AHEAD:
                job = jobs.popleft()
                running[asyncio.create_task(self._write(job))] = job
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del running[task]
                made, more = task.result()
                append_lines(self.path, [json_line(asdict(w)) for w in made])
                found += made
                jobs.extendleft(more)  # at once, for its beginning is still in the cache
            begun = [asdict(job) for job in (*jobs, *running.values()) if job.written]
            write_text(self.begun, json.dumps(begun))
            on_answers(len(found))

    async def _write(self, job: _Job) -> tuple[list[Written], list[_Job]]:
        """Let the first go on; who would not have parted from it has its text."""
        if self._ended(job.written):
            return [self._graded(name, job, job.written) for name in job.names], []
        lead, *others = job.names
        question = self.task.questions[job.question]
        result = await self.pair.agenerate(
            [*prompt_of(self.pair, self.task, question), *job.written],
            Panel(self.policies[lead], tuple(self.policies[name] for name in others)),
            max_new_tokens=self.task.max_new_tokens,
            fit=True,
            stop=list(self.task.stop),
            **PINNED,
        )
        assert isinstance(result, Result)
        tokens = tuple(result.token_ids)[: self.task.max_new_tokens - len(job.written)]
        places = _places(result, len(tokens))
        parted: dict[tuple[int, int] | None, list[str]] = {None: [lead]}
        for column, name in enumerate(others):
            parted.setdefault(_parting(places, column), []).append(name)
        whole = job.grown(tokens, places, parted.pop(None))
        made = [self._graded(name, whole, whole.written) for name in whole.names]
        more = [
            job.grown((*tokens[:at], token), places, names)
            for (at, token), names in parted.items()  # type: ignore[misc]
        ]
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
