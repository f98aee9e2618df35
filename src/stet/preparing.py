"""From what users hand in to requests: prompts and options become jobs for the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Literal

from stet.draft_length import DraftLength, FixedLength, describe
from stet.engine.engine import Request
from stet.errors import OptionError
from stet.jobs import Job, Method, method_of
from stet.limits import Limits
from stet.models.model import LoadedModel
from stet.options import Options, Prompt, check_names, limits_of, sampling_of
from stet.policies import Policy
from stet.prompts import Prompts, check_remote
from stet.remote import RemoteTarget
from stet.sampling import SamplingParams
from stet.sequence import Sequence as TokenSequence
from stet.trace import Settings


class Preparer:
    """Makes jobs of a pair's prompts and options; touches no model.

    Args:
        target: the larger model, here or elsewhere.
        draft: the smaller model; None for prompt lookup.
        prompts: reads the prompts.
        difference: how the models' tokenizers differ; None where they are the same.
        max_rows: places in each model's cache.
        fingerprint: tells the pair from others, computed when asked.
        auto_length: the rule behind `draft_length="auto"`, see `Pair.auto_length`.
    """

    def __init__(
        self,
        target: LoadedModel | RemoteTarget,
        draft: LoadedModel | None,
        prompts: Prompts,
        *,
        difference: str | None,
        max_rows: int,
        fingerprint: Callable[[], str],
        auto_length: Callable[[bool, bool], DraftLength],
    ) -> None:
        self.target = target
        self.draft = draft
        self.prompts = prompts
        self._difference = difference
        self._is_remote = isinstance(target, RemoteTarget)
        self._max_rows = max_rows
        self._fingerprint = fingerprint
        self._auto_length = auto_length
        self._numbers = count()

    def jobs(
        self,
        prompts: Sequence[Prompt],
        policy: str | Policy,
        options: Options,
        stream: bool = False,
    ) -> list[Job]:
        """A job for each prompt.

        Args:
            prompts: texts or token lists.
            policy: a policy or its name.
            options: as the user gave them.
            stream: whether the text is wanted after every round.

        Raises:
            OptionError: naming what is wrong, before anything is run.
        """
        check_names(options)
        method = method_of(
            policy,
            options.get("policy_parameters"),
            has_draft=self.draft is not None,
            difference=self._difference,
            is_remote=self._is_remote,
        )
        self._check(method)
        greedy = options.get("temperature", 0.0) == 0
        rule = self._length(options.get("draft_length", "auto"), greedy, method.seamless)
        vocabulary = self.prompts.vocabularies[method.role]
        limits = limits_of(options, vocabulary.ends, rule, stream)
        if method.mirrored is not None and options.get("logit_bias"):
            raise OptionError(
                "logit_bias names tokens, and the models of this pair have different ones; leave "
                "it out."
            )
        if method.remote is not None:
            check_remote(options)
        timeout = options.get("timeout")
        jobs: list[Job] = []
        for index, prompt in enumerate(prompts):
            params = sampling_of(options, index)
            tokens = self.prompts.read(prompt, method.role)
            fitting = self.prompts.fit(limits, len(tokens), "max_new_tokens" in options)
            sequence = TokenSequence(tokens, params, fitting, vocabulary.tokenizer)
            if method.mirrored is not None:
                program = method.mirrored(sequence, self.prompts.mirror(prompt, sequence, options))
            elif method.remote is not None:
                program = method.remote(sequence, self.prompts.correspondent(prompt, options))
            else:
                program = method.program(sequence)
            deadline = None if timeout is None else time.monotonic() + timeout
            request = Request(sequence, program, deadline, method.rows)
            text = prompt if isinstance(prompt, str) else vocabulary.tokenizer.decode(tokens)
            jobs.append(Job(request, text, self._settings(method, params, fitting)))
        for job in jobs:
            job.number = next(self._numbers)
        return jobs

    def _check(self, method: Method) -> None:
        """Refuse a policy that this pair cannot be decoded with."""
        if method.pair is not None and method.pair != self._fingerprint():
            raise OptionError(method.other_pair)
        if method.rows > self._max_rows:
            raise OptionError(
                f"{method.settings['name']!r} needs {method.rows} places in the cache for one "
                f"request and the pair has {self._max_rows}; load it with "
                f"max_rows={method.rows} or more, or ask for fewer candidates."
            )

    def _length(
        self, choice: int | Literal["auto"] | DraftLength, greedy: bool, seamless: bool
    ) -> DraftLength:
        if isinstance(choice, int):
            return FixedLength(choice)
        if choice == "auto" and (self._difference is not None or self._is_remote):
            return FixedLength()  # no blocks are drafted, so there is nothing to measure
        if isinstance(choice, str):
            if choice != "auto":
                raise OptionError(f'draft_length is {choice!r}; give a number, "auto" or a rule.')
            return self._auto_length(greedy, seamless)
        return choice

    def _settings(self, method: Method, params: SamplingParams, limits: Limits) -> Settings:
        return Settings(
            policy=method.settings,
            lossless=method.lossless,
            sampling={
                **asdict(params),
                # As JSON has it: names are texts.
                "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()},
                "max_new_tokens": limits.max_new_tokens,
            },
            draft_length=describe(limits.draft_length),
            target=self.target.identity,
            draft=None if self.draft is None else self.draft.identity,
            stet=package_version(),
        )


def package_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("stet-decoding")
    except PackageNotFoundError:
        return "unknown"
