"""The public checks: every built-in rule passes them, and each fault is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from stet.core.block import Reading
from stet.core.verification import Verification
from stet.policies import (
    BlockVerification,
    Exact,
    Need,
    SpecGuard,
    SpecReason,
    TokenPolicy,
    available,
    resolve,
)
from stet.testing import MUTANTS, Script, check_contract, check_lossless, mutant, run_steps
from stet.testing.worlds import READABLE

TOKEN_POLICIES = [kind.name for kind in available() if issubclass(kind, TokenPolicy)]


@pytest.mark.parametrize("name", TOKEN_POLICIES)
def test_every_rule_keeps_the_contract(name: str):
    policy = resolve(name)
    assert isinstance(policy, TokenPolicy)
    if policy.needs <= READABLE:
        check_contract(policy)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
def test_lossless_rules_are(policy: TokenPolicy):
    check_lossless(policy)


@pytest.mark.parametrize("name", ["confident", "typical", "ensemble", "random", "top-k"])
def test_lossy_rules_are_not(name: str):
    policy = resolve(name)
    assert isinstance(policy, TokenPolicy)
    with pytest.raises(AssertionError, match="not lossless"):
        check_lossless(policy)


@pytest.mark.parametrize("fault", MUTANTS)
@pytest.mark.parametrize("policy", [Exact(), BlockVerification()], ids=lambda p: p.name)
def test_every_fault_is_found(policy: TokenPolicy, fault: str):
    with pytest.raises(AssertionError, match="not lossless"):
        check_lossless(mutant(policy, fault))


# Broken contracts


@dataclass(frozen=True)
class Broken(Exact):
    """The exact rule with something wrong in how it behaves."""

    how: str = ""

    name: ClassVar[str] = "broken"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset() if self.how == "undeclared" else Exact.needs

    def verify(self, blocks) -> Verification:
        if self.how == "undeclared":
            blocks.draft_probs  # noqa: B018
        found = super().verify(blocks)
        rows = len(blocks.lengths)
        if self.how == "too many":
            return replace(found, accepted=found.accepted + 1)
        if self.how == "shape":
            return replace(found, next_token=found.next_token[:, None])
        if self.how == "float":
            return replace(found, accepted=found.accepted.float())
        if self.how == "vocabulary":
            return replace(found, next_token=found.next_token + 1000)
        if self.how == "nothing":
            return Verification(torch.zeros_like(found.accepted), torch.full((rows,), -1))
        if self.how == "batch-mates" and rows > 1:
            return replace(found, next_token=torch.zeros_like(found.next_token))
        if self.how == "padding" and blocks.drafted.shape[1] > 3:
            return replace(found, next_token=torch.zeros_like(found.next_token))
        if self.how == "reasons":
            return replace(found, reasons=torch.full((rows, blocks.drafted.shape[1] + 1), 9))
        return found


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("too many", "accepts more tokens"),
        ("shape", "next_token of shape"),
        ("float", "no integer"),
        ("vocabulary", "in no vocabulary"),
        ("nothing", "neither accepts a token nor emits one"),
        ("batch-mates", "without its batch-mates"),
        ("padding", "padded to a longer block"),
        ("reasons", "not among its `reasons`"),
    ],
)
def test_a_broken_contract_is_named(how: str, words: str):
    with pytest.raises(AssertionError, match=words):
        check_contract(Broken(how))


def test_what_is_not_declared_cannot_be_read():
    with pytest.raises(Exception, match=r"DRAFT_PROBS"):
        check_contract(Broken("undeclared"))


# Steps


def test_a_step_policy_is_run_on_a_script():
    policy = SpecGuard(signals=("min_logprob",), threshold=0.5)
    sure, unsure = Script("3 * 4 = 12\n", [-0.1, -0.2]), Script("So 7\n", [-0.1, -3.0])
    runs = run_steps(policy, [[sure], [unsure]])
    assert [run.decision.accepted for run in runs] == [True, False]
    assert [run.read for run in runs] == [[], []]


def test_a_policy_that_has_steps_read_is_answered_by_the_script():
    policy = SpecGuard(scorer="target", signals=(), target_threshold=0.5)
    good, bad = Reading([-0.1], [2.0]), Reading([-4.0], [-3.0])
    runs = run_steps(policy, [[Script("a\n", [-1.0], reading=r)] for r in (good, bad)])
    assert [run.decision.accepted for run in runs] == [True, False]
    assert [run.read for run in runs] == [[0], [0]]
    with pytest.raises(AssertionError, match="has no reading"):
        run_steps(policy, [[Script("a\n", [-1.0])]])


def test_a_policy_that_asks_about_steps_is_answered_by_the_script():
    certain = [[0.0 if digit == rating else -99.0 for digit in range(10)] for rating in (3, 8)]
    low, high = (Script("a\n", [-1.0], scores=[logprobs]) for logprobs in certain)
    policy = SpecReason(threshold=7.0, candidates=2, temperature=1.0)
    (run,) = run_steps(policy, [[low, high]])
    assert (run.decision.chosen, run.decision.accepted) == (1, True)
    assert run.decision.score == pytest.approx(8.0)
    with pytest.raises(AssertionError, match="which the scripts have no answers for"):
        run_steps(policy, [[low, Script("a\n", [-1.0])]])
