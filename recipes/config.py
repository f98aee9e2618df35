"""The pair that is trained: the sizes of the models and the settings of their training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sources import Bundled, Control, Source


@dataclass(frozen=True)
class Recipe:
    """A model of a pair.

    Attributes:
        layers: Depth. A target is deep, because depth is what one token at a time costs.
        width: Hidden size; a multiple of the head size.
        inner: Width of the feed-forward part.
        head: Attention head size.
        batch_tokens: Tokens of one optimiser step, padding included. Several processes share them:
            each takes `batch_tokens // processes`.
        matrix_rate: Peak learning rate of the hidden matrices (Muon).
        other_rate: Peak learning rate of embeddings and norms (AdamW).
        minutes: Default time budget.
        stories: Share of word problems in the training data; the rest is of the family `units`.
        problems: Distinct problems to train on.
        templates: Only these templates, or all of them.
        reader: Whose problems of the control pair, with tables of this seed; None: the bundled
            pair's.
        prompt_weight: Weight of a prompt token's loss; a solution token's is 1.
        seed: Of the initial weights and of the order of the data.
    """

    layers: int
    width: int
    inner: int
    head: int = 32
    batch_tokens: int = 8192
    matrix_rate: float = 0.008
    other_rate: float = 0.005
    minutes: float = 60.0
    stories: float = 0.75
    problems: int = 400_000
    templates: tuple[str, ...] | None = None
    reader: Literal["target", "draft"] | None = None
    prompt_weight: float = 0.1
    seed: int = 0

    @property
    def source(self) -> Source:
        """Where its problems come from."""
        if self.reader is not None:
            return Control(self.problems, self.reader, self.seed)
        return Bundled(self.problems, self.stories, self.templates)

    @property
    def tokenizer(self) -> str:
        """The folder of its tokenizer: tables of another seed have other words."""
        return "tokenizer" if self.reader is None else f"tokenizer-control-{self.seed}"


RECIPES: dict[str, Recipe] = {
    "target": Recipe(layers=14, width=128, inner=352, minutes=80.0),
    "draft": Recipe(layers=2, width=96, inner=256, minutes=10.5, seed=1),
    # For studies of policies, not shipped: a smaller pair whose draft knows little and is sure of
    # it, because it saw few problems many times ...
    "study-target": Recipe(layers=8, width=96, inner=256, minutes=20.0, seed=4),
    "draft-overconfident": Recipe(
        layers=2, width=96, inner=256, problems=4_000, minutes=8.0, seed=2
    ),
    # ... and a draft that is good at some templates and lost on the others.
    "draft-specialised": Recipe(
        layers=2,
        width=128,
        inner=352,
        stories=1.0,
        problems=100_000,
        templates=("change_chain", "compare_total", "shopping", "journey", "wages", "fence"),
        minutes=8.0,
        seed=3,
    ),
    # The positive control (control.py): a target that lacks some facts, and a draft that has them.
    "control-target": Recipe(
        layers=6, width=96, inner=256, problems=300_000, reader="target", minutes=16.0
    ),
    "control-draft": Recipe(
        layers=2, width=96, inner=256, problems=2_600, reader="draft", minutes=3.5
    ),
}
