"""From tokens to text while they arrive: streaming and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """The part of a tokenizer that this module needs."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str:
        """Tokens as text."""
        ...


class TextStream:
    """The text of a growing list of tokens, cut at the first stop string.

    A token may end inside a character, and how a token reads may depend on its neighbour, so each
    piece is decoded together with the piece before it and handed out once it is whole.

    Args:
        decoder: usually a transformers tokenizer.
        stop: strings that end the text; the first one found is not part of it.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._decoder = decoder
        self._stop = stop
        self._longest = max((len(s) for s in stop), default=0)
        self._tokens: list[int] = []
        self._read = 0
        self._context = 0
        self._known = 0
        self._handed_out = 0

    def __copy__(self) -> TextStream:
        """Another stream at the same place, to look ahead with."""
        other = object.__new__(TextStream)
        other.__dict__ |= self.__dict__ | {"_tokens": list(self._tokens)}
        return other

    def push(self, token: int) -> bool:
        """Take in the next token.

        Returns:
            Whether a stop string is now complete; `text` then ends before it.
        """
        self._tokens.append(token)
        window = self._decode(self._context, len(self._tokens))
        if window.endswith("\N{REPLACEMENT CHARACTER}") or len(window) <= self._known:
            return False
        return self._extend(window[self._known :])

    def finish(self) -> bool:
        """Take in what was held back as a possibly unfinished character; as `push`."""
        rest = self._decode(self._context, len(self._tokens))[self._known :]
        return self._extend(rest) if rest and not self.stopped else False

    def take(self, final: bool = False) -> str:
        """The text that has not been handed out yet and can no longer become a stop string.

        Args:
            final: nothing more follows, so nothing needs to be held back.
        """
        end = len(self.text)
        if not (final or self.stopped):
            end -= self._possible_stop()
        piece = self.text[self._handed_out : end]
        self._handed_out += len(piece)
        return piece

    def _decode(self, start: int, end: int) -> str:
        return self._decoder.decode(self._tokens[start:end], skip_special_tokens=True)

    def _extend(self, piece: str) -> bool:
        self._context, self._read = self._read, len(self._tokens)
        self._known = len(self._decode(self._context, self._read))
        # A stop string may begin in the text before this piece.
        start = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        found = [at for s in self._stop if (at := self.text.find(s, start)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True
        return self.stopped

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that is the start of a stop string."""
        for length in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(s.startswith(self.text[-length:]) for s in self._stop):
                return length
        return 0
