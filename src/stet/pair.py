"""A target and a draft that decode together: the main class of the package."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from stet.core.draft_length import LONGEST
from stet.core.errors import OptionError
from stet.core.model import LoadedModel
from stet.core.result import Chunk, Result
from stet.core.sequence import Role
from stet.engine.current_costs import CostsOfBatches, CurrentCosts
from stet.engine.drafting import LookupDrafter, ModelDrafter
from stet.engine.engine import Engine
from stet.engine.measured import Measured
from stet.engine.profile import Profile, open_profile
from stet.engine.runner import Runner
from stet.engine.thread import EngineThread
from stet.kernels.threads import release_pool
from stet.models.defaults import GenerationDefaults
from stet.models.fingerprint import fingerprint
from stet.models.memory import SPARE_PAGES, plan_memory, size_of
from stet.policies import Policy
from stet.remote.client import RemoteClient
from stet.remote.target import RemoteTarget
from stet.requests.chat import Rendered
from stet.requests.delivery import Events, deliver, finish
from stet.requests.inputs import Message, Prompt, prompts_of
from stet.requests.jobs import AnswerJob, results_of
from stet.requests.options import Options
from stet.requests.preparing import Preparer, context_of
from stet.requests.prompts import Prompts
from stet.requests.reading import Reads
from stet.text.vocabulary import Vocabulary

T = TypeVar("T")

LOOKUP = "lookup"
"""As a draft: copy from the text so far instead of running a model."""

SPARE_ROWS = 1
"""Cache rows beside those of requests, for measuring costs while requests run."""

COMPILE_AFTER = 60.0
"""Seconds of work after which `compile="auto"` begins to compile: a short command never does."""


class Pair(Measured, Reads):
    """A target model and a draft, ready to generate. Made by `stet.load_pair`.

    Safe to use from several threads and event loops at once; their requests share batches.

    Attributes:
        target: the larger model, local or remote.
        draft: the smaller model; None for prompt lookup.
        tokenizer: the one tokenizer of both; the target's where they differ, the draft's where the
            target is remote.
        difference: how the models' tokenizers differ; None where they are the same.
        generation_defaults: defaults of requests, from the target's `generation_config.json`; they
            apply whichever model writes.
        max_length: the most tokens of a sequence, prompt and answer together.
        max_batch: requests decoded at a time; further ones wait.
        max_rows: rows of each model's cache, which the requests share.
        memory: the memory that was planned when it was made.
        prefix_caching: whether texts that nobody works on stay in the caches while there is room.
    """

    def __init__(
        self,
        target: LoadedModel | RemoteTarget,
        draft: LoadedModel | None,
        *,
        max_length: int,
        max_batch: int = 16,
        max_rows: int | None = None,
        cache_memory: int | str | None = None,
        prefix_caching: bool = False,
        compile: bool | Literal["auto"] = "auto",
        difference: str | None = None,
        generation_defaults: GenerationDefaults | None = None,
        profile: bool = False,
    ) -> None:
        self.target = target
        self.draft = draft
        self.difference = difference
        self.generation_defaults = generation_defaults or GenerationDefaults()
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
        rows = self.max_rows + SPARE_ROWS
        self.memory = plan_memory(
            target if isinstance(target, LoadedModel) else None,
            draft,
            max_rows=rows,
            max_length=max_length,
            block=LONGEST,
            cache_memory=None if cache_memory is None else size_of(cache_memory),
        )
        self.memory.check()
        sizes = {"max_rows": rows, "max_length": max_length, "pages": self.memory.pages}
        self.prefix_caching = prefix_caching
        at_once = compile is True
        self._client: RemoteClient | None = None
        self._target_runner: Runner | None = None
        if isinstance(target, RemoteTarget):
            self._client = RemoteClient(target)
        else:
            self._target_runner = Runner(target, **sizes, compile=at_once)
        self._draft_runner = None if draft is None else Runner(draft, **sizes, compile=at_once)
        small = self._draft_runner
        if small is not None and isinstance(target, LoadedModel) and difference is None:
            small.stand_in = small.vocab_size - 1 if small.vocab_size < target.vocab_size else None
        for runner in (self._target_runner, self._draft_runner):
            if runner is not None:
                runner.keep_texts(prefix_caching)
        self._profile = Profile(None, {})
        self._costs: CurrentCosts | None = None
        self._batches: CostsOfBatches | None = None
        if self._target_runner is not None:
            if profile:
                short = None if small is None else small.shortlist
                size = None if short is None else short.size
                self._profile = open_profile(self.fingerprint, size)
            self._costs = CurrentCosts(self._target_runner, self._draft_runner, kept=self._profile)
        context = context_of(self.models)
        self._prompts = Prompts(self._vocabularies, max_length, self._client, context)
        self._preparer = Preparer(
            target,
            draft,
            self._prompts,
            difference=difference,
            defaults=self.generation_defaults,
            max_rows=self.max_rows,
            fingerprint=lambda: self.fingerprint,
            auto_length=self.auto_length,
        )
        drafter = (
            LookupDrafter() if self._draft_runner is None else ModelDrafter(self._draft_runner)
        )
        self.engine = Engine(
            self._target_runner,
            drafter,
            max_batch=max_batch,
            max_rows=self.max_rows,
            spare_pages=SPARE_PAGES,
        )
        if self._costs is not None and all(m.device.type == "cpu" for m in self.models):
            # Halves of rounds are timed on a CPU only.
            self._batches = CostsOfBatches(self._costs, self.models[0])
            self.engine.costs = self._batches
        self._thread = EngineThread(
            self.engine,
            compile_after=COMPILE_AFTER if compile == "auto" else float("inf"),
            after_round=None if self._costs is None else self._costs.renew,
        )
        # A pair that is no longer referenced stops its thread.
        weakref.finalize(self, self._thread.stop).atexit = False
        self._helpers = ThreadPoolExecutor(4, thread_name_prefix="stet-helper")
        self._measuring = threading.Lock()
        # Passes run in a thread of the pair's own; those that helped to load would count as well.
        release_pool()

    def __repr__(self) -> str:
        """Names of both models."""
        draft = LOOKUP if self.draft is None else self.draft.name
        return f"Pair(target={self.target.name!r}, draft={draft!r})"

    def __enter__(self) -> Self:
        """The pair; leaving the `with` block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pair, as `close` does."""
        self.close()

    def close(self) -> None:
        """End the running requests, the threads and the connections of the pair, for good.

        Running requests end with the text they have, and with an error that says so. Closing twice
        does no harm, and a program that ends without closing ends cleanly too.
        """
        if self._client is not None:
            self._client.close()  # before its event loop ends with the thread
        self._thread.close()
        # The work there is short, and somebody waits for it.
        self._helpers.shutdown(wait=False)

    # Generating

    # A text is a sequence of texts too; the first overload is the one that is meant for it.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        policy: str | Policy = ...,
        *,
        on_progress: Callable[[Result], None] | None = ...,
        **options: Unpack[Options],
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
        prompts: Prompt | Sequence[Prompt],
        policy: str | Policy = "exact",
        *,
        on_progress: Callable[[Result], None] | None = None,
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Answer one prompt or many.

        Args:
            prompts: a text, a flat list of token ids or a list of messages is one prompt; a list of
                such is many. A chat is put into the tokenizer's own template, as by `render`.
            policy: a policy or its name; "target" and "draft" decode with one model alone.
            on_progress: called with each result as it is finished, in any order.
            **options: see `Options`.

        Returns:
            A result, or a list in the order of the prompts. In a list, a request that failed has
            its `error` set and the others are complete.

        Raises:
            OptionError: for an option that is unknown or out of range, or for something that is no
                prompt, before anything is run.
            StetError: where a single prompt failed.
        """
        many, single = prompts_of(prompts)
        jobs = self._jobs(many, policy, options)
        with closing(deliver(self._thread, jobs, stream=False)) as events:
            for job, _ in events:
                if on_progress is not None:
                    try:
                        on_progress(job.result())
                    except Exception as error:
                        job.fail(error)
        return results_of(jobs, single)

    def stream(
        self, prompt: Prompt, policy: str | Policy = "exact", **options: Unpack[Options]
    ) -> Iterator[Chunk]:
        """Answer one prompt piece by piece; ending the iteration early cancels the request.

        Args:
            prompt: a text, tokens, or the messages of a chat.
            policy: as in `generate`.
            **options: see `Options`.
        """
        (job,) = self._jobs([prompt], policy, options, stream=True)
        with closing(deliver(self._thread, [job], stream=True)) as events:
            for _, chunk in events:
                if (piece := chunk or job.news()) is not None:
                    yield piece
            job.raise_error()

    async def agenerate(
        self,
        prompts: Prompt | Sequence[Prompt],
        policy: str | Policy = "exact",
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Answer one prompt or many in an event loop; cancelling the task cancels the requests.

        Takes the arguments of `generate`. Nothing that takes long is done in the loop's thread:
        prompts are tokenized, and results made, in another one.
        """
        many, single = prompts_of(prompts)
        jobs = await self._in_helper_thread(lambda: self._jobs(many, policy, options))
        await finish(self._thread, jobs)
        return await self._in_helper_thread(lambda: results_of(jobs, single))

    async def astream(
        self, prompt: Prompt, policy: str | Policy = "exact", **options: Unpack[Options]
    ) -> AsyncIterator[Chunk]:
        """Answer one prompt piece by piece in an event loop; see `stream` for the arguments."""
        (job,) = await self._in_helper_thread(
            lambda: self._jobs([prompt], policy, options, stream=True)
        )
        with Events(self._thread, [job], stream=True) as events:
            while (event := await events.next()) is not None:
                piece = event[1] or await self._in_helper_thread(job.news)
                if piece is not None:
                    yield piece
            job.raise_error()

    # Prompts

    def render(self, messages: Sequence[Message], **arguments: Any) -> Rendered:
        """Render a chat as the tokens of a prompt, by the tokenizer's own template.

        Args:
            messages: dictionaries with `role` and `content`.
            **arguments: arguments of the template, such as `enable_thinking`, `tools` or
                `documents`; with `continue_final_message` the answer continues the last message.

        Raises:
            OptionError: the tokenizer has no chat template, or the template refuses the chat.
        """
        return self._prompts.render(messages, arguments)

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, as the target reads them.

        Args:
            prompt: a text, tokens, or the messages of a chat.

        Raises:
            OptionError: it is no prompt, or an empty one.
        """
        return self._prompts.read(self._prompts.take(prompt), "target")

    @cached_property
    def fingerprint(self) -> str:
        """A hash that identifies this pair, for policies that are fitted to one pair."""
        return fingerprint(self.target, self.draft)

    def check_policy(self, policy: str | Policy) -> None:
        """Refuse a policy that this pair cannot be used with; requests are checked anyway.

        Args:
            policy: as in `generate`.

        Raises:
            StetError: it does not exist, was fitted to another pair, needs a draft or a local
                target, or more rows of the caches than there are.
        """
        self._preparer.method(policy)

    # Internals

    def _jobs(
        self,
        prompts: Sequence[Prompt],
        policy: str | Policy,
        options: Options,
        stream: bool = False,
    ) -> list[AnswerJob]:
        return self._preparer.jobs(prompts, policy, options, stream)

    @property
    def models(self) -> list[LoadedModel]:
        """The local models, the target first."""
        both = (self.target, self.draft)
        return [model for model in both if isinstance(model, LoadedModel)]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._vocabularies["target"].ends

    async def _in_helper_thread(self, function: Callable[[], T]) -> T:
        """Call a function in another thread than the event loop's."""
        loop = asyncio.get_running_loop()
        try:
            result = loop.run_in_executor(self._helpers, function)
        except RuntimeError:  # the pair was closed; what was written, or a sentence, is there still
            result = loop.run_in_executor(None, function)
        return await result
