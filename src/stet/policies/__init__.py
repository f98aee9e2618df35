"""Verification policies: the rules that decide which drafted text stands."""

from stet.policies.base import (
    ACCEPT,
    HOLD,
    NEXT,
    STANDARD_REASONS,
    AnswerPolicy,
    Blocks,
    Need,
    Policy,
    TokenPolicy,
    Verdict,
    at,
    holds,
    parameters,
    prefix_length,
)
from stet.policies.block import Block
from stet.policies.cascade import Cascade
from stet.policies.confident import Confident
from stet.policies.ensemble import Ensemble
from stet.policies.exact import Exact
from stet.policies.registry import available, register, resolve
from stet.policies.reward_guided import RewardGuided
from stet.policies.spec_reason import SpecReason
from stet.policies.specguard import SpecGuard
from stet.policies.stepping import Candidate, Judgement, Step, StepPolicy

__all__ = [
    "ACCEPT",
    "HOLD",
    "NEXT",
    "STANDARD_REASONS",
    "AnswerPolicy",
    "Block",
    "Blocks",
    "Candidate",
    "Cascade",
    "Confident",
    "Ensemble",
    "Exact",
    "Judgement",
    "Need",
    "Policy",
    "RewardGuided",
    "SpecGuard",
    "SpecReason",
    "Step",
    "StepPolicy",
    "TokenPolicy",
    "Verdict",
    "at",
    "available",
    "holds",
    "parameters",
    "prefix_length",
    "register",
    "resolve",
]
