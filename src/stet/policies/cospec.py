"""CoSpec: a trained arbiter accepts or rejects the draft's token at each mismatch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stet.arbiter import BUNDLED, Arbiter, as_arbiter, shipped_arbiter
from stet.bundled import COSPEC
from stet.core.blocks import Blocks
from stet.core.errors import OptionError
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.verification import Verification
from stet.policies.arbiter_inference import Above, arbitrate
from stet.policies.mismatches import REASONS
from stet.policies.reference import Fitted, reference_of
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class CoSpec(TokenPolicy):
    """A trained arbiter decides at every mismatch of a block whether the draft's token is accepted.

    At temperature 0 a drafted token is a mismatch if it is not the target's first choice. When
    sampling it is one if the exact rule would reject it; the target's token is then the recovered
    token that this rule would draw. So with an arbiter that accepts no mismatch the policy is the
    exact rule.

    Source of the idea: Li et al., "Beyond the Target: From Imitation to Collaboration in
    Speculative Decoding", arXiv 2605.24793. The features of the arbiter and its training are our
    own.

    Attributes:
        arbiter: "bundled" for the bundled pair's, a folder that `stet train` wrote, a name on the
            hub, or in Python an `Arbiter`.
        threshold: the probability above which the draft's token is accepted: 0 always, 1 never.
            None for the arbiter's own.
        defers_bonus: defer the bonus token, so that the next block's first token is decided by the
            arbiter as any other; without it that token is always the target's, and the text
            depends on where blocks end.
    """

    arbiter: Any = BUNDLED
    threshold: float | None = None
    defers_bonus: bool = True

    name: ClassVar[str] = "cospec"
    lossless: ClassVar[bool] = False
    reasons: ClassVar[tuple[str, ...]] = REASONS
    _shipped: ClassVar[Path] = COSPEC

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the parameter.
        """
        if not isinstance(self.arbiter, (str, Arbiter)) or self.arbiter == "":
            raise OptionError(
                f"arbiter is {self.arbiter!r}; give a folder, a hub name or an Arbiter."
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold is {self.threshold}; it must be between 0 and 1.")

    @classmethod
    def load(cls, folder: str | Path, **parameters: Any) -> CoSpec:
        """Load the arbiter from a folder, and return the policy with it.

        Args:
            folder: what `stet train` wrote.
            **parameters: of the policy.

        Raises:
            LoadError: the folder holds no arbiter.
        """
        return cls(Arbiter.load(folder), **parameters)

    @classmethod
    def from_pretrained(cls, name: str, **parameters: Any) -> CoSpec:
        """Load the arbiter from a folder or the hub, and return the policy with it.

        Raises:
            LoadError: there is no such arbiter.
        """
        return cls(as_arbiter(name), **parameters)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the arbiter to a folder that `load` reads."""
        self._arbiter.save(folder)

    def push_to_hub(self, name: str, **options: Any) -> None:
        """Upload the arbiter to the hub.

        Args:
            name: of the repository, which is created if it does not exist.
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
        """The arbiter itself; a name is loaded once, at its first use."""
        return (
            shipped_arbiter(self._shipped) if self.arbiter == BUNDLED else as_arbiter(self.arbiter)
        )

    # What the program asks

    @property
    def block_invariant(self) -> bool:
        """Whether greedy text is the same wherever blocks end."""
        return self.defers_bonus and not self._arbiter.in_block

    @property
    def needs(self) -> frozenset[Need]:
        """What the engine must keep of the models' passes."""
        return self._arbiter.needs | {Need.DRAFT_PROBS}

    @property
    def pair(self) -> str | None:
        """Fingerprint of the only pair that the arbiter may be used with; None for any."""
        return self._arbiter.pair

    @property
    def other_pair(self) -> str:
        """The error message where the policy is used with another pair."""
        return (
            f"The arbiter {self._arbiter.name!r} was trained for another pair; train one for this "
            "pair (`stet train`) and name its folder (arbiter=...)."
        )

    @property
    def fitted(self) -> Fitted | None:
        """What its training recorded of the arbiter's decisions, which drift is measured from."""
        arbiter = self._arbiter
        reference, threshold = reference_of(arbiter.trained, arbiter.name)
        if reference is None:
            return None
        bar = arbiter.threshold if self.threshold is None else self.threshold
        own = self.threshold if bar == threshold else threshold
        return Fitted({"threshold": own, "defers_bonus": True}, reference)

    def verify(self, blocks: Blocks) -> Verification:
        """Verify a batch of blocks."""
        arbiter = self._arbiter
        bar = arbiter.threshold if self.threshold is None else self.threshold
        return arbitrate(blocks, arbiter, Above(bar), defers_bonus=self.defers_bonus)
