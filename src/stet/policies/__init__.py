"""Verification policies: the rules by which drafted text is accepted or rejected."""

from stet.core.blocks import ACCEPT, ARBITRATE, NEXT, Blocks
from stet.core.needs import Need
from stet.core.policy import (
    STANDARD_REASONS,
    AnswerPolicy,
    Policy,
    TokenPolicy,
    parameters,
)
from stet.core.step_policy import Candidate, Step, StepDecision, StepPolicy
from stet.core.tensors import at, prefix_length
from stet.core.verification import DEFERRED, Mismatches, ScoredMismatches, Verification
from stet.policies.autojudge import AutoJudge
from stet.policies.block import BlockVerification
from stet.policies.cascade import Cascade
from stet.policies.combined import CombinedPolicy
from stet.policies.confident import Confident
from stet.policies.cosd import CoSD
from stet.policies.cospec import CoSpec
from stet.policies.ensemble import Ensemble
from stet.policies.exact import Exact
from stet.policies.fly import FLy
from stet.policies.fuzzy import Fuzzy
from stet.policies.mismatches import (
    MismatchPolicy,
    at_mismatches,
    find_mismatches,
    mismatch_logprobs,
    settle,
)
from stet.policies.random import Random
from stet.policies.registry import available, register, resolve
from stet.policies.reward_guided import RewardGuided
from stet.policies.spec_reason import SpecReason
from stet.policies.specguard import SpecGuard
from stet.policies.speculative_cascade import SpeculativeCascade
from stet.policies.top_k import TopK
from stet.policies.typical import Typical

__all__ = [
    "ACCEPT",
    "ARBITRATE",
    "DEFERRED",
    "NEXT",
    "STANDARD_REASONS",
    "AnswerPolicy",
    "AutoJudge",
    "BlockVerification",
    "Blocks",
    "Candidate",
    "Cascade",
    "CoSD",
    "CoSpec",
    "CombinedPolicy",
    "Confident",
    "Ensemble",
    "Exact",
    "FLy",
    "Fuzzy",
    "MismatchPolicy",
    "Mismatches",
    "Need",
    "Policy",
    "Random",
    "RewardGuided",
    "ScoredMismatches",
    "SpecGuard",
    "SpecReason",
    "SpeculativeCascade",
    "Step",
    "StepDecision",
    "StepPolicy",
    "TokenPolicy",
    "TopK",
    "Typical",
    "Verification",
    "at",
    "at_mismatches",
    "available",
    "find_mismatches",
    "mismatch_logprobs",
    "parameters",
    "prefix_length",
    "register",
    "resolve",
    "settle",
]
