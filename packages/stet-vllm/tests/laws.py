"""How far sampled tokens are from the law that they should follow."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from typing import Any

import torch
from engines import prompts, run_engine
from transformers import AutoModelForCausalLM

from stet.bundled import TARGET
from stet.testing.statistics import chi_square

SAMPLES = 2000
TEMPERATURE = 1.5
BEGINNING = 9
"""Tokens of a problem that answers go on from. In the middle of it both models are unsure, and of
different opinions: at its end they agree, and any rule would pass."""


def deviations(policy: str, samples: int, **job: Any) -> list[float]:
    """Standard deviations by which the second and the third token of answers miss their law.

    The first token is drawn by vLLM itself. The second one's law is given the first, the third
    one's given both; answers with the most frequent beginnings are looked at.
    """
    prompt = list(prompts()[0][:BEGINNING])
    batch = [
        {
            "prompt": prompt,
            "sampling": {
                "temperature": TEMPERATURE,
                "max_tokens": 3,
                "ignore_eos": True,
                "seed": seed,
                "extra_args": {"stet": policy},
            },
        }
        for seed in range(samples)
    ]
    found = run_engine([batch], max_num_seqs=64, k=2, **job)["found"]
    answers = [tuple(one["tokens"]) for one in found]
    assert {len(answer) for answer in answers} == {3}
    return [_deviation(prompt, answers, place) for place in (1, 2)]


def _deviation(prompt: list[int], answers: list[tuple[int, ...]], place: int) -> float:
    statistic, freedom = 0.0, 0
    for beginning, count in Counter(answer[:place] for answer in answers).items():
        if count < 20:
            continue
        counts = Counter(answer[place] for answer in answers if answer[:place] == beginning)
        law = dict(enumerate(_law([*prompt, *beginning])))
        part, more = chi_square(counts, law)
        statistic, freedom = statistic + part, freedom + more
    return (statistic - freedom) / math.sqrt(2 * freedom)


@cache
def _target() -> Any:
    """The target, by itself."""
    return AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)


def _law(tokens: list[int]) -> list[float]:
    """The target's distribution of what follows."""
    with torch.no_grad():
        logits = _target()(torch.tensor([tokens])).logits[0, -1].float()
    law: list[float] = (logits / TEMPERATURE).softmax(-1).tolist()
    return law
