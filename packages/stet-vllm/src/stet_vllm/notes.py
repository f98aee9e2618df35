"""What became of each request's block in a step of the engine, on its way to the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stet.core.trace import Origin
from stet_vllm.desk import Choice
from stet_vllm.verify import FALLBACK, Rulings

FIELD = "stet"
"""The attribute of vLLM's outputs, and the entry of a finished request's `kv_transfer_params`, that
holds what Stet says."""

UNDRAFTED = "undrafted"
"""Why a token stands that the target wrote where nothing was drafted: the first of an answer, and
those of a step that had no room for drafts."""


@dataclass(frozen=True, slots=True)
class Note:
    """What became of one request's block.

    Attributes:
        policy: the name of the policy that decided.
        drafted: tokens of the block.
        accepted: how many drafted tokens were accepted.
        reasons: why each emitted token stands, the accepted ones first.
        problem: what the request's own policy raised, where another one decided instead.
    """

    policy: str
    drafted: int
    accepted: int
    reasons: tuple[str, ...]
    problem: str | None = None

    def origin(self, place: int) -> Origin:
        """Who wrote the emitted token of a place."""
        return "draft" if place < self.accepted else "target"


def packed(rulings: Rulings) -> Tensor:
    """What notes are made of, as one tensor [B, K + 4] int16 that travels to the host."""
    numbers = torch.stack([rulings.drafted, rulings.accepted, rulings.emitted], 1)
    return torch.cat([numbers.to(torch.int16), rulings.codes.to(torch.int16)], 1)


def notes_of(
    table: Sequence[Sequence[int]],
    requests: Sequence[str],
    choices: Sequence[Choice],
    fallen: Mapping[int, str],
) -> dict[str, Note]:
    """The notes of a step, by request.

    Args:
        table: `packed`, on the host.
        requests: their ids.
        choices: their policies.
        fallen: see `Rulings`.
    """
    notes: dict[str, Note] = {}
    for row, (numbers, request, choice) in enumerate(zip(table, requests, choices, strict=True)):
        drafted, accepted, emitted = numbers[:3]
        problem = fallen.get(row)
        policy = choice.policy if problem is None else FALLBACK
        words = tuple(policy.reasons[code] for code in numbers[3 : 3 + emitted])
        name = choice.name if problem is None else FALLBACK.name
        notes[request] = Note(name, drafted, accepted, words, problem)
    return notes


class Answer:
    """The record of one request's answer.

    Args:
        choice: its policy.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._tokens: list[dict[str, Any]] = []
        self._problem: str | None = None

    def add(self, tokens: Sequence[int], note: Note | None) -> None:
        """Take in what a step emitted.

        Args:
            tokens: those that the answer keeps of it.
            note: what became of the block; None where nothing was drafted.
        """
        for place, token in enumerate(tokens):
            if note is None or not note.drafted:
                self._tokens.append({"id": token, "origin": "target", "reason": UNDRAFTED})
            else:
                reason, origin = note.reasons[place], note.origin(place)
                self._tokens.append({"id": token, "origin": origin, "reason": reason})
        if note is not None and note.problem is not None:
            self._problem = note.problem

    def record(self) -> dict[str, Any]:
        """The record as a JSON object."""
        policy = self._choice.policy
        record: dict[str, Any] = {
            "policy": self._choice.name,
            "lossless": policy.lossless,
            "tokens": self._tokens,
        }
        if self._problem is not None:
            record["problem"] = f"{self._problem}; {FALLBACK.name!r} decided instead"
        return record
