"""Reward models and the head, trained on the labelled steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoint
import numpy as np
import torch
from optim import Average
from reward_data import Example, Step
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, LlamaForTokenClassification

import stet.bundled as bundled
from stet.calibration.quality import auroc
from stet.rewards.head import HeadNet, padded

IGNORED = -1.0
WARMUP_SHARE, DECAY_SHARE = 0.05, 0.5


@dataclass(frozen=True)
class Size:
    """A reward model to train.

    Attributes:
        layers: depth.
        width: hidden size; with weights to start from it is theirs.
        start: the bundled model whose embeddings and first layers it starts from, or none.
        rate: peak learning rate.
    """

    layers: int
    width: int
    start: Path | None = None
    rate: float = 1e-3


SIZES: dict[str, Size] = {
    "1x64": Size(1, 64, rate=3e-3),
    "2x96": Size(2, 96, rate=3e-3),
    "3x128": Size(3, 128, rate=2e-3),
    "draft": Size(2, 96, bundled.DRAFT),
    "draft+2": Size(4, 96, bundled.DRAFT),
    "target-4": Size(4, 128, bundled.TARGET),
}


@dataclass(frozen=True)
class Text:
    """A labelled solution as tokens.

    Attributes:
        ids: prompt and solution.
        ends: place of each step's last token.
        good: its label.
        draft: whether the draft wrote it.
        problem: of which problem.
    """

    ids: list[int]
    ends: list[int]
    good: list[bool]
    draft: list[bool]
    problem: int

    @property
    def blamed(self) -> int:
        """How many steps there are up to the end of the first bad one."""
        return self.good.index(False) + 1 if False in self.good else len(self.good)

    def starts(self, prompt: int) -> list[int]:
        """Place of each step's first token, for a prompt of so many tokens."""
        return [prompt, *(end + 1 for end in self.ends[:-1])]


def texts_of(examples: Sequence[Example], tokenizer: Any) -> list[tuple[Text, int]]:
    """All solutions as tokens, each with the length of its prompt."""
    found: list[tuple[Text, int]] = []
    for example in examples:
        prompt = tokenizer(example.prompt)["input_ids"]
        for steps in example.solutions:
            found.append((_text(example, prompt, steps, tokenizer), len(prompt)))
    return found


def _text(example: Example, prompt: list[int], steps: list[Step], tokenizer: Any) -> Text:
    ids, ends = list(prompt), []
    for step in steps:
        ids += tokenizer(step.text)["input_ids"]
        ends.append(len(ids) - 1)
    return Text(ids, ends, [s.good for s in steps], [s.draft for s in steps], example.problem)


@dataclass(frozen=True)
class Batch:
    """Texts of similar length, padded on the right.

    Attributes:
        ids: int64 [B, L].
        mask: int64 [B, L], 1 at real tokens.
        labels: float32 [B, L], at the last token of each step 1 if good and 0 if not, elsewhere
            `IGNORED`; after the first step that is not, nothing is labelled: no step is to blame.
        places: of the texts in the data.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    places: list[int]

    @property
    def size(self) -> int:
        """How many tokens are real, not padding."""
        return int(self.mask.sum())


def batch_of(texts: Sequence[Text], places: Sequence[int]) -> Batch:
    """Some texts as one batch."""
    length = max(len(texts[i].ids) for i in places)
    ids = torch.ones(len(places), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full(ids.shape, IGNORED)
    for row, place in enumerate(places):
        text = texts[place]
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
        blamed = text.blamed
        labels[row, text.ends[:blamed]] = torch.tensor(text.good[:blamed], dtype=torch.float32)
    return Batch(ids, mask, labels, list(places))


def batches(texts: Sequence[Text], tokens: int, seed: int, skip: int = 0) -> Iterator[Batch]:
    """Endless batches of about so many tokens; a seed gives the same ones again."""
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        # Nearly sorted by length: little padding, and other neighbours in every epoch.
        keys = [
            len(text.ids) + 8 * noise
            for text, noise in zip(texts, rng.random(len(texts)), strict=True)
        ]
        groups: list[list[int]] = [[]]
        for place in np.argsort(keys, kind="stable").tolist():
            if (len(groups[-1]) + 1) * len(texts[place].ids) > tokens and groups[-1]:
                groups.append([])
            groups[-1].append(place)
        for group in rng.permutation(len(groups)):
            if skip:
                skip -= 1
            else:
                yield batch_of(texts, groups[group])
        epoch += 1


def build(size: Size, tokenizer: Any, seed: int = 0) -> LlamaForTokenClassification:
    """A model with one number for each token; its layers start where `size` says."""
    torch.manual_seed(seed)
    start = LlamaForCausalLM.from_pretrained(size.start or bundled.DRAFT, dtype=torch.float32)
    config = start.config
    settings = config.to_dict() | {
        "num_hidden_layers": size.layers,
        "num_labels": 1,
        "classifier_dropout": 0.0,
        "tie_word_embeddings": False,
        "architectures": None,
    }
    settings.pop("id2label", None)
    settings.pop("label2id", None)
    if size.start is None:
        heads = size.width // config.head_dim
        settings |= {
            "hidden_size": size.width,
            "intermediate_size": 8 * size.width // 3,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        }
    model = LlamaForTokenClassification(type(config)(**settings))
    if size.start is not None:
        model.model.load_state_dict(_first_layers(start, size.layers), strict=False)
        for layer in model.model.layers[config.num_hidden_layers :]:
            # A further layer begins as one that changes nothing.
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _first_layers(model: LlamaForCausalLM, layers: int) -> dict[str, Tensor]:
    def wanted(name: str) -> bool:
        parts = name.split(".")
        return parts[0] != "layers" or int(parts[1]) < layers

    return {name: w for name, w in model.model.state_dict().items() if wanted(name)}


@dataclass(frozen=True)
class Steps:
    """The draft's steps as the head sees them.

    Attributes:
        states: of each, [T, D] float16, the hidden states that its tokens were drawn from.
        good: the labels.
        where: the text and the step in it.
    """

    states: list[Tensor]
    good: list[bool]
    where: list[tuple[int, int]]


@torch.inference_mode()
def steps_of(texts: Sequence[tuple[Text, int]], draft_folder: Path = bundled.DRAFT) -> Steps:
    """Run the draft over solutions and collect its own steps, each once.

    State t of a step is the one that its token t was drawn from: of the position before it.
    """
    draft = LlamaForCausalLM.from_pretrained(draft_folder, dtype=torch.float32).model.eval()
    found = Steps([], [], [])
    seen: set[tuple[int, tuple[int, ...]]] = set()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place][0].ids))
    for start in range(0, len(order), 64):
        batch = batch_of([text for text, _ in texts], order[start : start + 64])
        hidden = draft(input_ids=batch.ids, use_cache=False).last_hidden_state.half()
        for row, place in enumerate(batch.places):
            text, prompt = texts[place]
            starts = text.starts(prompt)
            for step in range(text.blamed):
                end = text.ends[step]
                key = (text.problem, tuple(text.ids[: end + 1]))
                written = text.ends[step] >= starts[step]  # of an empty step there are no states
                if text.draft[step] and written and key not in seen:
                    seen.add(key)
                    found.states.append(hidden[row, starts[step] - 1 : end].clone())
                    found.good.append(text.good[step])
                    found.where.append((place, step))
    return found


@dataclass(frozen=True)
class StepBatch:
    """Some of the draft's steps.

    Attributes:
        hidden: float32 [B, T, D], padded on the right.
        lengths: int64 [B].
        labels: float32 [B].
    """

    hidden: Tensor
    lengths: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        """How many tokens are real, not padding."""
        return int(self.lengths.sum())


def step_batches(steps: Steps, count: int, seed: int, skip: int = 0) -> Iterator[StepBatch]:
    """Endless batches of so many steps; a seed gives the same ones again."""
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(steps.good)).tolist()
        for start in range(0, len(order), count):
            if skip:
                skip -= 1
                continue
            chosen = order[start : start + count]
            hidden, lengths = padded([steps.states[i].float() for i in chosen])
            labels = torch.tensor([steps.good[i] for i in chosen], dtype=torch.float32)
            yield StepBatch(hidden, lengths, labels)
        epoch += 1


Scores = dict[tuple[int, int], float]
"""The logit of each of the draft's steps, by (text, step)."""


def model_loss(model: LlamaForTokenClassification, batch: Batch) -> Tensor:
    """Mean cross-entropy of the labelled tokens."""
    # Pads come after every real token: a causal model needs no mask, and is faster without.
    logits = model(input_ids=batch.ids, use_cache=False).logits[..., 0]
    chosen = batch.labels != IGNORED
    return functional.binary_cross_entropy_with_logits(logits[chosen], batch.labels[chosen])


def head_loss(net: HeadNet, batch: StepBatch) -> Tensor:
    """Mean cross-entropy of the steps."""
    return functional.binary_cross_entropy_with_logits(
        net(batch.hidden, batch.lengths), batch.labels
    )


@torch.inference_mode()
def model_scores(model: LlamaForTokenClassification, texts: Sequence[tuple[Text, int]]) -> Scores:
    """The logits of a reward model on the draft's steps."""
    found: Scores = {}
    for start in range(0, len(texts), 64):
        places = range(start, min(start + 64, len(texts)))
        batch = batch_of([text for text, _ in texts], places)
        logits = model(input_ids=batch.ids, use_cache=False).logits[..., 0]
        for row, place in enumerate(places):
            text = texts[place][0]
            for step, end in enumerate(text.ends):
                if text.draft[step]:
                    found[place, step] = float(logits[row, end])
    return found


@torch.inference_mode()
def head_scores(net: HeadNet, steps: Steps) -> Scores:
    """The logits of a head on the draft's steps."""
    found: Scores = {}
    for start in range(0, len(steps.good), 256):
        hidden, lengths = padded([s.float() for s in steps.states[start : start + 256]])
        logits = net(hidden, lengths).tolist()
        found |= dict(zip(steps.where[start : start + 256], logits, strict=True))
    return found


def quality(scores: Scores, texts: Sequence[tuple[Text, int]]) -> dict[str, float]:
    """AUROC and log loss on the draft's steps that follow good ones alone.

    After a wrong step no step is to blame, and a policy that works has few of them.
    """
    seen: set[tuple[int, tuple[int, ...]]] = set()
    good: list[float] = []
    bad: list[float] = []
    for (place, step), score in scores.items():
        text = texts[place][0]
        # Solutions of a problem share their beginnings: each step counts once.
        key = (text.problem, tuple(text.ids[: text.ends[step] + 1]))
        if step < text.blamed and key not in seen:
            seen.add(key)
            (good if text.good[step] else bad).append(score)
    area = auroc(np.array(good), np.array(bad))
    surprise = sum(math.log1p(math.exp(-s)) for s in good)
    surprise += sum(math.log1p(math.exp(s)) for s in bad)
    return {
        "auroc": round(area or math.nan, 4),
        "log_loss": round(surprise / max(len(good) + len(bad), 1), 4),
        "good": len(good),
        "bad": len(bad),
    }


@dataclass
class Fit:
    """One training run and its folder; started again, it goes on.

    Attributes:
        folder: of the checkpoints.
        module: what is trained.
        rate: peak learning rate.
        tokens: budget; the rate falls to zero over its second half.
        decay: weight decay.
    """

    folder: Path
    module: nn.Module
    rate: float
    tokens: int
    decay: float = 0.01

    def run(
        self,
        stream: Callable[[int], Iterator[Any]],
        loss: Callable[[Any, Any], Tensor],
        log: Callable[..., None],
    ) -> None:
        """Train, and leave the average of the last weights in the module.

        Args:
            stream: batches after so many.
            loss: of the module on a batch.
            log: takes the entries of a line.
        """
        average = Average(self.module)
        optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=self.rate, betas=(0.9, 0.98), weight_decay=self.decay
        )
        state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0}
        if (self.folder / "last").exists():
            state = checkpoint.restore(self.folder / "last", self.module, average, [optimiser])
        began = saved = logged = time.monotonic()
        before = state["seconds"]
        self.module.train()
        losses: list[float] = []
        batches_left = stream(state["step"])
        while (progress := state["tokens"] / self.tokens) < 1:
            batch = next(batches_left)
            for group in optimiser.param_groups:
                group["lr"] = self.rate * _factor(progress)
            value = loss(self.module, batch)
            value.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            state["step"] += 1
            state["tokens"] += batch.size
            average.update(self.module, state["step"])
            losses.append(float(value.detach()))
            now = time.monotonic()
            state["seconds"] = before + now - began
            if now - logged > 20:
                log(**{k: round(v) for k, v in state.items()}, loss=round(np.mean(losses), 4))
                losses, logged = [], now
            if now - saved > 60:
                checkpoint.save(self.folder / "last", self.module, average, [optimiser], state)
                saved = now
        checkpoint.save(self.folder / "last", self.module, average, [optimiser], state)
        self.module.load_state_dict(average.weights, strict=False)
        self.module.eval()


def _factor(progress: float) -> float:
    """The share of the peak learning rate at a step: up, along, and down."""
    return min(1.0, progress / WARMUP_SHARE + 0.02, (1 - progress) / DECAY_SHARE)
