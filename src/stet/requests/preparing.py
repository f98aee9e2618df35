"""From what users hand in to requests: prompts and options become jobs for the engine."""

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
from stet.core.operations import Program
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.trace import Settings
from stet.engine.request import Request
from stet.models.compatibility import context_length
from stet.models.defaults import GenerationDefaults
from stet.policies import Policy
from stet.remote.target import RemoteTarget
from stet.requests.chat import Rendered
from stet.requests.jobs import Job, Method, method_of
from stet.requests.options import Asked, read_options
from stet.requests.prompts import Prompts, check_remote


class Preparer:
    """Makes jobs of a pair's prompts and options; touches no model.

    Args:
        target: the larger model, here or elsewhere.
        draft: the smaller model; None for prompt lookup.
        prompts: reads the prompts.
        difference: how the models' tokenizers differ; None where they are the same.
        defaults: what requests get where they do not say otherwise.
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
        defaults: GenerationDefaults,
        max_rows: int,
        fingerprint: Callable[[], str],
        auto_length: Callable[[bool, bool], DraftLength],
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
    ) -> list[Job]:
        """A job for each prompt; one whose prompt is at fault fails as soon as it is run.

        Args:
            prompts: texts, token lists or chats.
            policy: a policy or its name.
            options: as the user gave them.
            stream: whether the text is wanted after every round.

        Raises:
            OptionError: for what concerns all prompts, before anything is run.
        """
        asked = read_options(options)
        method = method_of(
            policy,
            asked.policy_parameters,
            has_draft=self.draft is not None,
            difference=self._difference,
            is_remote=self._is_remote,
        )
        self._check(method)
        asked = self._with_defaults(asked, options, method)
        sampling = asked.sampling
        rule = self._length(asked.draft_length, sampling.greedy, method.block_invariant)
        vocabulary = self.prompts.vocabularies[method.role]
        limits = asked.limits(vocabulary.ends, rule, stream, vocabulary.special)
        if method.cross_tokenizer is not None and asked.logit_bias:
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
        if method.remote is not None:
            check_remote(asked)
        jobs: list[Job] = []
        for index, seed in enumerate(asked.seeds(len(prompts))):
            place = (index, len(prompts))
            params = replace(sampling, seed=seed)
            jobs.append(self._job(prompts[index], place, method, asked, params, limits))
        return jobs

    def _job(
        self,
        given: Any,
        place: tuple[int, int],
        method: Method,
        asked: Asked,
        params: SamplingParams,
        limits: Limits,
    ) -> Job:
        """The job of one prompt.

        Args:
            given: the prompt.
            place: its index, and how many prompts there are.
            method: what decodes it.
            asked: the options.
            params: how its tokens are chosen.
            limits: when it would end if its prompt were short.
        """
        decoder = self.prompts.vocabularies[method.role].tokenizer
        text, tokens, rendered = given if isinstance(given, str) else "", [], None
        rows, program = method.rows, None
        try:
            prompt = self.prompts.taken(given)
            rendered = prompt.record if isinstance(prompt, Rendered) else None
            tokens = self.prompts.read(prompt, method.role)
            text = text or decoder.decode(tokens)
            is_firm = asked.max_new_tokens is not None and not asked.fit
            limits = self.prompts.fit(limits, len(tokens), is_firm, method.appends(decoder))
            sequence = TokenSequence(tokens, params, limits, decoder)
            if method.cross_tokenizer is not None:
                program = method.cross_tokenizer(
                    sequence, self.prompts.crossing(prompt, sequence, asked)
                )
            elif method.remote is not None:
                program = method.remote(sequence, self.prompts.remote_writer(prompt, asked))
            else:
                program = method.program(sequence)
        except OptionError as error:
            sequence = TokenSequence(tokens, params, limits, decoder)
            rows, program = 1, _failing(_located(error, place, text))
        deadline = None if asked.timeout is None else time.monotonic() + asked.timeout
        job = Job(
            Request(sequence, program, deadline, rows),
            text,
            self._settings(method, params, limits, rendered),
        )
        job.number = next(self._numbers)
        return job

    def _with_defaults(self, asked: Asked, options: Mapping[str, Any], method: Method) -> Asked:
        """Options with the target's own defaults where a request gives no value."""
        given = {name for name, value in options.items() if value is not None}
        if "repetition_penalty" not in given:
            asked = replace(asked, repetition_penalty=self._defaults.repetition_penalty)
        # They are the target's tokens: models with different ones cannot share a bias.
        is_targets = method.cross_tokenizer is None and method.role == "target"
        if "logit_bias" not in given and is_targets:
            asked = replace(asked, logit_bias=dict(self._defaults.logit_bias))
        return asked

    def _check(self, method: Method) -> None:
        """Refuse a policy that this pair cannot be decoded with."""
        if method.pair is not None and method.pair != self._fingerprint():
            raise OptionError(
                f"{method.other_pair.removesuffix('.')}; another dtype, weight format or adapter "
                "makes another pair, too."
            )
        if method.rows > self._max_rows:
            raise OptionError(
                f"{method.settings['name']!r} needs {method.rows} places in the cache for one "
                f"request and the pair has {self._max_rows}; load it with "
                f"max_rows={method.rows} or more, or ask for fewer candidates."
            )

    def _length(
        self, choice: int | Literal["auto"] | DraftLength, greedy: bool, block_invariant: bool
    ) -> DraftLength:
        if isinstance(choice, int):
            return FixedLength(choice)
        if choice == "auto" and (self._difference is not None or self._is_remote):
            return FixedLength()  # no blocks are drafted, so there is nothing to measure
        if isinstance(choice, str):
            if choice != "auto":
                raise OptionError(f'draft_length is {choice!r}; give a number, "auto" or a rule.')
            return self._auto_length(greedy, block_invariant)
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
                # As JSON has it: names are texts.
                "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()},
                "max_new_tokens": limits.max_new_tokens,
            },
            draft_length=describe(limits.draft_length),
            target=self.target.identity,
            draft=None if self.draft is None else self.draft.identity,
            stet=package_version(),
            chat=chat,
        )


def _failing(error: OptionError) -> Program:
    """The program of a request that cannot be run: it fails in its turn, as any other may."""
    yield from ()
    raise error


def _located(error: OptionError, place: tuple[int, int], text: str) -> OptionError:
    """An error that says which of several prompts it is about."""
    index, count = place
    if count == 1:
        return error
    start = " ".join(text[:80].split())
    start = f" ({start[:37]}...)" if len(start) > 40 else f" ({start})" if start else ""
    return OptionError(f"Prompt {index + 1} of {count}{start}: {error}")


def context_of(models: Iterable[LoadedModel]) -> int | None:
    """The longest sequence that all of some models can read, in tokens; None without a limit."""
    found = [context_length(model.model.config) for model in models]
    return min((limit for limit in found if limit is not None), default=None)


def package_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("stet-decoding")
    except PackageNotFoundError:
        return "unknown"
