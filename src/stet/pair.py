"""A target and a draft that decode together: the front door of the package."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Unpack, overload

from stet.client import RemoteClient
from stet.costs import Costs, estimate_draft_cost, measure_costs
from stet.draft_length import LONGEST, SHARED, AdaptiveLength, DraftLength, FixedLength, describe
from stet.engine.compiled import WIDTHS
from stet.engine.drafting import LookupDrafter, ModelDrafter
from stet.engine.engine import Engine, Request
from stet.engine.runner import Runner
from stet.errors import OptionError
from stet.jobs import Job, Method, method_of
from stet.limits import Limits
from stet.models.fingerprint import fingerprint
from stet.models.model import LoadedModel
from stet.options import Options, Prompt, check_names, limits_of, sampling_of
from stet.policies import Policy
from stet.prompts import Prompts, check_remote
from stet.remote import RemoteTarget
from stet.result import Chunk, Result
from stet.sampling import SamplingParams
from stet.sequence import Role
from stet.sequence import Sequence as TokenSequence
from stet.trace import Settings
from stet.vocabulary import Rendered, Vocabulary

LOOKUP = "lookup"
"""As a draft: copy from the text so far instead of running a model."""

SPARE_ROWS = 1
"""Places beside those of requests, for measuring costs while they work."""

COMPILE_AFTER = 60.0
"""Seconds of work after which `compile="auto"` begins to compile: a short command never does."""


class Pair:
    """A target model and a draft, ready to generate. Made by `stet.load_pair`.

    Safe to use from several threads and event loops at once; their requests share batches.

    Attributes:
        target: the larger model, here or elsewhere.
        draft: the smaller model; None for prompt lookup.
        tokenizer: the one tokenizer of both; the target's where they differ, the draft's where the
            target is elsewhere.
        difference: how the models' tokenizers differ; None where they are the same.
        max_length: the most tokens of a sequence, prompt and answer together.
        max_batch: requests at work at a time; further ones wait.
        max_rows: places in each model's cache that they share.
    """

    def __init__(
        self,
        target: LoadedModel | RemoteTarget,
        draft: LoadedModel | None,
        *,
        max_length: int,
        max_batch: int = 16,
        max_rows: int | None = None,
        compile: bool | Literal["auto"] = "auto",
        difference: str | None = None,
    ) -> None:
        self.target = target
        self.draft = draft
        self.difference = difference
        here = draft if isinstance(target, RemoteTarget) else target
        if here is None:
            raise OptionError("A remote target needs a draft model that is here; name one.")
        self._vocabularies: dict[Role, Vocabulary] = {"target": Vocabulary(here)}
        if draft is not None and difference is not None:
            self._vocabularies["draft"] = Vocabulary(draft)
        self.tokenizer: Any = self._vocabularies["target"].tokenizer
        self.max_length = max_length
        self.max_batch = max_batch
        self.max_rows = max(max_rows or 0, max_batch + 1)
        sizes = {"max_rows": self.max_rows + SPARE_ROWS, "max_length": max_length}
        at_once = compile is True
        self._client: RemoteClient | None = None
        self._target_runner: Runner | None = None
        if isinstance(target, RemoteTarget):
            self._client = RemoteClient(target)
        else:
            self._target_runner = Runner(target, **sizes, compile=at_once)
        self._draft_runner = None if draft is None else Runner(draft, **sizes, compile=at_once)
        self._prompts = Prompts(self._vocabularies, max_length, self._client)
        self._seconds_to_compiling = COMPILE_AFTER if compile == "auto" else float("inf")
        drafter = (
            LookupDrafter() if self._draft_runner is None else ModelDrafter(self._draft_runner)
        )
        self.engine = Engine(
            self._target_runner, drafter, max_batch=max_batch, max_rows=self.max_rows
        )
        self._lock = threading.Lock()
        self._numbers = 0

    def __repr__(self) -> str:
        """Names of both models."""
        draft = LOOKUP if self.draft is None else self.draft.name
        return f"Pair(target={self.target.name!r}, draft={draft!r})"

    # Generating

    # A text is a sequence of texts too; the first overload is the one that is meant for it.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompts: str, policy: str | Policy = ..., **options: Unpack[Options]
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        policy: str | Policy = ...,
        *,
        on_progress: Callable[[Result], None] | None = ...,
        **options: Unpack[Options],
    ) -> list[Result]: ...

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        policy: str | Policy = "exact",
        *,
        on_progress: Callable[[Result], None] | None = None,
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Answer one prompt or many.

        Args:
            prompts: a text, or a list of texts or of token lists; `render` makes tokens of a chat.
            policy: a policy or its name; "target" and "draft" decode with one model alone.
            on_progress: called with each result as it is finished, in any order.
            **options: see `Options`.

        Returns:
            A result, or a list in the order of the prompts. In a list, a request that failed has
            its `error` set and the others are complete.

        Raises:
            OptionError: for an option that is unknown or out of range, before anything is run.
            StetError: where a single prompt failed.
        """
        single = isinstance(prompts, str)
        jobs = self._jobs([prompts] if isinstance(prompts, str) else prompts, policy, options)
        if on_progress is not None:
            for job in jobs:
                job.notify(on_progress)
        self._submit(jobs)
        try:
            for job in jobs:
                while not job.request.done:
                    self._step(job.request)
        finally:
            self._cancel(jobs)
        results = [job.result() for job in jobs]
        if not single:
            return results
        jobs[0].raise_error()
        return results[0]

    def stream(
        self, prompt: Prompt, policy: str | Policy = "exact", **options: Unpack[Options]
    ) -> Iterator[Chunk]:
        """Answer one prompt piece by piece; ending the iteration early cancels the request.

        Args:
            prompt: a text or tokens.
            policy: as in `generate`.
            **options: see `Options`.
        """
        (job,) = jobs = self._jobs([prompt], policy, options, stream=True)
        self._submit(jobs)
        try:
            while not job.request.done:
                self._step(job.request)
                if (chunk := job.news()) is not None:
                    yield chunk
            job.raise_error()
        finally:
            self._cancel(jobs)

    async def agenerate(
        self,
        prompts: str | Sequence[Prompt],
        policy: str | Policy = "exact",
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """`generate` for event loops; cancelling the task cancels the requests."""
        jobs = self._jobs([prompts] if isinstance(prompts, str) else prompts, policy, options)
        self._submit(jobs)
        try:
            for job in jobs:
                while not job.request.done:
                    await self._astep(job.request)
        finally:
            self._cancel(jobs)
        if not isinstance(prompts, str):
            return [job.result() for job in jobs]
        jobs[0].raise_error()
        return jobs[0].result()

    async def astream(
        self, prompt: Prompt, policy: str | Policy = "exact", **options: Unpack[Options]
    ) -> AsyncIterator[Chunk]:
        """`stream` for event loops."""
        (job,) = jobs = self._jobs([prompt], policy, options, stream=True)
        self._submit(jobs)
        try:
            while not job.request.done:
                await self._astep(job.request)
                if (chunk := job.news()) is not None:
                    yield chunk
            job.raise_error()
        finally:
            self._cancel(jobs)

    # Helping with prompts and numbers

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A chat as the tokens of a prompt, by the tokenizer's own template.

        Raises:
            OptionError: the tokenizer has no chat template.
        """
        tokens = self._vocabularies["target"].render(messages)
        draft = self._vocabularies.get("draft")
        if draft is None:
            return tokens
        if getattr(draft.tokenizer, "chat_template", None):
            return Rendered(tokens, draft.render(messages))
        return Rendered(tokens, self._prompts.read(tokens, "draft"))

    @cached_property
    def fingerprint(self) -> str:
        """What tells this pair from others, for policies that are fitted to one."""
        return fingerprint(self.target, self.draft)

    @cached_property
    def costs(self) -> Costs:
        """Seconds of a pass of each model, measured when first asked for.

        Raises:
            OptionError: the target is elsewhere.
        """
        if self._target_runner is None:
            raise OptionError("The passes of a remote target cannot be measured.")
        with self._lock:
            return measure_costs(self._target_runner, self._draft_runner)

    def auto_length(self, greedy: bool = True, seamless: bool = True) -> AdaptiveLength:
        """The rule behind `draft_length="auto"`, with this pair's costs frozen in it.

        Greedy text that is the same wherever blocks end leaves the choice to measured costs, and
        to how many requests share a round: in a batch a long block makes the others wait for it,
        alone it pays. Other texts depend on where blocks end, and an estimate from the models'
        sizes keeps them repeatable.

        Args:
            greedy: whether it is for requests at temperature 0.
            seamless: whether their policy writes the same text wherever blocks end.
        """
        # Looking at the draft's confidence would make a GPU wait for the host at every token.
        if isinstance(self.target, RemoteTarget):
            raise OptionError("A remote target reads no blocks, so none has a best length.")
        look = greedy and self.draft is not None and self.target.device.type == "cpu"
        if not (greedy and seamless):
            cost = _coarse(estimate_draft_cost(self.target, self.draft))
            return AdaptiveLength(draft_cost=cost, by_confidence=look)
        return AdaptiveLength(
            draft_cost=_coarse(self.costs.draft_cost),
            position_cost=_coarse(self.costs.position_cost),
            longest=LONGEST - 1 if self.max_batch == 1 else SHARED,
            by_confidence=look,
        )

    def warm_up(self, timeout: float | None = None) -> bool:
        """Compile all short passes now, where compiling is on, and wait for them.

        Args:
            timeout: seconds to wait for each; None: as long as it takes.

        Returns:
            Whether all are compiled; False also where compiling is off or failed.
        """
        widths = {"target": WIDTHS, "draft": WIDTHS[:2]}
        with self._lock:
            ready = [
                runner.warm_up(widths[role], timeout=timeout)
                for role, runner in self.engine.runners.items()
            ]
        return all(ready)

    # Behind the scenes

    def _jobs(
        self,
        prompts: Sequence[Prompt],
        policy: str | Policy,
        options: Options,
        stream: bool = False,
    ) -> list[Job]:
        check_names(options)
        has_draft = self.draft is not None
        method = method_of(
            policy,
            options.get("policy_parameters"),
            has_draft=has_draft,
            difference=self.difference,
            is_remote=self._client is not None,
        )
        if method.pair is not None and method.pair != self.fingerprint:
            raise OptionError(method.other_pair)
        if method.rows > self.max_rows:
            raise OptionError(
                f"{method.settings['name']!r} needs {method.rows} places in the cache for one "
                f"request and the pair has {self.max_rows}; load it with "
                f"max_rows={method.rows} or more, or ask for fewer candidates."
            )
        greedy = options.get("temperature", 0.0) == 0
        rule = self._length(options.get("draft_length", "auto"), greedy, method.seamless)
        vocabulary = self._vocabularies[method.role]
        limits = limits_of(options, vocabulary.ends, rule, stream)
        if method.mirrored is not None and options.get("logit_bias"):
            raise OptionError(
                "logit_bias names tokens, and the models of this pair have different ones; leave "
                "it out."
            )
        if method.remote is not None:
            check_remote(options)
        timeout = options.get("timeout")
        appends = method.appends(vocabulary.tokenizer)
        jobs: list[Job] = []
        for index, prompt in enumerate(prompts):
            params = sampling_of(options, index)
            tokens = self._prompts.read(prompt, method.role)
            asked = "max_new_tokens" in options
            fitting = self._prompts.fit(limits, len(tokens), asked, appends)
            sequence = TokenSequence(tokens, params, fitting, vocabulary.tokenizer)
            if method.mirrored is not None:
                program = method.mirrored(sequence, self._prompts.mirror(prompt, sequence, options))
            elif method.remote is not None:
                program = method.remote(sequence, self._prompts.correspondent(prompt, options))
            else:
                program = method.program(sequence)
            deadline = None if timeout is None else time.monotonic() + timeout
            request = Request(sequence, program, deadline, method.rows)
            text = prompt if isinstance(prompt, str) else vocabulary.tokenizer.decode(tokens)
            jobs.append(Job(request, text, self._settings(method, params, fitting)))
        for job in jobs:
            job.number = self._numbers
            self._numbers += 1
        return jobs

    def _length(
        self, choice: int | Literal["auto"] | DraftLength, greedy: bool, seamless: bool
    ) -> DraftLength:
        if isinstance(choice, int):
            return FixedLength(choice)
        if choice == "auto" and (self.difference is not None or self._client is not None):
            return FixedLength()  # no blocks are drafted, so there is nothing to measure
        if isinstance(choice, str):
            if choice != "auto":
                raise OptionError(f'draft_length is {choice!r}; give a number, "auto" or a rule.')
            return self.auto_length(greedy, seamless)
        return choice

    @property
    def models(self) -> list[LoadedModel]:
        """The models that are here, the target first."""
        both = (self.target, self.draft)
        return [model for model in both if isinstance(model, LoadedModel)]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._vocabularies["target"].ends

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

    def _submit(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            for job in jobs:
                self.engine.submit(job.request)

    def _step(self, request: Request) -> None:
        """Run a round, unless another thread's rounds have finished the request meanwhile."""
        with self._lock:
            if not request.done:
                began = time.perf_counter()
                self.engine.step()
                self._seconds_to_compiling -= time.perf_counter() - began
                if self._seconds_to_compiling < 0:
                    self._seconds_to_compiling = float("inf")
                    for runner in self.engine.runners.values():
                        runner.start_compiling()

    async def _astep(self, request: Request) -> None:
        await asyncio.get_running_loop().run_in_executor(self._worker, self._step, request)

    @cached_property
    def _worker(self) -> ThreadPoolExecutor:
        # One thread for all event loops: each thread that runs a model keeps its own team of cores.
        return ThreadPoolExecutor(1, thread_name_prefix="stet-engine")

    def _cancel(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            for job in jobs:
                self.engine.cancel(job.request)


def package_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("stet-decoding")
    except PackageNotFoundError:
        return "unknown"


def _coarse(value: float) -> float:
    """Two digits: timing noise should not show up as a different rule."""
    return float(f"{value:.2g}")
