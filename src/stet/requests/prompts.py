"""Prompts in the tokens of a pair's models, and the room that they leave for an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stet.core.errors import LengthError, OptionError
from stet.core.limits import Limits
from stet.core.sequence import Role, TokenSequence
from stet.programs import CrossTokenizerTarget, RemoteWriter
from stet.remote.client import RemoteClient
from stet.requests.chat import Rendered, has_template, read_by, render
from stet.requests.inputs import Message, check_messages, prompt_of
from stet.requests.options import Asked
from stet.text.vocabulary import Vocabulary

Readable = str | list[int]
"""A prompt as text or tokens; chats are rendered already."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Reads the prompts of a pair.

    Attributes:
        vocabularies: the target's, and the draft's where it differs.
        max_length: the most tokens of a sequence, prompt and answer together.
        client: client of a remote target; None where the target is local.
        context: the most tokens that the models can read; None where they set no limit.
    """

    vocabularies: Mapping[Role, Vocabulary]
    max_length: int
    client: RemoteClient | None
    context: int | None = None

    def take(self, given: Any) -> Readable:
        """Take a prompt as a user gave it, and render it if it is a chat.

        Raises:
            OptionError: it is no prompt, or the tokenizer cannot render it.
        """
        prompt = prompt_of(given)
        if isinstance(prompt, Rendered) or not isinstance(prompt, list):
            return prompt
        messages = [item for item in prompt if isinstance(item, Mapping)]
        return self.render(messages, {}) if messages else [t for t in prompt if isinstance(t, int)]

    def read(self, prompt: Readable, role: Role) -> list[int]:
        """Encode a prompt in a model's tokens; a prompt given as tokens is in the target's.

        Raises:
            OptionError: an empty prompt, or a token that the target does not have.
        """
        if role == "draft" and not isinstance(prompt, str):
            if isinstance(prompt, Rendered) and prompt.draft is not None:
                return prompt.draft
            target = self.vocabularies["target"]
            prompt = target.plain(target.read(prompt))
        return self.vocabularies[role].read(prompt)

    def render(self, messages: Sequence[Message], arguments: Mapping[str, Any]) -> Rendered:
        """Render a chat as the tokens of a prompt, by the tokenizer's own template.

        Raises:
            OptionError: the messages are invalid, the tokenizer has no chat template, or the
                template refuses them.
        """
        messages = list(messages)
        check_messages(messages)
        tokens, record = render(self.vocabularies["target"].tokenizer, messages, arguments)
        draft = self.vocabularies.get("draft")
        if draft is None:
            return Rendered(tokens, None, record)
        if has_template(draft.tokenizer):
            # The arguments are for the target's template; the draft's may use fewer.
            known = read_by(draft.tokenizer, arguments)
            return Rendered(tokens, render(draft.tokenizer, messages, known)[0], record)
        return Rendered(tokens, self.read(tokens, "draft"), record)

    def cross_tokenizer_target(
        self, prompt: Readable, sequence: TokenSequence, asked: Asked
    ) -> CrossTokenizerTarget:
        """Make the target's side of a cross-tokenizer request, with the prompt for the draft.

        Raises:
            LengthError: the prompt has too many tokens of the draft's.
        """
        target, draft = self.vocabularies["target"], self.vocabularies["draft"]
        tokens = self.read(prompt, "draft")
        room = self.max_length - len(tokens)
        if room < 1:
            raise LengthError(self._too_long(len(tokens), " of the draft's"))
        # The draft's own tokens with the same names as the stop strings.
        named = {token for token, name in draft.special.items() if name in asked.stop}
        ends = named if asked.ignore_eos else named | draft.ends
        limits = Limits(max_new_tokens=room, stop_token_ids=frozenset(ends))
        end = target.end
        if asked.ignore_eos:
            end = min(sequence.limits.stop_token_ids, default=None) if named else None
        return CrossTokenizerTarget(
            TokenSequence(tokens, sequence.sampling, limits, draft.tokenizer),
            draft.codec,
            target.codec,
            end,
        )

    def remote_writer(self, prompt: Readable, asked: Asked) -> RemoteWriter:
        """Make the writer of the remote target for one request."""
        assert self.client is not None
        here = self.vocabularies["target"]
        end = None if asked.ignore_eos else here.end
        return RemoteWriter(self.client, here.codec, here.spoken(prompt), end)

    def fit(self, limits: Limits, prompt: int, asked: bool, appends: int = 0) -> Limits:
        """Fit limits to the prompt's length; a length that was asked for is not shortened.

        Args:
            limits: as asked for.
            prompt: tokens of the prompt.
            asked: whether the length of the answer was asked for.
            appends: tokens of the policy's side query.

        Raises:
            LengthError: there is no room for an answer, or not for the length asked for.
        """
        room = self.max_length - prompt - appends
        if room < 1:
            raise LengthError(self._too_long(prompt, appends=appends))
        if asked and limits.max_new_tokens > room:
            question = f", and the {appends} of the policy's side query," if appends else ""
            wanted = prompt + limits.max_new_tokens + appends
            raise LengthError(
                f"A prompt of {prompt} tokens and an answer of up to {limits.max_new_tokens}"
                f"{question} exceed {self.max_length} tokens; lower max_new_tokens to {room}"
                f"{self._longer(wanted)}."
            )
        return replace(limits, max_new_tokens=min(limits.max_new_tokens, room), room=room)

    def check_text(self, tokens: int) -> None:
        """Refuse a text that is too long to be read.

        Args:
            tokens: how many it has.

        Raises:
            LengthError: it has more than a sequence may have.
        """
        if tokens > self.max_length:
            raise LengthError(
                f"A text of {tokens} tokens is longer than {self.max_length}; shorten it"
                f"{self._longer(tokens)}."
            )

    def _too_long(self, tokens: int, whose: str = "", appends: int = 0) -> str:
        question = f" and the {appends} of the policy's side query" if appends else ""
        return (
            f"A prompt of {tokens}{whose} tokens leaves no room for an answer{question} within "
            f"{self.max_length}; shorten it to {self.max_length - appends - 1} or less"
            f"{self._longer(tokens + appends + 1)}."
        )

    def _longer(self, wanted: int) -> str:
        """Advice to load the pair for longer sequences, where its models can read them."""
        if self.context is not None and wanted > self.context:
            return ""
        return f", or load the pair with a max_length of {wanted} or more"


def check_remote(asked: Asked) -> None:
    """Refuse options that a completions endpoint does not have.

    Raises:
        OptionError: naming the option.
    """
    neutral = Asked()
    for name in ("top_k", "min_p", "repetition_penalty", "logit_bias", "logprobs"):
        if getattr(asked, name) != getattr(neutral, name):
            raise OptionError(
                f"{name} is not available with a remote target; leave it out, and use temperature, "
                "top_p and seed."
            )
