"""A verification policy in a few lines: a drafted token is accepted if the target shortlists it."""

from dataclasses import dataclass
from typing import ClassVar

import torch

import stet
from stet.policies import Blocks, TokenPolicy, Verification, at, prefix_length, register


@register
@dataclass(frozen=True)
class Shortlist(TokenPolicy):
    """Accepts a drafted token among the target's `size` most probable ones. Not lossless."""

    size: int = 3

    name: ClassVar[str] = "shortlist"
    reasons: ClassVar[tuple[str, ...]] = ("accepted", "recovered", "bonus", "accepted_mismatch")

    def verify(self, blocks: Blocks) -> Verification:
        """Verify B blocks of up to K tokens at once."""
        drafted, own = blocks.drafted, blocks.target_tokens  # [B, K], [B, K + 1]
        logprobs = blocks.target_logprobs[:, : drafted.shape[1]]  # [B, K, V]
        better = logprobs > logprobs.gather(2, drafted[..., None])
        shortlisted = better.sum(2) < self.size
        accepted = prefix_length(shortlisted & blocks.present)  # [B]

        # Why: accepted tokens are the target's own choice or mismatches; the token after them is
        # the recovered one, or the bonus token after a whole block.
        reasons = torch.zeros_like(own)
        reasons[:, :-1] = torch.where(drafted == own[:, :-1], 0, 3)
        after = torch.where(accepted < blocks.lengths, 1, 2)
        return Verification(
            accepted, at(own, accepted), reasons.scatter(1, accepted[:, None], after[:, None])
        )


def main():
    pair = stet.load_pair()
    problem = "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?"
    prompt = pair.render([{"role": "user", "content": problem}])
    for policy in ("exact", Shortlist(size=1), Shortlist(size=2), Shortlist(size=5)):
        (result,) = pair.generate([prompt], policy, max_new_tokens=128)
        counters = result.counters
        print(policy)
        print(result.text.strip())
        accepted_mismatches = sum(token.reason == "accepted_mismatch" for token in result.tokens)
        print(
            f"  {counters.acceptance_rate or 0:.0%} accepted, "
            f"{accepted_mismatches} against the target\n"
        )


if __name__ == "__main__":
    main()
