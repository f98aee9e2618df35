"""What the engine can be asked to keep of a model's passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from stet.core.errors import StetError


class Need(Enum):
    """What a policy asks the engine to keep. Nothing else is computed."""

    DRAFT_PROBS = "draft_probs"
    """The distributions that drafted tokens were drawn from, after the sampling transforms."""
    DRAFT_LOGPROBS = "draft_logprobs"
    """The draft's raw log-probabilities, before any transform."""
    TARGET_HIDDEN = "target_hidden"
    """The target's last hidden states at the block's positions."""
    TARGET_AFTER = "target_after"
    """What the target says after the block's last token, for a policy that defers the bonus token:
    nothing is decided there, so without this need that position of the target's tensors is empty.
    """
    DRAFT_HIDDEN = "draft_hidden"
    """The draft's last hidden states at the positions it drafted from."""


def undeclared(what: str, need: Need) -> StetError:
    """The error for a policy that reads a tensor it did not declare.

    The tensor may have been kept for another request of the batch, or not at all.

    Args:
        what: name of the tensor that is read.
        need: the need that the policy has to declare.
    """
    return StetError(
        f"This policy reads {what} and does not declare it; add Need.{need.name} to its `needs`."
    )


@dataclass(frozen=True, slots=True)
class AttentionCapture:
    """Which of the draft's attention weights to keep. Nothing else is computed.

    Attributes:
        layers: how many of the last layers; all where the model has fewer.
        floors: the weights are averaged over heads once for each of these; a head's weight below
            the floor counts as 0 in that mean.
    """

    layers: int
    floors: frozenset[float] = frozenset({0.0})

    @classmethod
    def union(cls, captures: Iterable[AttentionCapture | None]) -> AttentionCapture | None:
        """The smallest capture that serves several policies; None where none asks for any."""
        asked = [capture for capture in captures if capture is not None]
        if not asked:
            return None
        if all(capture is asked[0] for capture in asked):
            return asked[0]
        return cls(
            max(capture.layers for capture in asked),
            frozenset[float]().union(*(capture.floors for capture in asked)),
        )
