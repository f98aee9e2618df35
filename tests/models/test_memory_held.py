"""The memory plan against what is held at most, of two models with a vocabulary of today."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from counting import VOCAB, peak
from stet.draft_length import FixedLength
from stet.engine.drafting import ModelDrafter
from stet.engine.engine import Engine
from stet.engine.runner import Runner
from stet.engine.scoring import most_positions
from stet.limits import Limits
from stet.models import LoadedModel, plan_memory, prepare_model
from stet.policies import Ensemble, Exact, SpecGuard
from stet.programs import speculative, stepwise
from stet.sampling import SamplingParams

BLOCK = 8
SAMPLED = SamplingParams(temperature=1.0, top_p=0.9, repetition_penalty=1.1)
READ = SpecGuard(threshold=1.0, lower=0.0, target_threshold=0.0, delimiter="~")
"""Every step is drafted whole, as there is no such character, and read by the target."""


@cache
def model(role: Any) -> LoadedModel:
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
    return prepare_model(
        LlamaForCausalLM(config).to(torch.bfloat16), name=role, role=role, self_check=False
    )


class Letters(tiny.Letters):
    """Every token is a letter."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return super().decode([token % 26 for token in token_ids])


CASES = {
    "greedy": (Exact(), SamplingParams(), 30, 3),
    "sampled": (Exact(), SAMPLED, 30, 2),
    "ensemble": (Ensemble(), SAMPLED, 30, 2),
    "prompt": (Exact(), SamplingParams(), 1100, 1),
    "step": (READ, SamplingParams(), 30, 140),
    "sampled step": (READ, SAMPLED, 30, 140),
}
"""The policy, how tokens are chosen, tokens of the prompt and of the answer."""

DEAREST = "sampled step"
"""What the plan is for, where there are several requests."""


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_no_more_is_held_than_planned(case: str, batch: int) -> None:
    policy, sampling, prompt, answer = CASES[case]
    length = prompt + answer + 2
    rows = batch if isinstance(policy, (Exact, Ensemble)) else 2 * batch
    sizes = {"max_rows": rows, "max_length": length}
    target, draft = (Runner(model(role), **sizes) for role in ("target", "draft"))
    engine = Engine(target, ModelDrafter(draft), max_batch=batch)
    limits = Limits(max_new_tokens=answer, draft_length=FixedLength(BLOCK))

    def program(sequence: Any, rule: Any) -> Any:
        if isinstance(rule, SpecGuard):
            return stepwise(sequence, rule, Exact())
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
    held = peak(lambda: tiny.run(engine, requests))
    plan = plan_memory(model("target"), model("draft"), block=BLOCK, **sizes)
    needed = plan.needed("cpu")
    assert held <= needed
    if case == DEAREST and batch == 4:
        assert needed < 2.5 * held


def test_longer_blocks_take_more_of_the_draft() -> None:
    plans = [
        plan_memory(model("target"), model("draft"), max_rows=2, max_length=200, block=n)
        for n in (16, 32)
    ]
    short, long = (plan.models[1].workspace for plan in plans)
    assert long - short == 2 * 16 * 4 * 4 * VOCAB


def test_a_pass_has_no_more_logits_than_it_may() -> None:
    """Steps of many requests are read in several passes, blocks of tokens in one."""
    most = most_positions(VOCAB, torch.device("cpu"))
    assert 16 * 16 < most < 4 * 129
