"""Preparation of requests: prompts and options become jobs for the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any, Literal

from stet.core.draft_length import DraftLength, FixedLength, describe
from stet.core.errors import OptionError
from stet.core.limits import Limits
from stet.core.model import LoadedModel
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.trace import Settings
from stet.engine.request import Request
from stet.models.compatibility import context_length
from stet.models.defaults import GenerationDefaults
from stet.policies import Policy
from stet.remote.target import RemoteTarget
from stet.requests.chat import Rendered
from stet.requests.jobs import AnswerJob, fail_in_turn, locate
from stet.requests.methods import Method, method_of
from stet.requests.options import Asked, read_options
from stet.requests.prompts import Prompts


class Preparer:
    """Makes jobs from a pair's prompts and options; runs no model.

    Args:
        target: the larger model, local or remote.
        draft: the smaller model; None for prompt lookup.
        prompts: reader of the prompts.
        difference: how the models' tokenizers differ; None where they are the same.
        defaults: options of requests that do not set them.
        max_rows: rows of each model's cache.
        fingerprint: computes the pair's fingerprint.
        auto_length: makes the rule behind `draft_length="auto"`, see `Pair.auto_length`.
    """

    def __init__(
        self,
        target: LoadedModel | RemoteTarget,
        draft: LoadedModel | None,
        prompts: Prompts,
        *,
        difference: str | None,
        defaults: GenerationDefaults,
        max_rows: int,
        fingerprint: Callable[[], str],
        auto_length: Callable[[bool, bool, bool], DraftLength],
    ) -> None:
        self.target = target
        self.draft = draft
        self.prompts = prompts
        self._difference = difference
        self._defaults = defaults
        self._is_remote = isinstance(target, RemoteTarget)
        self._max_rows = max_rows
        self._fingerprint = fingerprint
        self._auto_length = auto_length
        self._numbers = count()

    def jobs(
        self,
        prompts: Sequence[Any],
        policy: str | Policy,
        options: Mapping[str, Any],
        stream: bool = False,
    ) -> list[AnswerJob]:
        """Make a job for each prompt; a job with an invalid prompt fails as soon as it is run.

        Args:
            prompts: texts, token lists or chats.
            policy: a policy or its name.
            options: as the user gave them.
            stream: whether the text is decoded after every round.

        Raises:
            OptionError: for an error that concerns all prompts, before anything is run.
        """
        asked = read_options(options)
        method = self.method(policy, asked.policy_parameters)
        asked = self._with_defaults(asked, options, method)
        sampling = asked.sampling
        rule = self._length(asked.draft_length, sampling.greedy, method)
        vocabulary = self.prompts.vocabularies[method.role]
        limits = asked.limits(vocabulary.ends, rule, stream, vocabulary.special)
        if asked.logit_bias and not method.maker.takes_logit_bias:
            raise OptionError(
                "logit_bias names tokens, and the models of this pair have different ones; leave "
                "it out."
            )
        for name, named in (
            ("logit_bias", asked.logit_bias),
            ("stop_token_ids", asked.stop_token_ids),
        ):
            if max(named, default=0) >= vocabulary.size:
                raise OptionError(
                    f"{name} names token {max(named)}, but the vocabulary has {vocabulary.size} "
                    "tokens."
                )
        method.maker.check(asked)
        jobs: list[AnswerJob] = []
        for index, seed in enumerate(asked.seeds(len(prompts))):
            place = (index, len(prompts))
            params = replace(sampling, seed=seed)
            jobs.append(self._job(prompts[index], place, method, asked, params, limits))
        return jobs

    def method(self, policy: str | Policy, parameters: dict[str, Any] | None = None) -> Method:
        """The method of a policy with this pair.

        Raises:
            StetError: for a policy that does not exist, or that this pair cannot be used with.
        """
        method = method_of(
            policy,
            parameters,
            has_draft=self.draft is not None,
            difference=self._difference,
            is_remote=self._is_remote,
        )
        self._check(method)
        return method

    def _job(
        self,
        given: Any,
        place: tuple[int, int],
        method: Method,
        asked: Asked,
        params: SamplingParams,
        limits: Limits,
    ) -> AnswerJob:
        """Make the job of one prompt.

        Args:
            given: the prompt.
            place: its index, and the number of prompts.
            method: the policy with its program.
            asked: the options.
            params: its sampling parameters.
            limits: its limits before they are fitted to the prompt's length.
        """
        decoder = self.prompts.vocabularies[method.role].tokenizer
        text, tokens, rendered = given if isinstance(given, str) else "", [], None
        rows, program = method.rows, None
        try:
            prompt = self.prompts.take(given)
            rendered = prompt.record if isinstance(prompt, Rendered) else None
            tokens = self.prompts.read(prompt, method.role)
            text = text or decoder.decode(tokens)
            is_firm = asked.max_new_tokens is not None and not asked.fit
            limits = self.prompts.fit(limits, len(tokens), is_firm, method.appends(decoder))
            sequence = TokenSequence(tokens, params, limits, decoder)
            program = method.maker.make(sequence, self.prompts, prompt, asked)
        except OptionError as error:
            sequence = TokenSequence(tokens, params, limits, decoder)
            rows, program = 1, fail_in_turn(locate(error, place, text))
        deadline = None if asked.timeout is None else time.monotonic() + asked.timeout
        job = AnswerJob(
            Request(sequence, program, deadline, rows),
            text,
            self._settings(method, params, limits, rendered),
        )
        job.number = next(self._numbers)
        return job

    def _with_defaults(self, asked: Asked, options: Mapping[str, Any], method: Method) -> Asked:
        """The options with the target's own defaults where a request gives no value."""
        given = {name for name, value in options.items() if value is not None}
        if "repetition_penalty" not in given:
            asked = replace(asked, repetition_penalty=self._defaults.repetition_penalty)
        # The bias is on the target's tokens, which models with another tokenizer do not share.
        is_targets = method.maker.takes_logit_bias and method.role == "target"
        if "logit_bias" not in given and is_targets:
            asked = replace(asked, logit_bias=dict(self._defaults.logit_bias))
        return asked

    def _check(self, method: Method) -> None:
        """Refuse a policy that this pair cannot be used with."""
        if method.pair is not None and method.pair != self._fingerprint():
            raise OptionError(
                f"{method.other_pair.removesuffix('.')}; another dtype, weight format or adapter "
                "makes another pair, too."
            )
        if method.rows > self._max_rows:
            raise OptionError(
                f"{method.settings['name']!r} needs {method.rows} rows of the cache for one "
                f"request and the pair has {self._max_rows}; load it with "
                f"max_rows={method.rows} or more, or ask for fewer candidates."
            )

    def _length(
        self, choice: int | Literal["auto"] | DraftLength, greedy: bool, method: Method
    ) -> DraftLength:
        if isinstance(choice, int):
            return FixedLength(choice)
        if choice == "auto" and (self._difference is not None or self._is_remote):
            return FixedLength()  # no blocks are drafted, so there is nothing to measure
        if isinstance(choice, str):
            if choice != "auto":
                raise OptionError(f'draft_length is {choice!r}; give a number, "auto" or a rule.')
            return self._auto_length(greedy, method.block_invariant, method.lossless)
        return choice

    def _settings(
        self,
        method: Method,
        params: SamplingParams,
        limits: Limits,
        chat: dict[str, Any] | None,
    ) -> Settings:
        return Settings(
            policy=method.settings,
            lossless=method.lossless,
            sampling={
                **asdict(params),
                # As in JSON, where keys are texts.
                "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()},
                "max_new_tokens": limits.max_new_tokens,
            },
            draft_length=describe(limits.draft_length),
            target=self.target.identity,
            draft=None if self.draft is None else self.draft.identity,
            stet=package_version(),
            chat=chat,
        )


def context_of(models: Iterable[LoadedModel]) -> int | None:
    """The longest context that all of these models have, in tokens; None without a limit."""
    found = [context_length(model.model.config) for model in models]
    return min((limit for limit in found if limit is not None), default=None)


def package_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("stet-decoding")
    except PackageNotFoundError:
        return "unknown"
