"""CoSpec: where the models disagree, a trained arbiter decides whose token stands."""

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
from stet.policies.registry import register


@register
@dataclass(frozen=True)
class CoSpec(TokenPolicy):
    """A trained arbiter decides, for every disagreement of a block at once, whose token stands.

    At temperature 0 the models disagree where the drafted token is not the target's first choice;
    when sampling, where the exact rule would reject it, and what stands against it is what that
    rule would draw instead. So an arbiter that never overrules leaves the exact rule, and what it
    is asked is always the same question.

    Source of the idea: Li et al., "Beyond the Target: From Imitation to Collaboration in
    Speculative Decoding", arXiv 2605.24793. What the arbiter looks at and how it is trained is our
    own.

    Attributes:
        arbiter: "bundled" for the bundled pair's, a folder that `stet train` wrote, a name on the
            hub, or in Python an `Arbiter`.
        threshold: the probability above which the draft's token stands: 0 always, 1 never. None
            for the arbiter's own.
        defers_bonus: defer the token after a whole block, to be arbitrated against the next
            block's first; without it that token is always the target's, and the text depends on
            the length of blocks.
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
        return (
            shipped_arbiter(self._shipped) if self.arbiter == BUNDLED else as_arbiter(self.arbiter)
        )

    # What the program asks

    @property
    def block_invariant(self) -> bool:
        """See `stet.policies.block_invariant`."""
        return self.defers_bonus and not self._arbiter.in_block

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
            "pair (`stet train`) and name its folder (arbiter=...)."
        )

    def verify(self, blocks: Blocks) -> Verification:
        """Rule on a batch of blocks."""
        arbiter = self._arbiter
        bar = arbiter.threshold if self.threshold is None else self.threshold
        return arbitrate(blocks, arbiter, Above(bar), defers_bonus=self.defers_bonus)
