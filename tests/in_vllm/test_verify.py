"""Decisions on plain tensors, as they are made inside vLLM, against those of Stet's own engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scenes import ROWS, SIZE, WIDTH, Scene, emitted
from stet.core.acceptance import ACCEPTED_MISMATCH
from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.verification import Mismatches, Verification
from stet.policies import Exact, available, resolve
from stet.policies.mismatches import MismatchPolicy
from stet.testing.statistics import p_value
from stet_vllm.desk import usable
from stet_vllm.shaping import Shaping
from stet_vllm.verify import EMPTY, Drafted, verify


def token_policies() -> list[TokenPolicy]:
    found = []
    for cls in available():
        try:
            found.append(usable(cls()))
        except OptionError:
            continue
    return found


POLICIES = token_policies()


GREEDY = [0.0] * ROWS
SAMPLED = [1.0, 0.7, 1.3, 0.5, 2.0, 1.0, 0.9]
MIXED = [0.0, 0.7, 0.0, 0.5, 2.0, 0.0, 0.9]


def test_there_are_policies_to_look_at():
    assert {"exact", "block", "top-k", "cospec", "ensemble"} <= {p.name for p in POLICIES}


@pytest.mark.parametrize("temperatures", [GREEDY, SAMPLED, MIXED], ids=["greedy", "hot", "mixed"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_policy_decides_as_in_stets_engine(policy, temperatures):
    for seed in range(5):
        scene = Scene(temperatures, seed)
        assert scene.in_vllm([policy] * ROWS) == scene.in_engine(policy)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_nothing_drafted_at_all(policy):
    for temperatures in (GREEDY, SAMPLED):
        scene = Scene(temperatures, lengths=(0,) * ROWS, width=0)
        found = scene.in_vllm([policy] * ROWS)
        assert found == scene.in_engine(policy)
        assert all(len(row) == 1 for row in found)


def test_what_follows_a_draft_that_may_not_stand_is_dropped():
    scene = Scene(GREEDY, lengths=(WIDTH,) * ROWS)
    drafted = scene.drafted()
    drafted.tokens[0, 1] = EMPTY
    drafted.tokens[3, 0] = EMPTY
    scene.lengths = [1, 4, 4, 0, 4, 4, 4]
    # A rule that accepts whatever there is.
    for policy in (Exact(), resolve("top-k", {"k": SIZE, "delta": 100.0})):
        assert emitted(verify(drafted, [policy] * ROWS)) == scene.in_engine(policy)


@pytest.mark.parametrize("temperatures", [GREEDY, MIXED], ids=["greedy", "mixed"])
def test_policies_in_one_batch_decide_as_each_alone(temperatures):
    for shift in range(len(POLICIES)):
        chosen = [POLICIES[(shift + row) % len(POLICIES)] for row in range(ROWS)]
        scene = Scene(temperatures, seed=shift)
        alone = [scene.in_vllm([policy] * ROWS) for policy in chosen]
        assert scene.in_vllm(chosen) == [alone[row][row] for row in range(ROWS)]


def test_reasons_are_the_policys_own():
    scene = Scene(GREEDY, seed=3)
    policy = resolve("top-k", {"k": 48, "delta": 100.0})
    rulings = verify(scene.drafted(), [policy] * ROWS)
    own = scene.target.argmax(-1)
    for row, length in enumerate(scene.lengths):
        assert rulings.accepted[row] == length == rulings.drafted[row]
        words = [policy.reasons[code] for code in rulings.codes[row, :length].tolist()]
        same = (scene.tokens[row, :length] == own[row, :length]).tolist()
        assert words == ["accepted" if equal else ACCEPTED_MISMATCH for equal in same]
        assert rulings.mismatches[row] == same.count(False)
    assert rulings.mismatches.sum() > 0


class ByHistory(MismatchPolicy):
    """Accepts in every other answer, by what came before in it."""

    name = "by-history"

    def accepts(self, blocks: Blocks, mismatches: Mismatches) -> Tensor:
        even = blocks.history.sum(1, keepdim=True) % 2 == 0
        return even.expand_as(mismatches.agree)


def test_each_request_has_its_own_history():
    scene = Scene(GREEDY)
    rule, exact = ByHistory(), Exact()
    alone, lossless = scene.in_engine(rule), scene.in_engine(exact)
    assert alone != lossless
    chosen = [rule if row % 3 else exact for row in range(ROWS)]
    own = [alone[row] if row % 3 else lossless[row] for row in range(ROWS)]
    assert scene.in_vllm(chosen) == own


class Fails(Exact):
    """Raises for blocks of three tokens."""

    def verify(self, blocks: Blocks) -> Verification:
        if (blocks.lengths == 3).any():
            raise ZeroDivisionError("three")
        return super().verify(blocks)


def test_a_policy_that_raises_takes_nobody_with_it(caplog):
    scene = Scene(GREEDY)
    top = resolve("top-k")
    rulings = verify(scene.drafted(), [Fails(), top, Fails(), top, Fails(), Fails(), Fails()])
    assert rulings.fallen == {5: "ZeroDivisionError: three"}
    assert "'exact' decides instead" in caplog.text
    exact, relaxed = scene.in_engine(Exact()), scene.in_engine(top)
    own = [exact[0], relaxed[1], exact[2], relaxed[3], exact[4], exact[5], exact[6]]
    assert emitted(rulings) == own


class Undeclared(Exact):
    """Reads what it does not declare, and what others of its batch may have had kept."""

    def verify(self, blocks: Blocks) -> Verification:
        assert blocks.raw_draft_logits is not None
        return super().verify(blocks)


def test_what_is_not_declared_cannot_be_read():
    rulings = verify(Scene(SAMPLED).drafted(), [Undeclared()] * ROWS)
    assert sorted(rulings.fallen) == list(range(ROWS))
    assert "add Need.DRAFT_LOGPROBS" in rulings.fallen[0]


class Nonsense(Exact):
    """Accepts more than there is, or leaves out a token that nothing stands before."""

    accepts: int = 0

    def verify(self, blocks: Blocks) -> Verification:
        rows = len(blocks.lengths)
        return Verification(torch.full((rows,), self.accepts), torch.full((rows,), EMPTY))


class TooMuch(Nonsense):
    accepts = 99


class Shapeless(Exact):
    def verify(self, blocks: Blocks) -> Verification:
        return Verification(torch.zeros(1).long(), torch.zeros(1).long())


def test_a_decision_that_means_nothing_is_mended():
    scene = Scene(GREEDY)
    own = scene.target.argmax(-1)
    assert scene.in_vllm([Nonsense()] * ROWS) == [[int(own[row, 0])] for row in range(ROWS)]
    for row, found in enumerate(scene.in_vllm([TooMuch()] * ROWS)):
        length = scene.lengths[row]
        assert found == (scene.tokens[row, :length].tolist() or [int(own[row, 0])])


def test_tensors_of_wrong_shapes_are_a_failure():
    scene = Scene(GREEDY)
    # Of one request they are right, so it fails in company alone.
    assert scene.in_vllm([Shapeless()] * ROWS) == [[0]] * ROWS


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_the_drafts_logits_are_gathered_only_where_they_are_read(policy):
    scene = Scene(GREEDY)
    verify(scene.drafted(), [policy] * ROWS)
    assert scene.asked == (Need.DRAFT_LOGPROBS in policy.needs)


@pytest.mark.parametrize("name", ["exact", "block"])
def test_what_is_emitted_follows_the_target(name):
    rows, size = 40_000, 4
    gen = torch.Generator().manual_seed(5)
    q = torch.randn(2, size, generator=gen)
    p = torch.randn(3, size, generator=gen)
    drafted = torch.stack(
        [q[i].softmax(-1).multinomial(rows, True, generator=gen) for i in (0, 1)], 1
    )
    # Two requests in three have two drafted tokens, the third has none.
    drafted[::3] = EMPTY
    target = p.expand(rows, 3, size).contiguous()
    shaping = Shaping(
        raw=target,
        edited=target,
        temperature=torch.ones(rows),
        greedy=(False,) * rows,
        requests=torch.arange(rows),
    )
    draft = q.expand(rows, 2, size)
    found = verify(
        Drafted(
            drafted,
            shaping,
            lambda inner: draft if inner is None else draft[inner],
            torch.arange(rows),
            torch.zeros(rows, dtype=torch.int64),
            lambda: torch.zeros(rows, 2, dtype=torch.int64),
        ),
        [resolve(name)] * rows,
    )
    first = found.tokens[:, 0].bincount(minlength=size)
    second = found.tokens[:, 1]
    second = second[second >= 0].bincount(minlength=size)
    laws = [dict(enumerate(p[i].softmax(-1).tolist())) for i in (0, 1)]
    for counts, law in zip((first, second), laws, strict=True):
        assert p_value((dict(enumerate(counts.tolist())), law)) > 1e-6


def test_truncation_and_edits_of_the_engine_are_used():
    scene = Scene(SAMPLED, lengths=(WIDTH,) * ROWS)
    drafted = scene.drafted()
    edited = scene.target.clone()
    edited[:, :, ::2] = -torch.inf  # half of the vocabulary is ruled out

    def cut(rows: Tensor, owners: Tensor) -> Tensor:
        assert owners.tolist() == [row for row in range(ROWS) for _ in range(WIDTH + 1)]
        best = rows.argmax(-1, keepdim=True)
        return torch.full_like(rows, -torch.inf).scatter(1, best, 0.0)  # only the best is left

    shaping = Shaping(
        raw=scene.target,
        edited=edited,
        temperature=drafted.shaping.temperature,
        greedy=drafted.shaping.greedy,
        requests=drafted.shaping.requests,
        cut=cut,
    )
    own = edited.argmax(-1)
    rulings = verify(replace(drafted, shaping=shaping), [Exact()] * ROWS)
    for row, tokens in enumerate(emitted(rulings)):
        assert tokens == own[row, : len(tokens)].tolist()
