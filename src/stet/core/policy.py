"""Base classes of verification policies: rules on tokens and on whole answers.

A token policy sees a whole batch of drafted blocks as tensors and verifies all of them at once. It
knows nothing of engines, models or tokenizers, so a new rule is one small file. Rules on steps of
reasoning are in `stet.core.step_policy`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

from stet.core.blocks import Blocks
from stet.core.needs import Need
from stet.core.verification import Verification

STANDARD_REASONS = ("accepted", "recovered", "bonus")
"""Reasons of a policy that names none of its own."""


class Policy(ABC):
    """A rule that can be named where a policy is asked for.

    Derive from `TokenPolicy`, `StepPolicy` or `AnswerPolicy`, as a frozen dataclass whose fields
    are the rule's parameters, each with a default.

    Attributes:
        name: the name by which users choose it; unique in the registry.
        lossless: whether the emitted text follows the target's own distribution exactly, as far as
            a pass over a block gives the logits that passes over single tokens give: in half
            precision rounding decides near ties otherwise.
        aliases: further names.
        presets: class methods that make one with other defaults, named as `NAME.PRESET`.
        control: whether it is a baseline for comparisons only, which is never recommended.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    aliases: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Need]:
        """The tensors that the engine must keep for the policy."""
        return frozenset()

    @property
    def block_invariant(self) -> bool:
        """Whether it writes the same greedy text wherever blocks end, up to rounding.

        A lossless policy does. Another one does if it decides about each token by what is known at
        its position alone, and defers the bonus token (`TokenPolicy.defers_bonus`).
        """
        return self.lossless

    @property
    def pair(self) -> str | None:
        """Fingerprint of the only pair that it may be used with; None for any."""
        return None

    @property
    def other_pair(self) -> str:
        """The error message where it is used with another pair than `pair`."""
        return (
            f"This {self.name} was calibrated for another pair; calibrate it for this one (`stet "
            "calibrate`), or give its parameters without `pair`."
        )


class TokenPolicy(Policy):
    """A rule on drafted blocks.

    Attributes:
        reasons: the words that explain its decisions, see `Verification.reasons`.
    """

    reasons: ClassVar[tuple[str, ...]] = STANDARD_REASONS

    @property
    def defers_bonus(self) -> bool:
        """Whether it defers the bonus token: the next block's first token is decided on instead.

        Its blocks may then fill an answer to its end.
        """
        return False

    @abstractmethod
    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks, as tensors, without a host sync."""


class AnswerPolicy(Policy):
    """A rule on the draft's whole answer: it is accepted, or the target writes its own."""

    @abstractmethod
    def accepts_answer(self, logprobs: Sequence[float]) -> bool:
        """Whether to accept the draft's answer.

        Args:
            logprobs: the draft's raw log-probability of each of its tokens, in nats.
        """


def parameters(policy: Policy) -> dict[str, Any]:
    """A policy's parameters by name, as a trace or report records them.

    A parameter that has a `name` of its own, such as a reward model, is recorded by that name.
    """
    values = values_of(policy)
    return {field: getattr(value, "name", value) for field, value in values.items()}


def values_of(policy: Policy) -> dict[str, Any]:
    """The values of a policy's parameters by name, of which it can be made again.

    Fields that do not count when policies are compared are no parameters.
    """
    return {f.name: getattr(policy, f.name) for f in fields(policy) if f.compare}  # type: ignore[arg-type]
