"""The target's exact law of whole answers, and how well the engine's samples follow it.

The vocabulary is so small that every answer can be listed. Its probability is computed without any
part of Stet: forward passes of transformers, and the sampling transforms written once more in
numpy. The checks are functions, so that the mutants can be shown to fail them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

import tiny
from stet.core.draft_length import DraftLength, FixedLength
from stet.core.limits import Limits
from stet.core.sampling import SamplingParams
from stet.engine.request import Request
from stet.policies import BlockVerification, Exact, TokenPolicy
from stet.programs import speculative
from stet.testing.statistics import Law, p_value
from stet.testing.statistics import total_variation as total_variation

FAMILY_ALPHA = 1e-3
"""The probability that a correct program fails any test of a family; seeds are fixed anyway."""


def total_variation_bound(law: Mapping[Any, float], total: int, alpha: float) -> float:
    """The distance that a sample exceeds with probability `alpha` at most (McDiarmid)."""
    mean = 0.5 * sum(math.sqrt(p * (1 - p) / total) for p in law.values())
    return mean + math.sqrt(math.log(1 / alpha) / (2 * total))


def transformed(
    logits: np.ndarray, prompt: list[int], answer: list[int], params: SamplingParams
) -> np.ndarray:
    """The distribution a token is drawn from, in double precision, one token at a time."""
    scores = logits.astype(np.float64).copy()
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    for token in {*prompt, *answer}:
        penalty = params.repetition_penalty
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    for token, count in Counter(answer).items():
        scores[token] -= params.frequency_penalty * count + params.presence_penalty
    if params.greedy:
        return np.eye(len(scores))[scores.argmax()]
    weights = np.exp((scores - scores.max()) / params.temperature)
    weights /= weights.sum()
    ranked = sorted(range(len(weights)), key=lambda token: -weights[token])
    if params.top_k:
        weights[ranked[params.top_k :]] = 0
        weights /= weights.sum()
    if params.top_p < 1:
        covered = 0.0
        for token in ranked:
            if covered >= params.top_p:
                weights[token] = 0
            covered += weights[token]
        weights /= weights.sum()
    if params.min_p:
        weights[weights < params.min_p * weights.max()] = 0
        weights /= weights.sum()
    return weights


def sequence_law(
    model: Any, prompt: list[int], count: int, params: SamplingParams, stops: frozenset[int]
) -> Law:
    """The probability of every answer of up to `count` tokens under plain decoding."""
    law: dict[tuple[int, ...], float] = {}
    alive: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(count):
        prefixes = list(alive)
        with torch.inference_mode():
            batch = torch.tensor([prompt + list(prefix) for prefix in prefixes])
            logits = model(batch).logits[:, -1].double().numpy()
        grown: dict[tuple[int, ...], float] = {}
        for prefix, row in zip(prefixes, logits, strict=True):
            for token, weight in enumerate(transformed(row, prompt, list(prefix), params)):
                if weight > 0:
                    ended = token in stops or step == count - 1
                    into = law if ended else grown
                    into[(*prefix, token)] = alive[prefix] * float(weight)
        alive = grown
    return law


@dataclass(frozen=True)
class Case:
    """A setting under which the engine's answers must follow the target's law.

    Attributes:
        policy: the rule; lossless.
        length: of the blocks.
        sampling: without a seed; each request gets its own.
        draft: how far the draft is from the target: 0 is the same model, a name is one of
            `UNRELATED`, None is prompt lookup.
        vocab: tokens in the vocabulary.
        count: tokens in an answer.
        chunk: of the prefill.
        stops: tokens that end an answer.
        samples: how many answers are drawn.
    """

    policy: TokenPolicy = field(default_factory=Exact)
    length: DraftLength = field(default_factory=lambda: FixedLength(3))
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=1.0))
    draft: float | str | None = 0.3
    vocab: int = 4
    count: int = 4
    chunk: int = 64
    stops: frozenset[int] = frozenset()
    samples: int = 1024


@dataclass(frozen=True)
class Sample:
    """Answers that were drawn, with the law they should follow.

    Attributes:
        tables: counts and law, for each of two prompts.
        acceptance: accepted share of the drafted tokens.
        rounds: verifications per answer.
    """

    tables: list[tuple[Counter[Hashable], Law]]
    acceptance: float
    rounds: float

    @property
    def p_value(self) -> float:
        return p_value(*self.tables)


# Two lengths, so that batches are ragged; the second one repeats itself, so that lookup finds text.
PROMPTS = ([1, 0], [0, 1, 1, 0, 0, 1, 1, 0, 0, 1])


# Drafts that know nothing of the target; "opposed" hardly ever means the same token.
UNRELATED = {"other": 11, "opposed": 30}


@cache
def models(vocab: int, draft: float | str | None) -> tuple[Any, Any]:
    """A target and a draft; cached, for they are not changed."""
    target = tiny.llama(vocab=vocab, layers=1, width=16, seed=3, scale=0.35)
    if draft is None:
        return target, None
    if draft in UNRELATED:
        seed = UNRELATED[draft]
        return target, tiny.llama(vocab=vocab, layers=1, width=16, seed=seed, scale=0.35)
    return target, tiny.near(target, float(draft))


def requests(case: Case, first_seed: int = 0) -> list[Request]:
    """The case's requests, alternating between the prompts."""
    limits = Limits(case.count, case.stops, draft_length=case.length)
    made: list[Request] = []
    for number in range(case.samples):
        sampling = tiny.seeded(case.sampling, first_seed + number)
        prompt = PROMPTS[number % len(PROMPTS)]
        made.append(tiny.request(prompt, case.policy, limits, sampling, speculative))
    return made


def sampled(case: Case, done: list[Request]) -> Sample:
    """Counts of finished requests beside the law."""
    target, _ = models(case.vocab, case.draft)
    tables: list[tuple[Counter[Hashable], Law]] = []
    for place, prompt in enumerate(PROMPTS):
        answers = [tuple(r.sequence.answer) for r in done[place :: len(PROMPTS)]]
        law = sequence_law(target, prompt, case.count, case.sampling, case.stops)
        tables.append((Counter(answers), law))
    counters = [r.sequence.counters for r in done]
    drafted = sum(c.drafted_tokens for c in counters)
    accepted = sum(c.accepted_tokens for c in counters)
    rounds = sum(c.target_passes for c in counters) / len(done)
    return Sample(tables, accepted / max(drafted, 1), rounds)


def sample(case: Case, first_seed: int = 0) -> Sample:
    """Draw the case's answers through a whole engine, 64 at a time."""
    target, draft = models(case.vocab, case.draft)
    machine = tiny.engine(target, draft, rows=64, max_length=32, chunk=case.chunk)
    done = requests(case, first_seed)
    tiny.run(machine, done)
    return sampled(case, done)


SHARP = SamplingParams(temperature=0.25)
WARM = SamplingParams(temperature=1.0)
HOT = SamplingParams(temperature=1.7)

POLICIES: tuple[TokenPolicy, ...] = (Exact(), BlockVerification())


def both(**settings: Any) -> list[Case]:
    """A case for each exact policy, otherwise the same."""
    return [Case(policy=policy, **settings) for policy in POLICIES]


CUTS = ("temperature", "top_k", "top_p", "min_p")
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


def name(case: Case) -> str:
    """A case in a few words, for test names: what differs from the default."""
    words = [case.policy.name, str(case.draft)]
    rule = case.length
    words.append(f"K{rule.longest}" if isinstance(rule, FixedLength) else "adaptive")
    if rule.min_confidence or getattr(rule, "by_confidence", False):
        words.append("confidence")
    plain = SamplingParams()
    for option in (*CUTS, *PENALTIES):
        if (value := getattr(case.sampling, option)) != getattr(plain, option):
            words.append(f"{option}{value}")
    if case.sampling.logit_bias:
        words.append("bias")
    for option in ("vocab", "count", "chunk"):
        if (value := getattr(case, option)) != getattr(Case(), option):
            words.append(f"{option}{value}")
    if case.stops:
        words.append("stops")
    return "-".join(words)
