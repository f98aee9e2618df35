"""The interface of a process reward: a number for each candidate step, given the text so far."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Operation

if TYPE_CHECKING:
    from stet.core.sequence import TokenSequence
    from stet.core.step_policy import Step


@runtime_checkable
class Reward(Protocol):
    """Rates candidate steps by how likely it is that the solution is right so far.

    Attributes:
        name: its name in traces and messages.
        pair: fingerprint of the only pair that it may be used with; None for any.
        needs: what the engine must keep of the draft's passes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class
    @property
    def pair(self) -> str | None: ...  # noqa: D102
    @property
    def needs(self) -> frozenset[Need]: ...  # noqa: D102

    def rate(self, step: Step) -> Generator[Operation, Any, list[float]]:
        """Rate the candidates of a step, each 0 to 1; may yield operations first."""
        ...


@dataclass(frozen=True, slots=True)
class Passage:
    """The input of a reward that reads text.

    Attributes:
        prompt: the text of the prompt.
        steps: the text of the accepted steps, as it was written.
        candidate: the text of the step to be rated.
    """

    prompt: str
    steps: str
    candidate: str

    @property
    def text(self) -> str:
        """Prompt, steps and candidate as one text."""
        return self.prompt + self.steps + self.candidate


def passages(step: Step) -> list[Passage]:
    """Each candidate with the text before it, without special tokens."""
    sequence = step.sequence
    decoder = sequence.decoder
    assert decoder is not None
    prompt = decoder.decode(sequence.tokens[: sequence.prompt_length], skip_special_tokens=True)
    # In one piece: some tokenizers write the first token of a text without its space.
    before = decoder.decode(sequence.tokens, skip_special_tokens=True)
    return [
        Passage(
            prompt,
            before[len(prompt) :],
            _decode_candidate(candidate.sequence),
        )
        for candidate in step.candidates
    ]


def _decode_candidate(fork: TokenSequence) -> str:
    """Decode what a candidate adds to the text, by the tokenizer of the model that wrote it."""
    assert fork.decoder is not None
    before = fork.decoder.decode(fork.tokens[: fork.prompt_length], skip_special_tokens=True)
    return fork.decoder.decode(fork.tokens, skip_special_tokens=True)[len(before) :]


def check_rewards(rewards: Sequence[Any], count: int, name: str) -> list[float]:
    """Check rewards, and return them as numbers from 0 to 1.

    Args:
        rewards: what a reward returned.
        count: the number of candidates.
        name: the name of the reward.

    Raises:
        StetError: there are too few or too many, or one is not such a number.
    """
    if len(rewards) != count:
        raise StetError(f"The reward {name!r} gave {len(rewards)} numbers for {count} candidates.")
    numbers: list[float] = []
    for value in rewards:
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise StetError(
                f"The reward {name!r} gave {value!r}; a reward is a number from 0 to 1."
            ) from error
        if not (math.isfinite(number) and 0 <= number <= 1):
            raise StetError(f"The reward {name!r} gave {number}; a reward lies between 0 and 1.")
        numbers.append(number)
    return numbers
