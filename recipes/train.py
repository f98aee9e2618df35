"""Train a model of the bundled pair from scratch.

    python recipes/train.py tokenizer
    python recipes/train.py target
    python recipes/train.py draft

Each goes on from its last checkpoint when started again. `--export` puts the result where the
package looks for it.
"""

from __future__ import annotations

import os

# Set before torch is loaded: idle threads that spin make a shared machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import datetime
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import checkpoint
import data as problems_data
import tokenizer as tokenizer_recipe
import torch
from config import RECIPES, Recipe
from decode import greedy
from model import build
from optim import Average, optimisers, set_rates
from tokenizers import Tokenizer
from torch.nn import functional

import stet.bundled as bundled

PLACES = {"target": bundled.TARGET, "draft": bundled.DRAFT}


def loss_of(model: Any, batch: problems_data.Batch, device: str) -> torch.Tensor:
    """Mean loss per weighted token."""
    ids, labels, weights = (t.to(device) for t in (batch.ids, batch.labels, batch.weights))
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            reduction="none",
            ignore_index=problems_data.IGNORED,
        )
    return (losses.float() * weights.flatten()).sum() / weights.sum()


@torch.no_grad()
def validation_loss(model: Any, data: problems_data.Data, recipe: Recipe, device: str) -> float:
    """Mean loss of the solution tokens."""
    stream = problems_data.batches(data, recipe.batch_tokens, 0.0, seed=0)
    total = weight = 0.0
    while weight < float(data.lengths.sum() - data.prompts.sum()) * 0.9:
        batch = next(stream)
        count = float(batch.weights.sum())
        total += float(loss_of(model, batch, device)) * count
        weight += count
    return total / weight


def validation_accuracy(model: Any, tokenizer: Tokenizer, family: str, count: int) -> float:
    """Share of right answers under greedy decoding."""
    chosen = bundled.generate(family, "validation", count, seed=7)
    end = tokenizer.token_to_id(tokenizer_recipe.END)
    texts = greedy(model, [tokenizer.encode(p.prompt).ids for p in chosen], end)
    right = [
        bundled.parse_answer(tokenizer.decode(t.ids)) == p.answer
        for t, p in zip(texts, chosen, strict=True)
    ]
    return sum(right) / len(right)


class Run:
    """One training run and its folder."""

    def __init__(self, name: str, recipe: Recipe, options: argparse.Namespace) -> None:
        self.recipe, self.options = recipe, options
        self.folder = options.cache / (options.run or name)
        self.folder.mkdir(parents=True, exist_ok=True)
        tokenizer_file = options.cache / "tokenizer" / "tokenizer.json"
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file))
        vocabulary = self.tokenizer.get_vocab_size()
        end, pad = (
            self.tokenizer.token_to_id(t) for t in (tokenizer_recipe.END, tokenizer_recipe.PAD)
        )
        self.model = build(recipe, vocabulary, end, pad, "plain").to(options.device)
        # A second copy decodes and is exported: it takes either set of weights.
        self.judged = build(recipe, vocabulary, end, pad).to(options.device).eval()
        self.average = Average(self.model)
        self.optimisers = optimisers(self.model, recipe)
        cache = options.cache
        self.train = problems_data.load(
            cache, tokenizer_file, "pair_train", recipe.problems, recipe.stories, recipe.templates
        )
        self.validation = problems_data.load(
            cache, tokenizer_file, "validation", 400, recipe.stories, recipe.templates
        )
        self.state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "history": []}
        if (self.folder / options.checkpoint).exists():
            self.state = checkpoint.restore(
                self.folder / options.checkpoint, self.model, self.average, self.optimisers
            )

    def log(self, **entry: Any) -> None:
        """One line of the run's log, also shown."""
        line = {"time": datetime.datetime.now().isoformat(timespec="seconds"), **entry}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def progress(self, started: float) -> float:
        """Share of the budget that is used."""
        if self.options.tokens:
            return self.state["tokens"] / self.options.tokens
        return (self.state["seconds"] + time.monotonic() - started) / (60 * self.options.minutes)

    def weights(self, averaged: bool) -> dict[str, torch.Tensor]:
        """The average, or the weights as they are."""
        if averaged:
            return self.average.weights
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def judge(self, count: int) -> dict[str, float]:
        """Validation loss of both sets of weights, accuracy of the better one."""
        now, average = self.weights(averaged=False), self.weights(averaged=True)
        losses: list[float] = []
        for weights in (now, average):
            self.judged.load_state_dict(weights, strict=False)
            losses.append(
                validation_loss(self.judged, self.validation, self.recipe, self.options.device)
            )
        if losses[0] < losses[1]:
            self.judged.load_state_dict(now, strict=False)
        result = {"validation_loss": losses[0], "validation_loss_average": losses[1]}
        if count:
            result["accuracy"] = validation_accuracy(self.judged, self.tokenizer, "stories", count)
        return result

    def save(self, started: float, name: str = "last") -> None:
        """Write a checkpoint."""
        state = self.state | {
            "seconds": self.state["seconds"] + time.monotonic() - started,
            "recipe": asdict(self.recipe),
        }
        checkpoint.save(self.folder / name, self.model, self.average, self.optimisers, state)

    def export(self, folder: Path) -> None:
        """Export the better of the weights and their average."""
        judged = self.judge(0)
        better = judged["validation_loss_average"] <= judged["validation_loss"]
        checkpoint.export(
            folder, self.judged, self.weights(averaged=better), self.options.cache / "tokenizer"
        )
        self.log(exported=folder.name, averaged=better, **judged)

    def fit(self) -> None:
        """Train until the budget is used."""
        started = time.monotonic()
        loss_function = torch.compile(loss_of, dynamic=True) if self.options.compile else loss_of
        stream = problems_data.batches(
            self.train,
            self.recipe.batch_tokens,
            self.recipe.prompt_weight,
            self.recipe.seed,
            self.state["step"],
        )
        last_saved = last_judged = last_logged = time.monotonic()
        marks = [m for m in (0.25, 0.5) if m > self.progress(started)]
        while (progress := self.progress(started)) < 1:
            rate = set_rates(self.optimisers, self.state["step"], progress)
            batch = next(stream)
            loss = loss_function(self.model, batch, self.options.device)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.state["step"] += 1
            self.state["tokens"] += int((batch.labels != problems_data.IGNORED).sum())
            self.average.update(self.model, self.state["step"])
            now = time.monotonic()
            if now - last_logged > 10:
                last_logged = now
                self.log(
                    step=self.state["step"],
                    tokens=self.state["tokens"],
                    seconds=round(self.state["seconds"] + now - started, 1),
                    loss=round(float(loss.detach()), 4),
                    rate=round(rate, 4),
                )
            if now - last_judged > 60 * self.options.judge_minutes:
                judged = self.judge(self.options.judge_problems)
                self.log(step=self.state["step"], tokens=self.state["tokens"], **judged)
                self.state["history"].append({"tokens": self.state["tokens"], **judged})
                last_judged = time.monotonic()
            if now - last_saved > 120:
                self.save(started)
                last_saved = time.monotonic()
            if marks and progress >= marks[0]:
                self.save(started, f"at-{round(100 * marks.pop(0))}")
        self.save(started)
        self.log(step=self.state["step"], tokens=self.state["tokens"], done=True, **self.judge(300))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tokenizer", *RECIPES])
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/pair"), help="checkpoints, logs and data"
    )
    parser.add_argument("--run", help="name of the run's folder; default: the recipe's name")
    parser.add_argument(
        "--minutes", type=float, help="time budget, pauses between resumed runs not counted"
    )
    parser.add_argument(
        "--stop-at", metavar="HH:MM", help="instead of --minutes: the clock time to be done"
    )
    parser.add_argument("--tokens", type=int, help="instead of a time: the number of tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--compile", action="store_true", help="compile the model; pays on long runs"
    )
    parser.add_argument("--judge-minutes", type=float, default=10.0, help="between validations")
    parser.add_argument("--judge-problems", type=int, default=80)
    parser.add_argument(
        "--export", action="store_true", help="put the result into the package when done"
    )
    parser.add_argument(
        "--export-only",
        metavar="FOLDER",
        type=Path,
        help="export the last checkpoint there and stop",
    )
    parser.add_argument(
        "--checkpoint",
        default="last",
        help="which one to go on from or to export: last, at-25, at-50",
    )
    for field in ("layers", "width", "inner"):
        parser.add_argument(f"--{field}", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "tokenizer":
        tokenizer_recipe.save(tokenizer_recipe.train(), options.cache / "tokenizer")
        return
    recipe = RECIPES[options.what]
    changed = {f: v for f in ("layers", "width", "inner") if (v := getattr(options, f)) is not None}
    recipe = Recipe(**(asdict(recipe) | changed))
    run = Run(options.what, recipe, options)
    if options.export_only:
        run.export(options.export_only)
        return
    options.minutes = options.minutes or recipe.minutes
    if options.stop_at:
        now = datetime.datetime.now()
        hour, minute = map(int, options.stop_at.split(":"))
        stop = now.replace(hour=hour, minute=minute, second=0)
        stop += datetime.timedelta(days=stop < now)
        options.minutes = run.state["seconds"] / 60 + (stop - now).total_seconds() / 60
    run.fit()
    if options.export:
        run.export(PLACES.get(options.what, run.folder / "export"))


if __name__ == "__main__":
    main()
