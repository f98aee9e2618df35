"""How the servers of a remote target can be asked about texts, found out with a short one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stet.remote.completion import Completion
from stet.remote.connections import RefusedError
from stet.remote.reading import FORMS, Read, ReadingForm, last_tokens

_FIRST, _REST = "Ann has 3 boxes of 12 pens.\n", "3 * 12 = 36\nAnswer: 36\n"
PROBE = _FIRST + _REST
"""The text."""

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
    _form: list[ReadingForm | None] = field(default_factory=list[ReadingForm | None])
    _listed: list[int] = field(default_factory=list[int])
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def takes_ids(self) -> bool:
        """Whether they are known to read the draft's own tokens."""
        return any(form is not None and form.ids for form in self._form)

    async def form(
        self, asker: Asker, encode: Callable[[str], list[tuple[int, str]]]
    ) -> ReadingForm | None:
        """How a server is asked to read a text; None where it cannot.

        Args:
            asker: asks it.
            encode: gives the draft's tokens of a text, each with its own text.
        """
        async with self._asking:
            if not self._form:
                self._form.append(await _find_form(asker, encode(PROBE)))
            return self._form[0]

    async def listed(self, asker: Asker) -> int:
        """How many most probable tokens a server lists in the place of one that it writes."""
        async with self._asking:
            if not self._listed:
                self._listed.append(await _find_listed(asker))
            return self._listed[0]


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
        pairs = zip(found[1:], probe[1:], strict=form.ids)
        if form.ids and any(of.text.strip() != text.strip() for of, (_, text) in pairs):
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
