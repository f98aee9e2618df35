"""A target and a draft that decode together: the front door of the package."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch

from stet.costs import Costs, estimate_draft_cost, measure_costs
from stet.draft_length import AdaptiveLength, DraftLength, FixedLength, describe
from stet.engine.drafting import LookupDrafter, ModelDrafter
from stet.engine.engine import Engine, Request
from stet.engine.operations import Program
from stet.engine.runner import Runner
from stet.errors import OptionError, StetError
from stet.models.loading import load_model
from stet.models.memory import plan_memory
from stet.models.model import LoadedModel
from stet.models.tokenizers import check_same_tokenizer
from stet.policies import Exact, TokenPolicy, parameters, resolve
from stet.programs import autoregressive, drafting, speculative
from stet.result import Chunk, Result, token_records
from stet.sampling import SamplingParams
from stet.sequence import Limits
from stet.sequence import Sequence as TokenSequence
from stet.trace import Settings

LOOKUP = "lookup"
"""As a draft: copy from the text so far instead of running a model."""

DEFAULT_LENGTH = 4096
"""Tokens of a sequence where neither the user nor the models set a lower limit."""

BUNDLED = Path(__file__).parent / "bundled"

Prompt = str | Sequence[int]
"""Text, or tokens."""


class Options(TypedDict, total=False):
    """How to generate; every one may be left out.

    Attributes:
        max_new_tokens: the longest answer, in tokens (256, or what fits).
        temperature: 0 takes the most probable token (0).
        top_k: sample from the k most probable tokens; 0 for all (0).
        top_p: sample from the most probable tokens of this joint probability (1).
        min_p: sample from tokens of at least this share of the best one's probability (0).
        repetition_penalty: above 1 discourages what stands in the text already (1).
        logit_bias: added to the logits of single tokens, by id.
        seed: randomness; prompt i of a list gets seed + i (0).
        stop: a string or strings that end the answer.
        stop_token_ids: tokens that end it, besides the model's own end-of-sequence tokens.
        ignore_eos: do not end at the model's own end-of-sequence tokens (False).
        logprobs: record the target's n most probable tokens at each position (0).
        probabilities: record both models' probability of each emitted token (False).
        draft_length: tokens per block, "auto", or a rule from `stet.draft_length` ("auto").
        timeout: seconds after which a request ends with what it has (never).
        policy_parameters: parameters of a policy that is given by name.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int
    probabilities: bool
    draft_length: int | Literal["auto"] | DraftLength
    timeout: float | None
    policy_parameters: dict[str, Any]


_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "logit_bias",
)


@dataclass(frozen=True)
class _Method:
    """A policy with the program that it is used in."""

    name: str
    policy: TokenPolicy
    program: Callable[[TokenSequence], Program]
    settings: dict[str, Any]
    lossless: bool


class Pair:
    """A target model and a draft, ready to generate. Made by `load_pair`.

    Safe to use from several threads and event loops at once; their requests share batches.

    Attributes:
        target: the larger model.
        draft: the smaller model; None for prompt lookup.
        tokenizer: the one tokenizer of both.
        max_length: the most tokens of a sequence, prompt and answer together.
        max_batch: requests at work at a time; further ones wait.
    """

    def __init__(
        self,
        target: LoadedModel,
        draft: LoadedModel | None,
        *,
        max_length: int,
        max_batch: int = 16,
        compile: bool = False,
    ) -> None:
        self.target = target
        self.draft = draft
        self.tokenizer: Any = target.tokenizer
        self.max_length = max_length
        self.max_batch = max_batch
        # One row more than requests, for measuring costs while others work.
        sizes = {"max_rows": max_batch + 1, "max_length": max_length}
        self._target_runner = Runner(target, **sizes, compile=compile)
        self._draft_runner = None if draft is None else Runner(draft, **sizes, compile=compile)
        drafter = (
            LookupDrafter() if self._draft_runner is None else ModelDrafter(self._draft_runner)
        )
        self.engine = Engine(self._target_runner, drafter, max_batch=max_batch)
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
        self, prompts: str, policy: str | TokenPolicy = ..., **options: Unpack[Options]
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        policy: str | TokenPolicy = ...,
        *,
        on_progress: Callable[[Result], None] | None = ...,
        **options: Unpack[Options],
    ) -> list[Result]: ...

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        policy: str | TokenPolicy = "exact",
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
        _raise_error(jobs[0])
        return results[0]

    def stream(
        self, prompt: Prompt, policy: str | TokenPolicy = "exact", **options: Unpack[Options]
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
            _raise_error(job)
        finally:
            self._cancel(jobs)

    async def agenerate(
        self,
        prompts: str | Sequence[Prompt],
        policy: str | TokenPolicy = "exact",
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
        _raise_error(jobs[0])
        return jobs[0].result()

    async def astream(
        self, prompt: Prompt, policy: str | TokenPolicy = "exact", **options: Unpack[Options]
    ) -> AsyncIterator[Chunk]:
        """`stream` for event loops."""
        (job,) = jobs = self._jobs([prompt], policy, options, stream=True)
        self._submit(jobs)
        try:
            while not job.request.done:
                await self._astep(job.request)
                if (chunk := job.news()) is not None:
                    yield chunk
            _raise_error(job)
        finally:
            self._cancel(jobs)

    # Helping with prompts and numbers

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A chat as the tokens of a prompt, by the tokenizer's own template.

        Raises:
            OptionError: the tokenizer has no chat template.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise OptionError("This tokenizer has no chat template; give the prompt as text.")
        rendered = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
        tokens: list[int] = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return tokens

    @cached_property
    def costs(self) -> Costs:
        """Seconds of a pass of each model, measured when first asked for."""
        with self._lock:
            return measure_costs(self._target_runner, self._draft_runner)

    def auto_length(self, greedy: bool = True) -> AdaptiveLength:
        """The rule behind `draft_length="auto"`, with this pair's costs frozen in it.

        Greedy text does not depend on it, so there measured costs decide. A sampled text does
        depend on where blocks end; an estimate from the models' sizes makes it repeatable.

        Args:
            greedy: whether it is for requests at temperature 0.
        """
        if not greedy:
            return AdaptiveLength(draft_cost=_coarse(estimate_draft_cost(self.target, self.draft)))
        return AdaptiveLength(
            draft_cost=_coarse(self.costs.draft_cost),
            position_cost=_coarse(self.costs.position_cost),
            # Looking at the draft's confidence would make a GPU wait for the host at every token.
            by_confidence=self.draft is not None and self.target.device.type == "cpu",
        )

    # Behind the scenes

    def _jobs(
        self,
        prompts: Sequence[Prompt],
        policy: str | TokenPolicy,
        options: Options,
        stream: bool = False,
    ) -> list[_Job]:
        unknown = sorted(set(options) - set(Options.__annotations__))
        if unknown:
            known = ", ".join(Options.__annotations__)
            raise OptionError(f"There is no option {unknown[0]!r}; the options are: {known}.")
        method = self._method(policy, options.get("policy_parameters"))
        sampling: dict[str, Any] = {k: v for k, v in options.items() if k in _SAMPLING}
        limits = self._limits(options, stream)
        seed = options.get("seed", 0)
        timeout = options.get("timeout")
        jobs: list[_Job] = []
        for index, prompt in enumerate(prompts):
            params = SamplingParams(**sampling, seed=seed + index)
            tokens = self._encode(prompt)
            fitting = self._fit(limits, len(tokens), "max_new_tokens" in options)
            sequence = TokenSequence(tokens, params, fitting, self.tokenizer)
            request = Request(
                sequence,
                method.program(sequence),
                None if timeout is None else time.monotonic() + timeout,
            )
            text = prompt if isinstance(prompt, str) else self.tokenizer.decode(tokens)
            jobs.append(_Job(request, text, self._settings(method, params, fitting)))
        for job in jobs:
            job.number = self._numbers
            self._numbers += 1
        return jobs

    def _method(self, policy: str | TokenPolicy, params: dict[str, Any] | None) -> _Method:
        if policy == "target":
            rule = Exact()
            return _Method(
                "target", rule, lambda s: autoregressive(s, rule), {"name": "target"}, True
            )
        if policy == "draft":
            if self.draft is None:
                raise OptionError("With prompt lookup there is no draft model to decode alone.")
            return _Method("draft", Exact(), drafting, {"name": "draft"}, False)
        chosen = resolve(policy, params)
        settings = {"name": chosen.name, **parameters(chosen)}
        return _Method(
            chosen.name, chosen, lambda s: speculative(s, chosen), settings, chosen.lossless
        )

    def _limits(self, options: Options, stream: bool) -> Limits:
        stop = options.get("stop", ())
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in strings:
            raise OptionError("A stop string must not be empty.")
        tokens = options.get("max_new_tokens", 256)
        if tokens < 1:
            raise OptionError(f"max_new_tokens is {tokens}; it must be at least 1.")
        top = options.get("logprobs", 0)
        if not 0 <= top <= 20:
            raise OptionError(f"logprobs is {top}; it must be between 0 and 20.")
        ends = frozenset[int]() if options.get("ignore_eos") else self._end_tokens
        return Limits(
            max_new_tokens=tokens,
            stop_token_ids=ends | set(options.get("stop_token_ids", ())),
            stop_strings=strings,
            draft_length=self._length(
                options.get("draft_length", "auto"), options.get("temperature", 0.0) == 0
            ),
            probabilities=options.get("probabilities", False) or top > 0,
            top_logprobs=top,
            stream=stream,
        )

    def _length(self, choice: int | Literal["auto"] | DraftLength, greedy: bool) -> DraftLength:
        if isinstance(choice, int):
            return FixedLength(choice)
        if isinstance(choice, str):
            if choice != "auto":
                raise OptionError(f'draft_length is {choice!r}; give a number, "auto" or a rule.')
            return self.auto_length(greedy)
        return choice

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            tokens: list[int] = list(self.tokenizer(prompt)["input_ids"])
        else:
            tokens = list(prompt)
            outside = [t for t in tokens if not 0 <= t < self.target.vocab_size]
            if outside:
                raise OptionError(f"Token {outside[0]} is not in the vocabulary.")
        if not tokens:
            raise OptionError("A prompt is empty; give at least one token.")
        return tokens

    def _fit(self, limits: Limits, prompt: int, asked: bool) -> Limits:
        """Limits that leave room for the prompt; a length that was asked for is not shortened."""
        room = self.max_length - prompt
        if room < 1 or (asked and limits.max_new_tokens > room):
            raise OptionError(
                f"A prompt of {prompt} tokens and an answer of up to {limits.max_new_tokens} "
                f"exceed {self.max_length} tokens; lower max_new_tokens to {max(room, 0)} or load "
                f"the pair with a larger max_length."
            )
        return replace(limits, max_new_tokens=min(limits.max_new_tokens, room))

    @cached_property
    def _end_tokens(self) -> frozenset[int]:
        ends: set[int] = set()
        config = getattr(self.target.model, "generation_config", None)
        for found in (getattr(config, "eos_token_id", None), self.tokenizer.eos_token_id):
            if found is not None:
                ends |= {found} if isinstance(found, int) else set(found)
        return frozenset(ends)

    def _settings(self, method: _Method, params: SamplingParams, limits: Limits) -> Settings:
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
            target=_identity(self.target),
            draft=None if self.draft is None else _identity(self.draft),
            stet=package_version(),
        )

    def _submit(self, jobs: Sequence[_Job]) -> None:
        with self._lock:
            for job in jobs:
                self.engine.submit(job.request)

    def _step(self, request: Request) -> None:
        """Run a round, unless another thread's rounds have finished the request meanwhile."""
        with self._lock:
            if not request.done:
                self.engine.step()

    async def _astep(self, request: Request) -> None:
        await asyncio.get_running_loop().run_in_executor(self._worker, self._step, request)

    @cached_property
    def _worker(self) -> ThreadPoolExecutor:
        # One thread for all event loops: each thread that runs a model keeps its own team of cores.
        return ThreadPoolExecutor(1, thread_name_prefix="stet-engine")

    def _cancel(self, jobs: Sequence[_Job]) -> None:
        with self._lock:
            for job in jobs:
                self.engine.cancel(job.request)


class _Job:
    """A request with what its result needs."""

    def __init__(self, request: Request, prompt: str, settings: Settings) -> None:
        self.request = request
        self.number = 0
        self._prompt = prompt
        self._settings = settings
        self._reported = 0

    def result(self) -> Result:
        error = self.request.error
        return Result(
            self.request.sequence,
            number=self.number,
            prompt=self._prompt,
            settings=self._settings,
            seconds=self.request.seconds,
            error=None if error is None else _sentence(error),
        )

    def notify(self, on_progress: Callable[[Result], None]) -> None:
        """Call back with the result when the request is done."""

        def finished(request: Request) -> None:
            if request.done:
                on_progress(self.result())

        self.request.on_progress = finished

    def news(self) -> Chunk | None:
        """What was emitted since the last call; None if nothing."""
        sequence, done = self.request.sequence, self.request.done
        tokens = token_records(sequence, self._reported)
        if not (tokens or done):
            return None
        self._reported += len(tokens)
        stream = sequence.stream
        if stream is None:
            return Chunk("", tokens, sequence.finish_reason)
        if not done:
            return Chunk(stream.take(), tokens, None)
        stream.finish()
        return Chunk(stream.take(final=True), tokens, sequence.finish_reason, self.result())


def load_pair(
    target: str | Path | None = None,
    draft: str | Path | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    draft_revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | dict[str, Any] | None = None,
    max_length: int | None = None,
    max_batch: int = 16,
    compile: bool | Literal["auto"] = "auto",
) -> Pair:
    """Load a target and a draft and check that they can decode together.

    Args:
        target: folder or hub name of the larger model; None for the bundled pair.
        draft: the same for the smaller model, or "lookup" to copy from the text so far.
        dtype: "auto" (as stored; float32 for the bundled pair), "float32", "bfloat16",
            "float16", or a torch dtype.
        device: "auto" takes CUDA where there is one.
        revision: git revision of the target on the hub.
        draft_revision: the same for the draft.
        trust_remote_code: run model code from the hub; off unless you ask for it.
        device_map: as in transformers, for models over several devices.
        max_length: the most tokens of a sequence; the models' own limit, or 4,096, if None.
        max_batch: requests at work at a time.
        compile: compile the forward passes; "auto" leaves short runs alone.

    Raises:
        LoadError: missing or unreadable files.
        CompatibilityError: a model that cannot be driven faithfully, or two tokenizers that differ.
        MemoryPlanError: weights and caches do not fit.
    """
    if target is None:
        if draft is not None and draft != LOOKUP:
            raise OptionError("Name a target for this draft; the bundled target has its own.")
        target, draft = BUNDLED / "target", draft or BUNDLED / "draft"
        # Stored in bfloat16 to be small; in float32 small models are no slower on a CPU, and blocks
        # and single tokens round alike far more often.
        dtype = "float32" if dtype == "auto" else dtype
    elif draft is None:
        raise OptionError(f'Name a draft model for {target}, or draft="{LOOKUP}" to do without.')
    shared: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "device_map": device_map,
        "max_length": max_length,
    }
    large = load_model(target, role="target", revision=revision, **shared)
    small = None
    if draft != LOOKUP:
        small = load_model(draft, role="draft", revision=draft_revision, **shared)
        check_same_tokenizer(large.tokenizer, small.tokenizer)
    models = [large] if small is None else [large, small]
    limits = [m.max_length for m in models if m.max_length is not None]
    length = max_length or min([DEFAULT_LENGTH, *limits])
    plan_memory(large, small, max_rows=max_batch + 1, max_length=length, block=16).check()
    return Pair(large, small, max_length=length, max_batch=max_batch, compile=compile is True)


def package_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("stet-decoding")
    except PackageNotFoundError:
        return "unknown"


def _identity(model: LoadedModel) -> dict[str, Any]:
    path = Path(model.name)
    # A folder is named by its last part: a trace tells what ran, not where it lay.
    name = f"bundled/{path.name}" if path.parent == BUNDLED else path.name
    name = name if path.is_dir() else model.name
    return {"name": name, "revision": model.revision, "dtype": str(model.dtype)}


def _coarse(value: float) -> float:
    """Two digits: timing noise should not show up as a different rule."""
    return float(f"{value:.2g}")


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, StetError) else f"{type(error).__name__}: {error}"


def _raise_error(job: _Job) -> None:
    error = job.request.error
    if error is not None:
        raise error if isinstance(error, StetError) else StetError(_sentence(error)) from error
