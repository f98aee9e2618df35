"""Two models with a vocabulary of today, and batches of requests that hold much of it at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from counting import VOCAB
from stet.core.draft_length import FixedLength
from stet.core.limits import Limits
from stet.core.sampling import SamplingParams
from stet.engine.drafting import ModelDrafter
from stet.engine.engine import Engine
from stet.engine.runner import Runner
from stet.models import LoadedModel, plan_memory, prepare_model
from stet.policies import Ensemble, Exact, SpecGuard
from stet.programs import LocalTarget, speculative, stepwise

BLOCK = 8
SAMPLED = SamplingParams(temperature=1.0, top_p=0.9, repetition_penalty=1.1)
READ = SpecGuard(threshold=1.0, lower=0.0, target_threshold=0.0, delimiter="~")
"""Every step is drafted whole, as there is no such character, and read by the target."""

CASES = {
    "greedy": (Exact(), SamplingParams(), 30, 3),
    "sampled": (Exact(), SAMPLED, 30, 2),
    "ensemble": (Ensemble(), SAMPLED, 30, 2),
    "prompt": (Exact(), SamplingParams(), 1100, 1),
    "step": (READ, SamplingParams(), 30, 140),
    "sampled step": (READ, SAMPLED, 30, 140),
}
"""The policy, how tokens are chosen, tokens of the prompt and of the answer."""


@cache
def model(role: Any, device: str = "cpu") -> LoadedModel:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    made = LlamaForCausalLM(config).to(device, torch.bfloat16)
    return prepare_model(made, name=role, role=role, self_check=False)


class Letters(tiny.Letters):
    """Every token is a letter."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return super().decode([token % 26 for token in token_ids])


def prepared(case: str, batch: int, device: str = "cpu") -> tuple[Callable[[], Any], int]:
    """The work of a batch of requests, and the bytes that are planned for it."""
    policy, sampling, prompt, answer = CASES[case]
    length = prompt + answer + 2
    rows = batch if isinstance(policy, (Exact, Ensemble)) else 2 * batch
    sizes = {"max_rows": rows, "max_length": length}
    target, draft = (model(role, device) for role in ("target", "draft"))
    plan = plan_memory(target, draft, block=BLOCK, **sizes)
    limits = Limits(max_new_tokens=answer, draft_length=FixedLength(BLOCK))

    def program(sequence: Any, rule: Any) -> Any:
        if isinstance(rule, SpecGuard):
            return stepwise(sequence, rule, LocalTarget(Exact()))
        return speculative(sequence, rule)

    requests = [
        tiny.request(
            [(7 * place + i) % VOCAB for i in range(prompt)],
            policy,  # type: ignore[arg-type]
            limits,
            tiny.seeded(sampling, place),
            program,
            Letters(),
        )
        for place in range(batch)
    ]
    for item in requests:
        item.rows = rows // batch

    def work() -> None:
        runners = Runner(target, **sizes), Runner(draft, **sizes)
        engine = Engine(runners[0], ModelDrafter(runners[1]), max_batch=batch)
        tiny.run(engine, requests)

    return work, plan.needed(str(target.device))
