"""How the servers of a remote target can be asked about texts, found out with a short one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stet.remote.completion import Completion
from stet.remote.connections import RefusedError
from stet.remote.reading import FORMS, Read, ReadingForm, last_tokens

_FIRST, _REST = "Ann has 3 boxes of 12 pens.\n", "3 * 12 = 36\nAnswer: 36\n"
PROBE = _FIRST + _REST
"""A text of what tokenizers cut differently: lines, numbers, and spaces before words."""

LISTED = (20, 5)
"""Most probable tokens that servers list: vLLM's limit, and that of OpenAI's API."""


class Asker(Protocol):
    """Asks the servers; the client implements it."""

    async def read(self, prompt: str | Sequence[int], form: ReadingForm) -> list[Read] | None:
        """Ask how probable a text is."""
        ...

    async def complete(
        self, prompt: str | Sequence[int], *, max_tokens: int, logprobs: int | None = None
    ) -> Completion:
        """Let the target continue a text."""
        ...


@dataclass(slots=True, eq=False)
class Abilities:
    """What is known of the servers of a remote target, which are taken to be alike.

    Attributes:
        tells: whether they give log-probabilities of what they write, as far as is known.
    """

    tells: bool = True
    _form: asyncio.Task[ReadingForm | None] | None = None
    _listed: asyncio.Task[int] | None = None

    @property
    def takes_ids(self) -> bool:
        """Whether they are known to read the draft's own tokens."""
        if self._form is None or not self._form.done() or _has_failed(self._form):
            return False
        form = self._form.result()
        return form is not None and form.ids

    async def form(
        self, asker: Asker, encode: Callable[[str], list[tuple[int, str]]]
    ) -> ReadingForm | None:
        """How a server is asked to read a text; None where it cannot.

        Args:
            asker: asks it.
            encode: gives the draft's tokens of a text, each with its own text.
        """
        if self._form is None or _has_failed(self._form):
            self._form = asyncio.create_task(_find_form(asker, encode(PROBE)))
        return await asyncio.shield(self._form)  # others wait for it, too

    async def listed(self, asker: Asker) -> int:
        """How many most probable tokens a server lists in the place of one that it writes."""
        if self._listed is None or _has_failed(self._listed):
            self._listed = asyncio.create_task(_find_listed(asker))
        return await asyncio.shield(self._listed)


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


async def _find_form(asker: Asker, probe: list[tuple[int, str]]) -> ReadingForm | None:
    for form in FORMS:
        try:
            found = await asker.read([token for token, _ in probe] if form.ids else PROBE, form)
        except RefusedError:
            continue
        if found is None:
            continue
        read = found[1:] if form.ids else last_tokens(found, _REST)
        if not read or any(of.logprob is None or of.other is None for of in read):
            continue
        # A token by itself may lose its spaces, in one server and not in the other.
        if form.ids and any(
            of.text.strip() != text.strip()
            for of, (_, text) in zip(found[1:], probe[1:], strict=True)
        ):
            continue
        return form
    return None


async def _find_listed(asker: Asker) -> int:
    for count in LISTED:
        try:
            found = await asker.complete(PROBE, max_tokens=1, logprobs=count)
        except RefusedError:
            continue
        return count if found.spoken and found.spoken[0].top else 0
    return 0
