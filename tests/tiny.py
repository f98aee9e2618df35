"""Tiny models for tests: random ones from transformers, and one whose law is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stet.core.block import Reading
from stet.core.limits import Limits
from stet.core.model import LoadedModel
from stet.core.needs import Need
from stet.core.operations import Operation
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.engine.drafting import LookupDrafter, ModelDrafter
from stet.engine.engine import Engine
from stet.engine.request import Request
from stet.engine.runner import Runner
from stet.models.loading import prepare_model
from stet.policies import Step, StepDecision, StepPolicy, TokenPolicy
from stet.programs import speculative


def llama(
    *, vocab: int = 50, layers: int = 2, width: int = 32, seed: int = 0, scale: float = 0.4
) -> LlamaForCausalLM:
    """A random Llama, with weights large enough that its choices are not near ties."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, scale)
    return model


def near(model: LlamaForCausalLM, noise: float, seed: int = 1) -> LlamaForCausalLM:
    """A copy with disturbed weights: a draft that often, but not always, agrees."""
    other = LlamaForCausalLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.dim() > 1:
                parameter += noise * torch.randn(parameter.shape, generator=generator)
    return other


def loaded(model: Any, role: Any = "target") -> LoadedModel:
    """A copy of the model as the loader hands it over; the original stays transformers' own."""
    return prepare_model(deepcopy(model), name=f"tiny-{role}", role=role, self_check=False)


def engine(
    target: Any,
    draft: Any | None,
    *,
    rows: int = 16,
    max_length: int = 256,
    max_batch: int | None = None,
    chunk: int = 64,
) -> Engine:
    """An engine over two tiny models; prompt lookup where there is no draft."""
    runner = Runner(loaded(target), max_rows=rows, max_length=max_length)
    if draft is None:
        drafter: Any = LookupDrafter()
    else:
        small = Runner(loaded(draft, "draft"), max_rows=rows, max_length=max_length)
        drafter = ModelDrafter(small)
    return Engine(runner, drafter, max_batch=max_batch or rows, prefill_chunk=chunk)


def request(
    prompt: list[int],
    policy: TokenPolicy,
    limits: Limits,
    sampling: SamplingParams | None = None,
    program: Any = speculative,
    decoder: Any = None,
) -> Request:
    """A request for the engine."""
    sequence = TokenSequence(prompt, sampling or SamplingParams(), limits, decoder)
    return Request(sequence, program(sequence, policy))


def seeded(params: SamplingParams, seed: int) -> SamplingParams:
    """The parameters with another seed."""
    return replace(params, seed=seed)


def run(machine: Engine, requests: list[Request], rounds: int = 10_000) -> list[list[int]]:
    """Run requests to their end; returns their answers and insists that nothing failed."""
    for item in requests:
        machine.submit(item)
    for _ in range(rounds):
        if not machine.busy:
            break
        machine.step()
    for item in requests:
        if item.error is not None:
            raise item.error
        assert item.done
    return [item.sequence.answer for item in requests]


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """Plain greedy decoding without any cache: what lossless means at temperature 0."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


class Letters:
    """A tokenizer's decoding half: token 0 is "a", token 1 is "b", and so on."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Tokens as text."""
        del skip_special_tokens
        return "".join(chr(ord("a") + token) for token in token_ids)


@dataclass(frozen=True)
class Stumps(StepPolicy):
    """Doubts every candidate from its second token on, and accepts all of them."""

    delimiter: Any = "\n"
    step_tokens: int = 32
    candidates: int = 1
    target_candidates: int = 1
    shadow: bool = False

    name: ClassVar[str] = "stumps"
    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()

    def doubt(self, sampling: SamplingParams) -> Callable[[Any], bool]:
        """Every candidate."""
        del sampling
        return lambda logprobs: len(logprobs) >= 2

    def sampling(self, base: SamplingParams) -> SamplingParams:
        """As the request."""
        return base

    def select(self, candidates: Any) -> int:
        """The first."""
        del candidates
        return 0

    def judge(self, step: Step) -> Generator[Operation, Any, StepDecision]:
        """Accept every step."""
        yield from ()
        return StepDecision(0, accepted=True, reason="fine")


def unread(place: int) -> Generator[Operation, Any, Reading]:
    """As `Step.read`, where the target is to be asked nothing."""
    raise AssertionError(f"the target was asked about candidate {place}")


def unasked(question: str, answers: Sequence[str]) -> Generator[Operation, Any, list[list[float]]]:
    """As `Step.ask`, where the target is to be asked nothing."""
    raise AssertionError(f"the target was asked {question!r} {answers!r}")
