"""Makers of programs: what a request's prompt and options are turned into, by kind of target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from stet.core.operations import Program
from stet.core.sequence import TokenSequence
from stet.policies import StepPolicy
from stet.programs import RemoteWriter, stepwise
from stet.requests.options import Asked
from stet.requests.prompts import Prompts, Readable, check_remote


class ProgramMaker(ABC):
    """Makes the programs of a method's requests.

    Attributes:
        takes_logit_bias: whether both models have the tokens that a `logit_bias` names.
    """

    takes_logit_bias: ClassVar[bool] = True

    def check(self, asked: Asked) -> None:
        """Refuse options that these programs cannot follow; by default there are none.

        Raises:
            OptionError: naming the option.
        """
        del asked

    @abstractmethod
    def make(
        self, sequence: TokenSequence, prompts: Prompts, prompt: Readable, asked: Asked
    ) -> Program:
        """Make the program of a request.

        Args:
            sequence: the prompt in tokens, and the answer, which the program writes.
            prompts: reads the prompt in the tokens of the other model, or as text.
            prompt: the same prompt as it was taken.
            asked: the options.

        Raises:
            OptionError: the prompt cannot be run.
        """


@dataclass(frozen=True)
class LocalMaker(ProgramMaker):
    """Makes programs that need nothing but the sequence.

    Attributes:
        program: the program over a sequence.
    """

    program: Callable[[TokenSequence], Program]

    def make(
        self, sequence: TokenSequence, prompts: Prompts, prompt: Readable, asked: Asked
    ) -> Program:
        """Make the program of a request."""
        del prompts, prompt, asked
        return self.program(sequence)


@dataclass(frozen=True)
class CrossTokenizerMaker(ProgramMaker):
    """Makes programs for a pair whose tokenizers differ.

    Attributes:
        policy: decides about the steps.
    """

    takes_logit_bias: ClassVar[bool] = False

    policy: StepPolicy

    def make(
        self, sequence: TokenSequence, prompts: Prompts, prompt: Readable, asked: Asked
    ) -> Program:
        """Make the program of a request."""
        target = prompts.cross_tokenizer_target(prompt, sequence, asked)
        return stepwise(sequence, self.policy, target)


@dataclass(frozen=True)
class RemoteMaker(ProgramMaker):
    """Makes programs for a remote target.

    Attributes:
        program: the program over a sequence and the writer that continues it.
    """

    program: Callable[[TokenSequence, RemoteWriter], Program]

    def check(self, asked: Asked) -> None:
        """Refuse options that a completions endpoint does not have.

        Raises:
            OptionError: naming the option.
        """
        check_remote(asked)

    def make(
        self, sequence: TokenSequence, prompts: Prompts, prompt: Readable, asked: Asked
    ) -> Program:
        """Make the program of a request."""
        return self.program(sequence, prompts.remote_writer(prompt, asked))
