"""What prompts are to the models of a pair: tokens of either, and room for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stet.client import RemoteClient
from stet.errors import OptionError
from stet.limits import Limits
from stet.options import Options, Prompt
from stet.programs import Correspondent, Mirror
from stet.sequence import Role
from stet.sequence import Sequence as TokenSequence
from stet.vocabulary import Rendered, Vocabulary


@dataclass(frozen=True, slots=True)
class Prompts:
    """Reads the prompts of a pair.

    Attributes:
        vocabularies: the target's, and the draft's where it is another.
        max_length: the most tokens of a sequence, prompt and answer together.
        client: of a remote target; None where the target is here.
    """

    vocabularies: Mapping[Role, Vocabulary]
    max_length: int
    client: RemoteClient | None

    def read(self, prompt: Prompt, role: Role) -> list[int]:
        """A prompt in a model's tokens; those of a prompt that is given as tokens are the target's.

        Raises:
            OptionError: an empty prompt, or a token that the target does not have.
        """
        if role == "draft" and not isinstance(prompt, str):
            if isinstance(prompt, Rendered):
                return prompt.draft
            target = self.vocabularies["target"]
            prompt = target.plain(target.read(prompt))
        return self.vocabularies[role].read(prompt)

    def mirror(self, prompt: Prompt, sequence: TokenSequence, options: Options) -> Mirror:
        """The beginning of the same text in the draft's tokens.

        Raises:
            OptionError: the prompt has too many of them.
        """
        target, draft = self.vocabularies["target"], self.vocabularies["draft"]
        tokens = self.read(prompt, "draft")
        room = self.max_length - len(tokens)
        if room < 1:
            raise OptionError(
                f"A prompt of {len(tokens)} of the draft's tokens leaves no room for an answer; "
                f"load the pair with a max_length above {len(tokens)}."
            )
        endless = bool(options.get("ignore_eos"))
        limits = Limits(max_new_tokens=room, stop_token_ids=frozenset() if endless else draft.ends)
        return Mirror(
            TokenSequence(tokens, sequence.sampling, limits, draft.tokenizer),
            draft.codec,
            target.codec,
            None if endless else target.end,
        )

    def correspondent(self, prompt: Prompt, options: Options) -> Correspondent:
        """The remote target, for one request."""
        assert self.client is not None
        here = self.vocabularies["target"]
        end = None if options.get("ignore_eos") else here.end
        return Correspondent(self.client, here.codec, here.spoken(prompt), end)

    def fit(self, limits: Limits, prompt: int, asked: bool, appends: int = 0) -> Limits:
        """Limits that leave room for the prompt; a length that was asked for is not shortened.

        Args:
            limits: as asked for.
            prompt: its tokens.
            asked: whether the length of the answer was asked for.
            appends: tokens that the policy puts behind a text to ask about it.

        Raises:
            OptionError: there is none.
        """
        room = self.max_length - prompt - appends
        if room < 1 or (asked and limits.max_new_tokens > room):
            question = f", and the {appends} that the policy asks behind them" if appends else ""
            raise OptionError(
                f"A prompt of {prompt} tokens and an answer of up to {limits.max_new_tokens}"
                f"{question} exceed {self.max_length} tokens; lower max_new_tokens to "
                f"{max(room, 0)} or load the pair with a larger max_length."
            )
        return replace(limits, max_new_tokens=min(limits.max_new_tokens, room), room=room)


def check_remote(options: Options) -> None:
    """Refuse what an endpoint for completions cannot be asked.

    Raises:
        OptionError: naming the option.
    """
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "logit_bias": {}, "logprobs": 0}
    for name, value in neutral.items():
        if options.get(name, value) != value:
            raise OptionError(
                f"{name} cannot be asked of a remote target; leave it out, and use temperature, "
                "top_p and seed."
            )
