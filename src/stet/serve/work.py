"""From the body of a request to what is run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stet.core.draft_length import LONGEST
from stet.core.errors import NAME, quoted
from stet.pair import Pair
from stet.policies import Policy
from stet.requests.chat import has_template
from stet.requests.seeds import drawn, seed_of
from stet.serve.errors import ApiError, invalid
from stet.serve.policies import PREFIX, Offer, PolicyDesk
from stet.serve.settings import Level, ServeSettings
from stet.serve.wire.chat import ChatBody
from stet.serve.wire.completions import CompletionBody
from stet.serve.wire.fields import Body

COMPLETION_TOKENS = 16
"""Tokens of a completion where the request sets no limit, as in OpenAI's API."""

_NOT_A_TEMPLATES = ("chat_template", "tools", "tokenize", "return_dict", "messages", "self")
"""Arguments that no client may give to the rendering of a chat."""

MOST_ENTRIES = 500_000
"""The most log-probabilities of prompts in a response, some tens of megabytes."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of a request.

    Attributes:
        given: the prompt as the pair takes it.
        tokens: how many tokens it has.
        text: its text, where the response repeats it.
    """

    given: Any
    tokens: int
    text: str = ""


@dataclass(frozen=True)
class Work:
    """A request that was read and can be run.

    Attributes:
        id: of the response.
        model: the model's name, as the request gives it.
        offer: the policy's place among those that the server offers.
        policy: the policy, with the request's parameters.
        prompts: one or several.
        choices: answers to each.
        options: options of every answer, without the seed.
        seed: of the first answer.
        level: how much the response says of its speculation.
        logprobs: None, or the most probable tokens that it lists at each position.
        prompt_logprobs: the same of the prompt, in a field of its own.
        writes: whether anything is to be written; otherwise the prompt alone is read.
        echo: whether the response repeats the prompt.
        stream: whether it comes piece by piece.
        include_usage: whether the stream ends with the usage.
        running_usage: whether every piece says what was read and written so far.
        token_ids: whether it has the ids of its tokens.
        timings: whether it has llama.cpp's timings.
        chat: whether it is a chat.
        created: seconds since the epoch.
        deadline: `time.monotonic()` at which it ends with what it has.
        arrived: `time.monotonic()` at which it was read.
    """

    id: str
    model: str
    offer: Offer
    policy: str | Policy
    prompts: Sequence[Prompt]
    choices: int
    options: dict[str, Any]
    seed: int
    level: Level
    logprobs: int | None
    prompt_logprobs: int | None
    writes: bool
    echo: bool
    stream: bool
    include_usage: bool
    running_usage: bool
    token_ids: bool
    timings: bool
    chat: bool
    deadline: float
    created: int = field(default_factory=lambda: int(time.time()))
    arrived: float = field(default_factory=time.monotonic)

    @property
    def count(self) -> int:
        """Sequences to be decoded."""
        return len(self.prompts) * self.choices

    @property
    def reads(self) -> int | None:
        """Most probable tokens to be found at each position of the prompts; None: none is read."""
        echoed = self.logprobs if self.echo else None
        asked = [count for count in (echoed, self.prompt_logprobs) if count is not None]
        return max(asked, default=None)

    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return max(self.deadline - time.monotonic(), 0.0)

    @property
    def detailed(self) -> bool:
        """Whether every token comes with its origin and reason."""
        return self.level in ("detailed", "trace")

    def seed_of(self, index: int) -> int:
        """The seed of a sequence: its own hash, as in a list of prompts."""
        return seed_of(self.seed, index)


class Reader:
    """Reads the bodies of requests for one pair; called outside of the event loop.

    Args:
        pair: the models.
        settings: the server's.
        desk: the policies that it offers.
    """

    def __init__(self, pair: Pair, settings: ServeSettings, desk: PolicyDesk) -> None:
        self.pair = pair
        self.settings = settings
        self.desk = desk
        self.model = settings.model or Path(pair.target.name).name
        # No text that is longer can fit, so that nobody need count its tokens.
        longest = max((len(token) for token in pair.tokenizer.get_vocab()), default=1)
        self._longest_text = longest * pair.max_length

    @property
    def models(self) -> list[str]:
        """Names by which requests address this server: its own, and one for each policy."""
        return [self.model, *(f"{PREFIX}{offer.name}" for offer in self.desk.offers)]

    def read(self, body: Body) -> Work:
        """Read a body.

        Raises:
            ApiError: for what cannot be run, naming the field.
            StetError: for a prompt that is none.
        """
        chat = isinstance(body, ChatBody)
        speculation = body.speculation
        offer = self._choose(body)
        policy = offer.with_parameters({} if speculation is None else speculation.parameters)
        level = (speculation.metrics if speculation else None) or self.settings.level
        logprobs = self._logprobs(body, offer)
        prompts = self._prompts(body)
        choices = body.n or 1
        if len(prompts) * choices > self.settings.max_choices:
            raise invalid(
                f"{len(prompts)} prompts with n={choices} are more sequences than this server "
                f"takes in a request ({self.settings.max_choices}); ask for fewer.",
                "n",
            )
        if body.stream_options is not None and not body.stream:
            raise invalid("stream_options need stream=true; leave them out.", "stream_options")
        if body.stream and body.prompt_logprobs is not None:
            raise invalid("prompt_logprobs are not available in a stream.", "prompt_logprobs")
        options = self._options(body, level, logprobs)
        writes = self._limit(body, prompts, options)
        work = Work(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            model=body.model,
            offer=offer,
            policy=policy,
            prompts=prompts,
            choices=choices,
            options=options,
            seed=body.seed if body.seed is not None else drawn(),
            level=level,
            logprobs=logprobs,
            prompt_logprobs=body.prompt_logprobs,
            writes=writes,
            echo=isinstance(body, CompletionBody) and bool(body.echo),
            stream=bool(body.stream),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            running_usage=bool(body.stream_options and body.stream_options.continuous_usage_stats),
            token_ids=bool(body.return_token_ids),
            timings=bool(body.timings_per_token),
            chat=chat,
            deadline=time.monotonic() + self.settings.timeout,
        )
        if work.reads is not None:
            entries = sum(prompt.tokens for prompt in prompts) * (work.reads + 1)
            if entries > MOST_ENTRIES:
                raise invalid(
                    f"{entries} log-probabilities of prompts are more than a response holds "
                    f"({MOST_ENTRIES}); ask for fewer, or send fewer prompts.",
                    "logprobs" if work.echo else "prompt_logprobs",
                )
        return work

    def _choose(self, body: Body) -> Offer:
        named = body.speculation.policy if body.speculation else None
        if body.model.startswith(PREFIX) and body.model != self.model:
            offer = self.desk.choose(body.model.removeprefix(PREFIX))
            if named not in (None, offer.name):
                raise invalid(
                    f"The model {body.model!r} stands for a policy, and speculation names another "
                    "one; give one of them.",
                    "speculation.policy",
                )
            return offer
        if body.model != self.model:
            shown = quoted(body.model, NAME)
            raise ApiError(
                404,
                f"There is no model {shown!r} here; this server has {self.model!r}, and "
                f"{PREFIX}POLICY for each policy that it offers.",
                param="model",
                code="model_not_found",
            )
        return self.desk.choose(named)

    def _logprobs(self, body: Body, offer: Offer) -> int | None:
        found: int | None
        if isinstance(body, ChatBody):
            if body.top_logprobs and not body.logprobs:
                raise invalid("top_logprobs need logprobs=true.", "top_logprobs")
            found = body.top_logprobs or 0 if body.logprobs else None
        else:
            assert isinstance(body, CompletionBody)
            found = body.logprobs
        if found is not None and not offer.reads_every_token:
            raise invalid(
                f"Under policy {offer.name!r} the target does not read every token, so there are "
                "no log-probabilities of all; leave logprobs out, or choose another policy.",
                "logprobs",
            )
        return found

    def _prompts(self, body: Body) -> list[Prompt]:
        if isinstance(body, ChatBody):
            return [self._chat(body)]
        assert isinstance(body, CompletionBody)
        found = body.prompts()
        if not found:
            raise invalid("prompt is an empty list; give at least one text.", "prompt")
        if len(found) > self.settings.max_choices:
            raise invalid(
                f"{len(found)} prompts are more than this server takes in a request "
                f"({self.settings.max_choices}).",
                "prompt",
            )
        return [self._prompt(given, echo=bool(body.echo)) for given in found]

    def _prompt(self, given: str | list[int], *, echo: bool) -> Prompt:
        if isinstance(given, str) and len(given) > self._longest_text:
            raise ApiError(
                400,
                f"A prompt of {len(given)} characters has more than {self.pair.max_length} tokens; "
                "shorten it.",
                param="prompt",
                code="context_length_exceeded",
            )
        tokens = self.pair.encode(given)
        text = ""
        if echo:
            text = given if isinstance(given, str) else self.pair.tokenizer.decode(tokens)
        # Where models have different tokens, the draft reads the text.
        taken = tokens if self.pair.difference is None else given
        return self._sized(Prompt(taken, 0, text), tokens)

    def _chat(self, body: ChatBody) -> Prompt:
        if not has_template(self.pair.tokenizer):
            raise invalid(
                "The model has no chat template; use /v1/completions with a text.", "messages"
            )
        arguments = body.template_arguments()
        for name in arguments:
            if name in _NOT_A_TEMPLATES:
                raise invalid(f"{name} cannot be given by a request.", "chat_template_kwargs")
        rendered = self.pair.render([m.plain() for m in body.messages], **arguments)
        if not rendered:
            raise invalid("The chat template leaves nothing of this chat; it is empty.", "messages")
        return self._sized(Prompt(rendered, 0), rendered)

    def _sized(self, prompt: Prompt, tokens: Sequence[int]) -> Prompt:
        most = self.settings.max_prompt
        if most is not None and len(tokens) > most:
            raise ApiError(
                400,
                f"The prompt has {len(tokens)} tokens, and this server takes {most}; shorten it.",
                param="prompt",
                code="context_length_exceeded",
            )
        return Prompt(prompt.given, len(tokens), prompt.text)

    def _limit(self, body: Body, prompts: Sequence[Prompt], options: dict[str, Any]) -> bool:
        """Set the length of answers; return whether there are any."""
        chat = isinstance(body, ChatBody)
        asked = body.max_tokens
        if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
            if asked is not None and asked != body.max_completion_tokens:
                raise invalid("max_tokens and max_completion_tokens differ.", "max_tokens")
            asked = body.max_completion_tokens
        if asked == 0:
            reads = body.prompt_logprobs is not None
            if not (reads or (isinstance(body, CompletionBody) and body.echo)):
                raise invalid("max_tokens is 0; give at least 1, or ask for echo.", "max_tokens")
            return False
        most = self.settings.max_output
        longest = max(prompt.tokens for prompt in prompts)
        if longest >= self.pair.max_length:
            raise ApiError(
                400,
                f"A prompt of {longest} tokens leaves no room for an answer within "
                f"{self.pair.max_length}; shorten it.",
                param="prompt",
                code="context_length_exceeded",
            )
        if asked is None:
            standard = None if chat else COMPLETION_TOKENS
            bounds = [b for b in (standard, most) if b is not None]
            options["max_new_tokens"] = min([*bounds, self.pair.max_length])
            options["fit"] = True
            return True
        if most is not None and asked > most:
            raise invalid(
                f"max_tokens is {asked}, and this server writes at most {most}; lower it.",
                "max_tokens",
            )
        room = self.pair.max_length - longest
        if room < asked:
            raise ApiError(
                400,
                f"A prompt of {longest} tokens and max_tokens of {asked} are more than the "
                f"{self.pair.max_length} that this server holds; lower max_tokens to {room} or "
                "shorten the prompt.",
                param="max_tokens",
                code="context_length_exceeded",
            )
        options["max_new_tokens"] = asked
        return True

    def _options(self, body: Body, level: Level, logprobs: int | None) -> dict[str, Any]:
        bias = body.logit_bias
        length = body.speculation.draft_length if body.speculation else None
        if length is not None and length > LONGEST:
            raise invalid(
                f"draft_length is {length}; it must be at most {LONGEST}.",
                "speculation.draft_length",
            )
        found = {
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": body.top_p,
            "top_k": None if body.top_k is None else max(body.top_k, 0),
            "min_p": body.min_p,
            "repetition_penalty": body.repetition_penalty,
            "presence_penalty": body.presence_penalty,
            "frequency_penalty": body.frequency_penalty,
            "logit_bias": None if bias is None else {int(k): v for k, v in bias.items()},
            "stop": body.stop or None,
            "stop_token_ids": body.stop_token_ids or None,
            "ignore_eos": body.ignore_eos,
            "draft_length": length,
            "logprobs": logprobs or None,
            "probabilities": True if level in ("detailed", "trace") or logprobs == 0 else None,
        }
        return {name: value for name, value in found.items() if value is not None}
