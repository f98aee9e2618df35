"""The bundled pair on 200 problems: the target's own text at temperature 0, token for token."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM

import stet
from stet.bundled import TARGET, generate
from stet.core.result import Result
from stet.engine.runner import Runner
from stet.pair import Pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (TARGET / "model.safetensors").exists(), reason="the bundled weights are not here"
    ),
]

PROBLEMS = 200
LONGEST = 160


def load(dtype: str, batch: int) -> Pair:
    return stet.load_pair(dtype=dtype, device="cpu", max_length=640, max_batch=batch)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [problem.prompt for problem in generate("stories", "test", PROBLEMS, seed=20)]


@pytest.fixture(scope="module")
def wide() -> Pair:
    return load("float32", 16)


@pytest.fixture(scope="module")
def narrow() -> Pair:
    return load("float32", 1)


@pytest.fixture(scope="module")
def plain(wide: Pair, prompts: list[str]) -> list[list[int]]:
    """The target's own answers."""
    return tokens(wide.generate(prompts, "target", max_new_tokens=LONGEST))


def tokens(results: list[Result]) -> list[list[int]]:
    assert all(result.error is None for result in results)
    return [result.token_ids for result in results]


def test_plain_decoding_is_what_transformers_generates(prompts, plain, wide):
    reference = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
    for place in range(0, PROBLEMS, 20):
        ids = torch.tensor([wide.tokenizer(prompts[place])["input_ids"]])
        written = reference.generate(ids, max_new_tokens=LONGEST, do_sample=False)
        assert plain[place] == written[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("draft_length", [3, 8])
def test_speculating_16_at_a_time_gives_the_targets_text(prompts, plain, wide, draft_length):
    results = wide.generate(prompts, "exact", max_new_tokens=LONGEST, draft_length=draft_length)
    assert tokens(results) == plain
    assert all(r.finish_reason in ("stop", "length") for r in results)
    # It speculated, and it paid.
    drafted = sum(r.counters.drafted_tokens for r in results)
    accepted = sum(r.counters.accepted_tokens for r in results)
    passes = sum(r.counters.target_passes for r in results)
    assert 0.1 < accepted / drafted < 1
    assert passes < 0.7 * sum(len(answer) for answer in plain)


@pytest.mark.parametrize(("policy", "draft_length"), [("block", 5), ("exact", "auto")])
def test_so_do_other_policies_and_lengths(prompts, plain, wide, policy, draft_length):
    some = prompts[:48]
    results = wide.generate(some, policy, max_new_tokens=LONGEST, draft_length=draft_length)
    assert tokens(results) == plain[:48]


@pytest.mark.parametrize("draft_length", [2, 5, 9, "auto"])
def test_speculating_one_at_a_time_gives_the_targets_text(prompts, plain, narrow, draft_length):
    # Together the four lengths take every problem once.
    place = [2, 5, 9, "auto"].index(draft_length)
    results = narrow.generate(
        prompts[place::4], "exact", max_new_tokens=48, draft_length=draft_length
    )
    assert tokens(results) == [answer[:48] for answer in plain[place::4]]


@dataclass(frozen=True)
class Divergence:
    """Where a speculated bf16 text first leaves the plain one.

    Attributes:
        problem: which problem.
        position: index of the first differing token of the answer.
        margin: how far apart the two tokens' logits are in float32.
        difference: the largest difference of a logit at that position between a pass over the
            block and a pass over a single token, both in bf16.
        rounding: the largest difference of a logit between bf16 and float32 at the *other*
            positions of the plain text.
    """

    problem: int
    position: int
    margin: float
    difference: float
    rounding: float


def test_in_bf16_every_difference_is_within_rounding(prompts):
    pair = load("bfloat16", 1)
    some = prompts[:40]
    plain = pair.generate(some, "target", max_new_tokens=LONGEST)
    speculated = pair.generate(some, "exact", max_new_tokens=LONGEST, draft_length=5)
    reference = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
    found = [
        locate(pair, reference, place, prompts[place], a, b)
        for place, (a, b) in enumerate(zip(plain, speculated, strict=True))
        if a.token_ids != b.token_ids
    ]
    print(f"\n{len(found)} of {len(some)} texts differ in bf16")
    for item in found:
        print(
            f"  problem {item.problem}, token {item.position}: float32 margin "
            f"{item.margin:.4f}, difference of the two paths {item.difference:.4f}, "
            f"bf16 against float32 elsewhere {item.rounding:.4f}"
        )
    # What bf16 does to this model's logits anyway, seen where the texts agree. Both paths share
    # most of that error, so their own difference may well be smaller than the float32 margin;
    # neither may exceed what the error explains.
    rounding = max((item.rounding for item in found), default=0.0)
    for item in found:
        assert item.margin <= 2 * rounding, item
        assert item.difference <= rounding, item


def locate(
    pair: Pair, reference, problem: int, prompt: str, plain: Result, speculated: Result
) -> Divergence:
    """Replay both paths up to the first difference."""
    ours, theirs = plain.token_ids, speculated.token_ids
    position = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    text = pair.tokenizer(prompt)["input_ids"]
    last = len(ours) - 1
    with torch.inference_mode():
        wanted = reference(torch.tensor([text + ours[:last]])).logits[0, len(text) - 1 :]
        path = single_path(pair, text, ours, last)
        exact, single = wanted[position], path[position]
        block = block_path(pair, text, speculated, position)
    # Each path chose as its logits said.
    assert single.argmax() == ours[position]
    assert block.argmax() == theirs[position]
    margin = (exact[ours[position]] - exact[theirs[position]]).abs().item()
    difference = (single - block).abs().max().item()
    elsewhere = [i for i in range(last + 1) if i != position]
    rounding = (path[elsewhere] - wanted[elsewhere]).abs().max().item()
    return Divergence(problem, position, margin, difference, rounding)


def single_path(pair: Pair, text: list[int], answer: list[int], position: int) -> torch.Tensor:
    """Logits up to a position of the answer, each token read in a pass of its own: [T, V]."""
    runner = Runner(pair.target, max_rows=1, max_length=640)
    row = runner.allocate()
    runner.forward([row], torch.tensor([text[:-1]]), [0], logits="none")
    passes = [
        runner.forward([row], torch.tensor([[token]]), [row.valid]).logits[0, -1]
        for token in [text[-1], *answer[:position]]
    ]
    return torch.stack(passes)


def block_path(pair: Pair, text: list[int], result: Result, position: int) -> torch.Tensor:
    """Logits at the position, read in the blocks that the result was made of: [V]."""
    runner = Runner(pair.target, max_rows=1, max_length=640)
    row = runner.allocate()
    runner.forward([row], torch.tensor([text[:-1]]), [0], logits="none")
    tokens = text + result.token_ids
    for block in result.trace.blocks:
        start = len(text) + block.position - 1
        fed = torch.tensor([[tokens[start], *block.drafted]])
        logits = runner.forward([row], fed, [start]).logits[0]
        if block.position <= position <= block.position + block.accepted:
            return logits[position - block.position]
    # The last token of a full answer follows an empty block.
    start = len(text) + position - 1
    return runner.forward([row], torch.tensor([[tokens[start]]]), [start]).logits[0, -1]
