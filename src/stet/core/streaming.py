"""Decoding of tokens to text while they arrive, for streaming and stop strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Decoder(Protocol):
    """The part of a tokenizer that this module needs."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str:
        """Decode tokens to text."""
        ...


class TextStream:
    """The text of a growing list of tokens, cut at the first stop string.

    A token may end inside a character, and how a token is decoded may depend on its neighbour, so
    each piece is decoded together with the piece before it and added once it is whole.

    Special tokens are no part of the text. Where stop strings hold any, they are looked for in the
    text with the names of these tokens in their places.

    Args:
        decoder: usually a transformers tokenizer.
        stop: strings that end the text; the first one found is not part of it.
        special: the special tokens that stop strings hold, with their names.

    Attributes:
        text: the text so far.
        stopped: whether a stop string has ended it.
        met: the stop string that did.
    """

    def __init__(
        self,
        decoder: Decoder,
        stop: Sequence[str] = (),
        special: Mapping[int, str] | None = None,
    ) -> None:
        self.text = ""
        self.stopped = False
        self.met: str | None = None
        self._decoder = decoder
        self._stop = stop
        self._special = special or {}
        self._named = ""  # the text with names in it; kept where there may be any
        self._names: list[tuple[int, int]] = []
        self._longest = max((len(s) for s in stop), default=0)
        self._tokens: list[int] = []
        self._read = 0
        self._context = 0
        self._known = 0
        self._handed_out = 0

    def __copy__(self) -> TextStream:
        """Copy the stream at its place, to look ahead with."""
        other = object.__new__(TextStream)
        own = {"_tokens": list(self._tokens), "_names": list(self._names)}
        other.__dict__ |= self.__dict__ | own
        return other

    def push(self, token: int) -> bool:
        """Add the next token.

        Returns:
            Whether a stop string is now complete; `text` then ends before it.
        """
        if token in self._special:
            return self._push_special(token)
        self._tokens.append(token)
        window = self._decode(self._context, len(self._tokens))
        if window.endswith("\N{REPLACEMENT CHARACTER}") or len(window) <= self._known:
            return False
        return self._extend(window[self._known :])

    def finish(self) -> bool:
        """Add what was held back as a possibly unfinished character.

        Returns:
            Whether a stop string is now complete, as `push` does.
        """
        rest = self._decode(self._context, len(self._tokens))[self._known :]
        return self._extend(rest) if rest and not self.stopped else False

    def take(self, final: bool = False) -> str:
        """Take the text that was not taken yet and can no longer be part of a stop string.

        Args:
            final: no more tokens follow, so no text needs to be held back.
        """
        end = len(self.text)
        if not (final or self.stopped):
            end -= self._possible_stop()
        piece = self.text[self._handed_out : end]
        self._handed_out += len(piece)
        return piece

    def _push_special(self, token: int) -> bool:
        # What was held back precedes it, and no character reaches across it.
        if self.finish():
            return True
        self._tokens.append(token)
        name = self._special[token]
        start = len(self._named)
        self._names.append((start, len(name)))
        self._named += name
        return self._look(start)

    def _decode(self, start: int, end: int) -> str:
        return self._decoder.decode(self._tokens[start:end], skip_special_tokens=True)

    def _extend(self, piece: str) -> bool:
        self._context, self._read = self._read, len(self._tokens)
        self._known = len(self._decode(self._context, self._read))
        start = len(self._searched)
        self.text += piece
        if self._special:
            self._named += piece
        return self._look(start)

    def _look(self, new: int) -> bool:
        """Look for a stop string that ends behind the first `new` characters."""
        text = self._searched
        # It may begin in the text before.
        start = max(0, new - self._longest + 1)
        found = [(at, s) for s in self._stop if (at := text.find(s, start)) >= 0]
        if found:
            place, self.met = min(found)
            self.text = self.text[: self._unnamed(place)]
            self.stopped = True
        return self.stopped

    @property
    def _searched(self) -> str:
        return self._named if self._special else self.text

    def _unnamed(self, place: int) -> int:
        """The place in the text that corresponds to one in the text with names."""
        return place - sum(min(n, place - at) for at, n in self._names if at < place)

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that is the start of a stop string."""
        text = self._searched
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return len(self.text) - self._unnamed(len(text) - length)
        return 0
