"""What a completions endpoint says of a text that it is given, and the ways to ask it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stet.remote.completion import Spoken, plain, spoken_of

_TOP = 2
"""Most probable tokens that are asked for: the better one of them, or the one beside it, is the
best other one in every case."""

_SAME = 1e-6
"""Log-probabilities that differ by less are one token's; its text may be another token's, too."""


@dataclass(frozen=True, slots=True)
class Read:
    """A token of a text that a server has read.

    Attributes:
        text: its text, as the server decodes it by itself.
        logprob: its log-probability, in nats; None for the first of the text.
        other: that of the best other token in its place; None where it is not known.
    """

    text: str
    logprob: float | None
    other: float | None = None


@dataclass(frozen=True, slots=True)
class ReadingForm:
    """A way in which a server can be asked how probable a text is.

    Attributes:
        field: "prompt_logprobs", as vLLM has it, or "echo" with `logprobs`, as in OpenAI's API.
        ids: whether the text is sent as tokens, which are the draft's own; otherwise as text, and
            the server cuts it into tokens.
        written: tokens that the server is made to write behind it: some write at least one.
    """

    field: Literal["prompt_logprobs", "echo"]
    ids: bool
    written: int

    def body(self, prompt: str | Sequence[int]) -> dict[str, Any]:
        """The fields of a request."""
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": self.written, "temperature": 0.0}
        if self.field == "echo":
            return {**body, "echo": True, "logprobs": _TOP}
        return {**body, "prompt_logprobs": _TOP}

    def parse(self, answer: Any, prompt: str | Sequence[int]) -> list[Read] | None:
        """The tokens of the prompt in an answer; None where it does not have them all."""
        try:
            choice = answer["choices"][0]
            if self.field == "prompt_logprobs":
                known = None if isinstance(prompt, str) else prompt
                return _listed(choice["prompt_logprobs"], known)
            spoken = spoken_of(choice.get("logprobs"))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return None
        if not spoken or spoken[0].logprob is not None:
            return None  # it begins behind the prompt
        if not isinstance(prompt, str):
            spoken = spoken[: len(prompt)] if len(spoken) >= len(prompt) else []
        elif self.written:
            spoken = spoken[: -self.written]
        return [Read(of.text, of.logprob, _other(of)) for of in spoken] or None


FORMS = (
    ReadingForm("prompt_logprobs", ids=True, written=1),
    ReadingForm("prompt_logprobs", ids=False, written=1),
    ReadingForm("echo", ids=True, written=0),
    ReadingForm("echo", ids=True, written=1),
    ReadingForm("echo", ids=False, written=0),
    ReadingForm("echo", ids=False, written=1),
)
"""All ways, in the order in which they are tried: the draft's own tokens are exact."""


def _listed(entries: Any, ids: Sequence[int] | None) -> list[Read] | None:
    """Read `prompt_logprobs`: for each place the tokens by their ids, its own the first."""
    if not entries or (ids is not None and len(entries) != len(ids)):
        return None
    found: list[Read] = []
    for place, entry in enumerate(entries):
        if not entry:
            found.append(Read("", None))
            continue
        own = next(iter(entry)) if ids is None else str(ids[place])
        others = [plain(of["logprob"]) for token, of in entry.items() if token != own]
        mine = entry[own]
        found.append(
            Read(str(mine["decoded_token"]), plain(mine["logprob"]), max(others, default=None))
        )
    return found


def _other(of: Spoken) -> float | None:
    own = of.logprob
    others = [p for t, p in of.top.items() if t != of.text or abs(p - (own or 0.0)) > _SAME]
    return max(others, default=None)


def last_tokens(tokens: Sequence[Read], text: str) -> list[Read] | None:
    """The last tokens, those of a text that ends where they end.

    Returns:
        The tokens; None where no token begins where the text does, or they read otherwise.
    """
    left = text
    found: list[Read] = []
    for token in reversed(tokens):
        if not left:
            break
        if token.logprob is None or not (token.text and left.endswith(token.text)):
            return None
        left = left[: -len(token.text)]
        found.append(token)
    return None if left else found[::-1]
