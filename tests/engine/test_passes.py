"""How the blocks of a round are divided into passes of the target."""

from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from stet.core.draft_length import FixedLength
from stet.core.errors import StetError
from stet.core.limits import Limits
from stet.engine import scoring
from stet.engine.costs import Costs
from stet.engine.engine import Engine
from stet.engine.runner import Runner
from stet.policies import (
    DEFERRED,
    Blocks,
    Exact,
    Need,
    TokenPolicy,
    Verification,
    at,
    prefix_length,
)
from stet.testing import check_contract
from tiny import engine, greedy, llama, loaded, near, request, run

pytestmark = pytest.mark.unit


def of(*lengths: int) -> Any:
    return [SimpleNamespace(block=SimpleNamespace(length=n), after=True) for n in lengths]


def cost(passes: list[list[int]], lengths: tuple[int, ...], spare: float) -> float:
    return sum(spare + len(some) * (max(lengths[i] for i in some) + 1) for some in passes)


def least(lengths: tuple[int, ...], spare: float) -> float:
    """The least cost of any way of putting blocks into passes."""
    ways = product(range(len(lengths)), repeat=len(lengths))
    return min(
        cost([[i for i, p in enumerate(way) if p == n] for n in set(way)], lengths, spare)
        for way in ways
    )


@pytest.mark.parametrize("spare", [0.0, 2.0, 7.5, 100.0])
@pytest.mark.parametrize(
    "lengths", [(0,), (3, 3, 3), (0, 5, 0, 5, 12), (1, 2, 3, 4, 5), (40, 0, 0, 1, 0), (7, 9, 8, 0)]
)
def test_no_other_division_costs_less(lengths, spare):
    passes = list(scoring._passes(of(*lengths), 10_000, spare))
    assert sorted(i for some in passes for i in some) == list(range(len(lengths)))
    assert all(some == sorted(some) for some in passes)  # neighbours in the cache stay together
    assert cost(passes, lengths, spare) == pytest.approx(least(lengths, spare))


def test_without_costs_all_are_padded_and_a_pass_has_its_limit():
    assert list(scoring._passes(of(0, 12, 0, 3), 10_000, None)) == [[0, 1, 2, 3]]
    assert list(scoring._passes(of(0, 12, 0, 3), 26, None)) == [[0, 1], [2, 3]]
    assert list(scoring._passes(of(30, 30, 2), 10, 0.0)) == [[2], [0], [1]]


def test_texts_are_the_same_and_fewer_positions_are_computed(monkeypatch):
    target = llama()
    models = target, near(target, 0.25)
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9], [2, 7, 1]]
    blocks = (1, 2, 9, 14)

    # As on an accelerator; where pads cost nothing one pass is best.
    monkeypatch.setattr(Runner, "skips_pads", False)

    def texts(costs: Costs | None) -> tuple[list[list[int]], int, int]:
        machine = engine(*models, rows=4)
        machine.costs = lambda: costs
        runner = machine.runners["target"]
        forward, widths = runner.forward, []

        def counting(rows, tokens, *more, **options):
            widths.append(tokens.numel())
            return forward(rows, tokens, *more, **options)

        monkeypatch.setattr(runner, "forward", counting)
        asked = [
            request(p, Exact(), Limits(max_new_tokens=40, draft_length=FixedLength(n)))
            for p, n in zip(prompts, blocks, strict=True)
        ]
        return run(machine, asked), sum(widths), len(widths)

    padded, positions, passes = texts(None)
    found, fewer, more = texts(Costs({1: 1.0}, {1: 1.0, 13: 7.0}))
    assert found == padded
    assert fewer < 0.8 * positions
    assert more > passes
    # A pass that costs as much whatever is in it is made once.
    assert texts(Costs({1: 1.0}, {1: 1.0, 13: 1.0}))[1:] == (positions, passes)


PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9], [2, 7, 1]]


def counted(machine: Engine, role: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects how many tokens the projections of a model see in each pass."""
    runner = machine.runners[role]
    layer, seen = runner.model.body.layers[0], []
    inner = layer.qkv
    monkeypatch.setattr(layer, "qkv", lambda x: seen.append(len(x)) or inner(x))
    return seen


@pytest.mark.parametrize("role", ["target", "draft"])
def test_on_a_cpu_only_true_tokens_are_computed(role, monkeypatch):
    target = llama()
    models = target, near(target, 0.25)

    def texts(skips: bool) -> tuple[list[list[int]], list[int], int]:
        machine = engine(*models, rows=4)
        runner = machine.runners[role]
        if not skips:  # as on an accelerator
            monkeypatch.setattr(Runner, "skips_pads", False)
        seen, fed = counted(machine, role, monkeypatch), []
        forward = runner.forward

        def counting(rows, tokens, starts, counts=None, **options):
            fed.append(sum(counts) if counts is not None else tokens.numel())
            return forward(rows, tokens, starts, counts, **options)

        monkeypatch.setattr(runner, "forward", counting)
        asked = [
            request(p, Exact(), Limits(max_new_tokens=40, draft_length=FixedLength(n)))
            for p, n in zip(PROMPTS, (1, 2, 9, 14), strict=True)
        ]
        return run(machine, asked), seen, sum(fed)

    found, seen, fed = texts(True)
    padded, all_of_them, as_many = texts(False)
    assert found == padded
    assert sum(seen) == fed == as_many
    assert sum(all_of_them) > 1.3 * fed


def test_states_and_logits_are_those_of_padded_passes(monkeypatch):
    model = loaded(llama())
    tokens = torch.arange(24).view(3, 8) % 50
    counts = [8, 0, 3]

    def forward(skips: bool, logits: Any) -> Any:
        runner = Runner(model, max_rows=3, max_length=32)
        rows = [runner.allocate() for _ in range(3)]
        with monkeypatch.context() as patched:
            if not skips:
                patched.setattr(Runner, "skips_pads", False)
            return runner.forward(rows, tokens, [0, 0, 0], counts, logits=logits, hidden=True)

    for logits in ("all", "last"):
        ours, padded = forward(True, logits), forward(False, logits)
        for row, count in enumerate(counts):
            few = count if logits == "all" else min(count, 1)
            torch.testing.assert_close(ours.logits[row, :few], padded.logits[row, :few])
            torch.testing.assert_close(ours.hidden[row, :count], padded.hidden[row, :count])
        assert ours.logits.shape == padded.logits.shape
        assert ours.logits.isfinite().all()


@dataclass(frozen=True)
class Deferring(TokenPolicy):
    """Accepts every other mismatch, by the draft's token, and defers the bonus token.

    Attributes:
        looks: whether it says that it looks behind the block.
    """

    looks: bool = False

    name: ClassVar[str] = "deferring"
    defers_bonus: ClassVar[bool] = True
    block_invariant: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.TARGET_AFTER}) if self.looks else frozenset()

    def verify(self, blocks: Blocks) -> Verification:
        own = blocks.target_tokens
        stands = (blocks.drafted == own[:, :-1]) | (blocks.drafted % 2 == 0)
        accepted = prefix_length(stands & blocks.present)
        whole = (accepted == blocks.lengths) & (blocks.lengths > 0)
        return Verification(accepted, at(own, accepted).masked_fill(whole, DEFERRED))


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (3, 3, 3, 3), (1, 2, 9, 14)])
def test_the_last_token_of_a_block_is_read_only_where_something_is_decided_after_it(
    blocks, monkeypatch
):
    target = llama()
    models = target, near(target, 0.25)
    check_contract(Deferring())

    def texts(*policies: TokenPolicy) -> tuple[list[list[int]], int]:
        machine = engine(*models, rows=4)
        seen = counted(machine, "target", monkeypatch)
        asked = [
            request(p, policy, Limits(max_new_tokens=40, draft_length=FixedLength(n)))
            for p, n, policy in zip(PROMPTS, blocks, policies, strict=True)
        ]
        return run(machine, asked), sum(seen)

    found, fewer = texts(*[Deferring()] * 4)
    looking, more = texts(*[Deferring(looks=True)] * 4)
    assert found == looking
    rounds = sum(len(text) // k for text, k in zip(found, blocks, strict=True))
    assert more - fewer >= rounds // 2 > 0
    # In company of those that need that position, too.
    mixed, _ = texts(Deferring(), Exact(), Deferring(), Exact())
    assert (mixed[0], mixed[2]) == (found[0], found[2])
    assert mixed[1] == greedy(target, PROMPTS[1], 40)


@dataclass(frozen=True)
class Breaking(Deferring):
    """Says that it defers the bonus token, and does not."""

    def verify(self, blocks: Blocks) -> Verification:
        return Exact().verify(blocks)


def test_who_does_not_defer_what_it_says_it_defers_is_told():
    target = llama()
    machine = engine(target, target, rows=1)
    limits = Limits(max_new_tokens=20, draft_length=FixedLength(3))
    with pytest.raises(StetError, match="says that it defers the bonus token"):
        run(machine, [request(PROMPTS[0], Breaking(), limits)])


@dataclass(frozen=True)
class Peeking(Deferring):
    """Looks behind the block, and does not say so."""

    def verify(self, blocks: Blocks) -> Verification:
        found = super().verify(blocks)
        ends = at(blocks.target_tokens, blocks.lengths)
        odd = (ends % 2 == 1) & (blocks.lengths > 0)
        own = blocks.target_tokens[:, 0]
        return Verification(
            found.accepted.masked_fill(odd, 0), torch.where(odd, own, found.next_token)
        )


def test_the_contract_tells_who_looks_behind_the_block():
    with pytest.raises(AssertionError, match=r"Need\.TARGET_AFTER"):
        check_contract(Peeking())
