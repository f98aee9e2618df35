"""A batch of drafted blocks, for Stet's own policies and for those that decide inside vLLM."""

from __future__ import annotations

import torch
from torch import Tensor

from stet.core.blocks import Blocks
from stet.core.policy import TokenPolicy
from stet.core.sampling import Sampler, SamplingParams, one_hot
from stet.engine.uniforms import uniforms
from stet_vllm.shaping import Shaping
from stet_vllm.verify import EMPTY, Drafted, verify

ROWS, WIDTH, SIZE = 7, 4, 48
LENGTHS = (4, 0, 2, 4, 1, 3, 4)


class Scene:
    """A batch of blocks, for both sides."""

    def __init__(
        self, temperatures: list[float], seed: int = 0, lengths=LENGTHS, width=WIDTH, device="cpu"
    ):
        gen = torch.Generator().manual_seed(seed)
        rows = len(lengths)
        self.lengths = list(lengths)
        self.temperatures = temperatures
        # Alike often enough for blocks to be accepted in part.
        self.draft = torch.randn(rows, width, SIZE, generator=gen) * 2
        noise = torch.randn(rows, width + 1, SIZE, generator=gen)
        base = torch.cat([self.draft, torch.randn(rows, 1, SIZE, generator=gen)], 1)
        self.target = base + noise
        heat = torch.tensor(temperatures)[:, None, None]
        self.probs = torch.where(
            heat > 0,
            (self.draft / torch.where(heat > 0, heat, 1.0)).softmax(-1),
            one_hot(self.draft.argmax(-1), SIZE),
        )
        flat = self.probs.reshape(-1, SIZE)
        picked = flat.multinomial(1, generator=gen) if width else torch.zeros(0, 1).long()
        self.tokens = picked.view(rows, width)
        self.seeds = torch.arange(rows) + 11
        self.rounds = torch.arange(rows) * 3 + 5
        self.history = torch.stack([torch.arange(rows) * 4, torch.arange(rows)], 1)
        self.asked = 0
        self.device = device
        for name in ("draft", "target", "probs", "tokens", "seeds", "rounds", "history"):
            setattr(self, name, getattr(self, name).to(device))

    def present(self) -> Tensor:
        width = self.tokens.shape[1]
        return (torch.arange(width) < torch.tensor(self.lengths)[:, None]).to(self.device)

    def uniforms(self, slot: int, count: int) -> Tensor:
        return uniforms(self.seeds, self.rounds, slot, count)

    def in_engine(self, policy: TokenPolicy) -> list[list[int]]:
        """What each request emits, by the policy itself on Stet's own view of the batch."""
        sampling = [SamplingParams(temperature=t) for t in self.temperatures]
        greedy = all(t == 0 for t in self.temperatures)
        present = self.present()
        blocks = Blocks(
            drafted=self.tokens.masked_fill(~present, 0),
            lengths=torch.tensor(self.lengths, device=self.device),
            target_logits=self.target,
            sampler=Sampler(sampling, [[]] * len(sampling), SIZE, torch.device(self.device)),
            uniforms=self.uniforms,
            draft_probs=None if greedy else self.probs,
            draft_logits=self.draft,
            history=lambda: self.history,
            needs=policy.needs,
        )
        found = policy.verify(blocks)
        emitted = []
        for row, (count, following) in enumerate(
            zip(found.accepted.tolist(), found.next_token.tolist(), strict=True)
        ):
            emitted.append(self.tokens[row, :count].tolist() + [following] * (following >= 0))
        return emitted

    def drafted(self) -> Drafted:
        present = self.present()

        def logits(rows: Tensor | None) -> Tensor:
            self.asked += 1
            return self.draft if rows is None else self.draft[rows]

        rows = len(self.lengths)
        return Drafted(
            tokens=torch.where(present, self.tokens, EMPTY),
            shaping=Shaping(
                raw=self.target,
                edited=self.target,
                temperature=torch.tensor(self.temperatures, device=self.device),
                greedy=tuple(t == 0 for t in self.temperatures),
                requests=torch.arange(rows, device=self.device),
            ),
            draft_logits=logits,
            seeds=self.seeds,
            rounds=self.rounds,
            history=lambda: self.history,
        )

    def in_vllm(self, policies: list[TokenPolicy]) -> list[list[int]]:
        return emitted(verify(self.drafted(), policies))


def emitted(rulings) -> list[list[int]]:
    rows = []
    for row, count in zip(rulings.tokens.tolist(), rulings.emitted.tolist(), strict=True):
        assert all(token >= 0 for token in row[:count])
        assert all(token == EMPTY for token in row[count:])
        rows.append(row[:count])
    return rows
