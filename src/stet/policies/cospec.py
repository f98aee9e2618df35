"""CoSpec: where the models disagree, a trained arbiter decides whose token stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from stet.arbiter import Arbiter, Position, as_arbiter
from stet.errors import OptionError
from stet.policies.arbitration import REASONS, Choices, choices, settle
from stet.policies.base import Blocks, Disputes, Need, Verdict
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class CoSpec:
    """A trained arbiter decides, for every disagreement of a block at once, whose token stands.

    At temperature 0 the models disagree where the drafted token is not the target's first choice;
    when sampling, where the exact rule would reject it, and what stands against it is what that
    rule would draw instead. So an arbiter that never overrules leaves the exact rule, and what it
    is asked is always the same question.

    Source of the idea: Li et al., "Beyond the Target: From Imitation to Collaboration in
    Speculative Decoding", arXiv 2605.24793. What the arbiter looks at and how it is trained is our
    own.

    Attributes:
        arbiter: a folder that `stet train` wrote, a name on the hub, or in Python an `Arbiter`.
        threshold: the probability above which the draft's token stands: 0 always, 1 never. None
            for the arbiter's own.
        hold: hold the token after a whole block back, to be arbitrated against the next block's
            first; without it that token is always the target's, and the text depends on the
            length of blocks.
    """

    arbiter: Any = None
    threshold: float | None = None
    hold: bool = True

    name: ClassVar[str] = "cospec"
    lossless: ClassVar[bool] = False
    reasons: ClassVar[tuple[str, ...]] = REASONS

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if self.arbiter is None:
            raise OptionError(
                f"{self.name} needs an arbiter; train one for this pair (`stet train`) and name "
                "its folder (arbiter=...)."
            )
        if not isinstance(self.arbiter, (str, Arbiter)) or self.arbiter == "":
            raise OptionError(
                f"arbiter is {self.arbiter!r}; give a folder, a hub name or an Arbiter."
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold is {self.threshold}; it must be between 0 and 1.")

    @classmethod
    def load(cls, folder: str | Path, **parameters: Any) -> CoSpec:
        """The policy with an arbiter from a folder, which is read at once.

        Args:
            folder: what `stet train` wrote.
            **parameters: of the policy.

        Raises:
            LoadError: it holds no arbiter.
        """
        return cls(Arbiter.load(folder), **parameters)

    @classmethod
    def from_pretrained(cls, name: str, **parameters: Any) -> CoSpec:
        """The policy with an arbiter from a folder or the hub, which is read at once.

        Raises:
            LoadError: there is none.
        """
        return cls(as_arbiter(name), **parameters)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the arbiter to a folder that `load` reads."""
        self._arbiter.save(folder)

    def push_to_hub(self, name: str, **options: Any) -> None:
        """Upload the arbiter to the hub.

        Args:
            name: of the repository; it is created if it is not there.
            **options: of `huggingface_hub.HfApi.create_repo`, such as `private=True`.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(name, exist_ok=True, **options)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=name, folder_path=folder)

    @property
    def _arbiter(self) -> Arbiter:
        """The arbiter itself; a name is loaded when it is first used, and once."""
        return as_arbiter(self.arbiter)

    # What the program asks

    @property
    def holds(self) -> bool:
        """See `stet.policies.holds`."""
        return self.hold

    @property
    def seamless(self) -> bool:
        """See `stet.policies.seamless`."""
        return self.hold and not self._arbiter.in_block

    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep."""
        return self._arbiter.needs | {Need.DRAFT_PROBS}

    @property
    def pair(self) -> str | None:
        """Fingerprint of the only pair that the arbiter may be used with; None for any."""
        return self._arbiter.pair

    @property
    def other_pair(self) -> str:
        """What to tell who uses it with another pair."""
        return (
            f"The arbiter {self._arbiter.name!r} was trained for another pair; train one for this "
            "pair (`stet train`)."
        )

    def verify(self, blocks: Blocks) -> Verdict:
        """Rule on a batch of blocks."""
        found = choices(blocks)
        if not blocks.drafted.shape[1]:
            return settle(blocks, found, found.agree, hold=self.hold)
        arbiter = self._arbiter
        bar = arbiter.threshold if self.threshold is None else self.threshold
        score, _ = weighed(blocks, found, arbiter)
        overrule = above(score, bar)
        return settle(
            blocks,
            found,
            overrule,
            hold=self.hold,
            disputes=disputes_of(blocks, found, score),
        )


def weighed(
    blocks: Blocks, found: Choices, arbiter: Arbiter, *, keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The arbiter's probability for the draft's token at each disagreement.

    On a CPU the arbiter looks at disagreements alone; elsewhere at every position, since to count
    them the host would have to wait for the device.

    Args:
        blocks: the blocks.
        found: what each model wants.
        arbiter: decides.
        keep: also return what it reckoned from.

    Returns:
        [B, K] float32, 0 where nothing was looked at; and [B, K, F] float32, if asked for.
    """
    shape = found.agree.shape
    if kind_of(blocks.drafted) == "cpu":
        rows, places = ((~found.agree) & blocks.present).nonzero(as_tuple=True)
    else:
        grid = torch.ones_like(found.agree).cumsum(1) - 1
        rows = torch.arange(shape[0], device=grid.device).repeat_interleave(shape[1])
        places = grid.flatten()
    score = torch.zeros(shape, device=found.agree.device)
    features = arbiter.describe(Position(blocks, found, rows, places)) if len(rows) else None
    if features is not None:
        score[rows, places] = arbiter.odds(features).sigmoid()
    if not keep:
        return score, None
    kept = torch.zeros((*shape, arbiter.network.inputs), device=score.device)
    if features is not None:
        kept[rows, places] = features
    return score, kept


def above(score: Tensor, threshold: float) -> Tensor:
    """Where the draft's token stands, bool like `score`.

    Strictly above, so that 1 means never; 0 means always, whatever rounding makes of a score.
    """
    return torch.ones_like(score, dtype=torch.bool) if threshold == 0 else score > threshold


def decides(score: float, threshold: float) -> bool:
    """The same of a single score on the host."""
    return threshold == 0 or score > threshold


def kind_of(tensor: Tensor) -> str:
    """The kind of device that a tensor is on."""
    return tensor.device.type


def disputes_of(
    blocks: Blocks, found: Choices, score: Tensor, features: Tensor | None = None
) -> Disputes:
    """What was weighed, for the record."""
    width = blocks.drafted.shape[1]
    where = (~found.agree) & blocks.present
    return Disputes(where, found.target[:, :width], score, features)
