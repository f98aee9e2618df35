"""The bundled pair on a CUDA device: the same texts, no waits, training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import stet
from stet.bundled import TARGET, generate
from stet.core.result import Result
from stet.engine import scoring
from stet.engine.uniforms import uniforms
from stet.evaluation.tasks import load_task
from stet.models.memory import available_bytes
from stet.pair import Pair
from stet.policies import CoSpec, available
from stet.training.request import TrainRequest
from stet.training.training import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (TARGET / "model.safetensors").exists(), reason="the bundled weights are not here"
    ),
]

PROBLEMS = 32
LONGEST = 160


def load(device: str = "cuda", dtype: str = "float32", **options: Any) -> Pair:
    options = {"max_length": 640, "max_batch": 16, "compile": False} | options
    return stet.load_pair(dtype=dtype, device=device, **options)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load()


@pytest.fixture(scope="module")
def host() -> Pair:
    return load("cpu")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [problem.prompt for problem in generate("stories", "test", PROBLEMS, seed=20)]


@pytest.fixture(scope="module")
def plain(pair: Pair, prompts: list[str]) -> list[list[int]]:
    """The target's own answers."""
    return texts(pair.generate(prompts, "target", max_new_tokens=LONGEST))


def texts(results: list[Result]) -> list[list[int]]:
    assert [r.error for r in results if r.error is not None] == []
    return [r.token_ids for r in results]


def alike(left: list[list[int]], right: list[list[int]]) -> float:
    """Share of equal texts."""
    return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)


def token_policies() -> list[str]:
    """Those that run on the bundled pair with nothing but their name."""
    return [kind.name for kind in available() if hasattr(kind, "verify")]


def test_the_device_is_the_default(prompts):
    pair = stet.load_pair(max_length=640, max_batch=1, compile=False)
    assert pair.target.device.type == "cuda"
    assert available_bytes(pair.target.device) <= torch.cuda.mem_get_info()[1]


def test_plain_decoding_is_what_transformers_generates(pair, prompts, plain):
    reference = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).cuda()
    for place in range(0, PROBLEMS, 8):
        ids = torch.tensor([pair.tokenizer(prompts[place])["input_ids"]], device="cuda")
        written = reference.generate(ids, max_new_tokens=LONGEST, do_sample=False)
        assert plain[place] == written[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("policy", ["exact", "block"])
@pytest.mark.parametrize("draft_length", [1, 5, 15, "auto"])
def test_speculating_gives_the_targets_text(pair, prompts, plain, policy, draft_length):
    results = pair.generate(prompts, policy, max_new_tokens=LONGEST, draft_length=draft_length)
    assert texts(results) == plain
    assert sum(r.counters.target_passes for r in results) < 0.8 * sum(map(len, plain))


def test_one_at_a_time_too(prompts, plain):
    alone = load(max_batch=1)
    for place in range(0, PROBLEMS, 8):
        assert alone.generate(prompts[place], max_new_tokens=LONGEST).token_ids == plain[place]


def test_the_device_changes_no_text(host, prompts, plain):
    theirs = texts(host.generate(prompts, "target", max_new_tokens=LONGEST))
    assert alike(plain, theirs) >= 1 - 1 / PROBLEMS  # a near tie may go the other way


def test_lookup(prompts, plain):
    copying = stet.load_pair(None, "lookup", dtype="float32", device="cuda", max_length=640)
    assert texts(copying.generate(prompts, max_new_tokens=LONGEST)) == plain


@pytest.mark.parametrize("policy", ["exact", "cospec"])
def test_captured_graphs_change_no_text(prompts, pair, policy):
    captured = load(compile=True, max_batch=4)
    runners = captured.engine.runners
    # Graphs belong to the thread that captures them.
    assert captured.between_rounds(lambda: runners["draft"].warm_up([1, 2]))
    assert captured.between_rounds(lambda: runners["target"].warm_up([8]))
    options: Any = {"max_new_tokens": LONGEST, "draft_length": 6}
    ours = texts(captured.generate(prompts, policy, **options))
    assert alike(ours, texts(pair.generate(prompts, policy, **options))) >= 1 - 1 / PROBLEMS
    one_by_one = [captured.generate(p, policy, **options).token_ids for p in prompts[:4]]
    assert one_by_one == ours[:4]
    assert all(r._compiled is not None for r in captured.engine.runners.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """Wording is full of near ties, which rounding decides, also by the width of a pass."""
    task = load_task("stories", split="test", count=2 * PROBLEMS)
    assert task.grader is not None
    half = load(dtype=dtype)
    asked = [question.prompt for question in task.questions]
    own, ours = (
        half.generate(asked, policy, max_new_tokens=LONGEST) for policy in ("target", "exact")
    )
    assert alike(texts(own), texts(ours)) > 0.5
    for results in (own, ours):
        right = [
            task.grader.right(task.grader.extract(result.text), question.reference)
            for question, result in zip(task.questions, results, strict=True)
        ]
        assert sum(right) > 0.7 * len(right)


@pytest.mark.parametrize("policy", token_policies())
def test_every_rule_writes_what_it_writes_on_a_cpu(pair, host, prompts, policy):
    options: Any = {"max_new_tokens": LONGEST, "draft_length": 6}
    ours = pair.generate(prompts, policy, **options)
    theirs = host.generate(prompts, policy, **options)
    assert alike(texts(ours), texts(theirs)) >= 0.9
    assert {r.finish_reason for r in ours} <= {"stop", "length"}


@pytest.mark.parametrize("policy", ["exact", "block", "cospec"])
def test_a_seed_gives_the_same_sample(pair, host, prompts, policy):
    options: Any = {
        "max_new_tokens": LONGEST,
        "draft_length": 6,
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": 7,
    }
    ours = texts(pair.generate(prompts, policy, **options))
    assert alike(ours, texts(pair.generate(prompts, policy, **options))) >= 0.9
    assert pair.generate(prompts[0], policy, **options).token_ids == ours[0]  # without the others
    assert alike(ours, texts(host.generate(prompts, policy, **options))) >= 0.8


def test_samples_follow_the_targets_law(pair, prompts):
    """First tokens of many samples, by speculation and by the target alone: one law."""
    problem, count = prompts[0], 2000
    # Well above 1, so that there is something to choose from.
    options: Any = {"max_new_tokens": 3, "temperature": 4.0}
    seen = []
    for policy, first in (("target", 0), ("exact", count)):
        results = [
            r
            for start in range(first, first + count, 500)
            for r in pair.generate([problem] * 500, policy, seed=start, draft_length=2, **options)
        ]
        seen.append(Counter(tuple(r.token_ids[:2]) for r in results))
    total = sum(
        (seen[0][key] - seen[1][key]) ** 2 / (seen[0][key] + seen[1][key])
        for key in seen[0] | seen[1]
    )
    freedom = len(seen[0] | seen[1]) - 1
    assert freedom > 5
    assert total < freedom + 4 * math.sqrt(2 * freedom)


def test_random_numbers_are_the_same_on_every_device():
    seeds = torch.tensor([0, 1, -5, 2**62])
    rounds = torch.tensor([0, 3, 9, 1])
    there = uniforms(seeds.cuda(), rounds.cuda(), 1 << 16, 64)
    assert torch.equal(there.cpu(), uniforms(seeds, rounds, 1 << 16, 64))


@contextmanager
def waiting_allowed_where_results_are_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    fetch = scoring.fetch

    def fetched(packets: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return fetch(packets)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(scoring, "fetch", fetched)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("policy", token_policies())
def test_a_round_waits_for_the_device_once(pair, prompts, monkeypatch, policy, temperature):
    options: Any = {"max_new_tokens": 40, "draft_length": 6, "temperature": temperature}
    pair.generate(prompts[:1], policy, **options)  # what is made once may wait
    with waiting_allowed_where_results_are_fetched(monkeypatch):
        results = pair.generate(prompts[:8], policy, **options)
    texts(results)


def test_edited_logits_wait_for_nobody(pair, prompts, monkeypatch):
    options: Any = {"max_new_tokens": 40, "repetition_penalty": 1.1, "logit_bias": {5: -2.0}}
    options |= {"frequency_penalty": 0.2, "presence_penalty": 0.1}
    pair.generate(prompts[:1], "cospec", **options)
    with waiting_allowed_where_results_are_fetched(monkeypatch):
        texts(pair.generate(prompts[:4], "cospec", logprobs=3, **options))


def test_texts_are_read_as_on_a_cpu(pair, host, prompts, monkeypatch):
    expected = host.read(prompts[:8], top_logprobs=3)
    pair.read(prompts[0], top_logprobs=3)
    with waiting_allowed_where_results_are_fetched(monkeypatch):
        ours = pair.read(prompts[:8], top_logprobs=3)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.error is None
        assert mine.token_ids == theirs.token_ids
        assert mine.logprobs[1:] == pytest.approx(theirs.logprobs[1:], abs=1e-2)
        assert [len(top) for top in mine.top_logprobs[1:]] == [3] * (len(mine.tokens) - 1)


@pytest.mark.parametrize("policy", ["specguard", "specguard.bundled", "spec-reason"])
def test_programs_of_steps(pair, host, prompts, policy):
    options: Any = {"max_new_tokens": LONGEST}
    ours = pair.generate(prompts[:16], policy, **options)
    theirs = host.generate(prompts[:16], policy, **options)
    assert alike(texts(ours), texts(theirs)) >= 0.5  # blocks end elsewhere: near ties differ
    assert all(r.trace is not None for r in ours)


def test_signals_are_those_of_a_cpu(pair, host, prompts):
    """Attention grounding among them, from queries that were recorded on the device."""
    options: Any = {"max_new_tokens": LONGEST, "draft_length": 6}
    ours = pair.generate(prompts[:8], "specguard.paper", **options)
    theirs = host.generate(prompts[:8], "specguard.paper", **options)
    for mine, other in zip(ours, theirs, strict=True):
        if mine.token_ids != other.token_ids:
            continue
        for a, b in zip(mine.trace.steps, other.trace.steps, strict=True):
            for left, right in zip(a.candidates, b.candidates, strict=True):
                assert left.signals == pytest.approx(right.signals, abs=2e-3)


def test_training(pair, tmp_path):
    request = TrainRequest(
        load_task("stories", split="policy_train", count=60),
        load_task("stories", split="validation", count=40),
        batch=16,
        rounds=2,
        sweeps=1,
    )
    train(pair, request, tmp_path, lambda *_: None)
    trained = CoSpec.load(tmp_path / "policy")
    assert texts(pair.generate(["1 + 1 ="], trained, max_new_tokens=8))
