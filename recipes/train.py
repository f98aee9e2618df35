"""Train a model of the bundled pair from scratch, on every core of a CPU or on a GPU.

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
import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import checkpoint
import tokenizer as tokenizer_recipe
import torch
from config import RECIPES, Recipe
from decode import greedy
from model import build
from optim import Average, optimisers, set_rates
from parallel import Workers, start, usable_cores
from sources import Source
from tokenizers import Tokenizer
from torch.nn import functional

import data as problems_data
import stet.bundled as bundled
from stet.core.writing import append_lines, json_line

CHANGEABLE = ("layers", "width", "inner", "problems", "batch_tokens", "seed")
PARTS: tuple[tuple[problems_data.Part, int], ...] = (("training", 0), ("validation", 400))
PLACES = {"target": bundled.TARGET, "draft": bundled.DRAFT}


def has_bfloat16(kind: str) -> bool:
    """Whether the device computes in bfloat16 by itself; emulated it is many times slower."""
    return kind != "cpu" or torch.cpu._is_avx512_bf16_supported()


def loss_sum(model: Any, batch: problems_data.Batch, device: str) -> torch.Tensor:
    """Sum of the weighted losses of the tokens."""
    ids, labels, weights = (t.to(device) for t in (batch.ids, batch.labels, batch.weights))
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=has_bfloat16(kind)):
        logits = model(input_ids=ids, use_cache=False).logits
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            reduction="none",
            ignore_index=problems_data.IGNORED,
        )
    return (losses.float() * weights.flatten()).sum()


def loss_of(model: Any, batch: problems_data.Batch, device: str) -> torch.Tensor:
    """Mean loss per weighted token."""
    return loss_sum(model, batch, device) / batch.weights.sum().to(device)


@torch.no_grad()
def validation_loss(model: Any, data: problems_data.Data, recipe: Recipe, device: str) -> float:
    """Mean loss of the solution tokens."""
    stream = problems_data.batches(data, recipe.batch_tokens, 0.0, seed=0)
    total = weight = 0.0
    while weight < float(data.lengths.sum() - data.prompts.sum()) * 0.9:
        batch = next(stream)
        total += float(loss_sum(model, batch, device))
        weight += float(batch.weights.sum())
    return total / weight


def validation_accuracy(model: Any, tokenizer: Tokenizer, source: Source, count: int) -> float:
    """Share of right answers under greedy decoding."""
    chosen = source.asked(count)
    end = tokenizer.token_to_id(tokenizer_recipe.END)
    texts = greedy(model, [tokenizer.encode(p.prompt).ids for p in chosen], end)
    right = [
        bundled.parse_answer(tokenizer.decode(t.ids)) == p.answer
        for t, p in zip(texts, chosen, strict=True)
    ]
    return sum(right) / len(right)


def run_folder(options: argparse.Namespace) -> Path:
    """Where the checkpoints and the log of a run are."""
    own = options.what if options.seed is None else f"{options.what}-{options.seed}"
    return options.cache / (options.run or own)


def load_data(recipe: Recipe, cache: Path) -> tuple[problems_data.Data, problems_data.Data]:
    """Training and validation data, written to the cache on first use."""
    train, validation = (
        problems_data.load(
            cache, cache / recipe.tokenizer / "tokenizer.json", recipe.source, part, count
        )
        for part, count in PARTS
    )
    return train, validation


class Step(NamedTuple):
    """The report of an optimiser step, alike in all processes."""

    loss: float
    rate: float
    progress: float


class Run:
    """A training run and its folder, in one of its processes."""

    def __init__(self, recipe: Recipe, options: argparse.Namespace, workers: Workers) -> None:
        self.recipe, self.options, self.workers = recipe, options, workers
        self.folder = run_folder(options)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer_folder = options.cache / recipe.tokenizer
        self.tokenizer = Tokenizer.from_file(str(self.tokenizer_folder / "tokenizer.json"))
        vocabulary = self.tokenizer.get_vocab_size()
        end, pad = (
            self.tokenizer.token_to_id(t) for t in (tokenizer_recipe.END, tokenizer_recipe.PAD)
        )
        self.model = build(recipe, vocabulary, end, pad, "plain").to(options.device)
        # A second copy decodes and is exported: it takes either set of weights.
        self.judged = build(recipe, vocabulary, end, pad).to(options.device).eval()
        if options.start_from:
            checkpoint.load_export(options.start_from, self.model)
        self.average = Average(self.model)
        self.optimisers = optimisers(self.model, recipe, workers)
        self.train, self.validation = load_data(recipe, options.cache)
        self.state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "history": []}
        if (self.folder / options.checkpoint).exists():
            self.check_recipe(self.folder / options.checkpoint)
            self.state = checkpoint.restore(
                self.folder / options.checkpoint, self.model, self.average, self.optimisers
            )

    def check_recipe(self, folder: Path) -> None:
        """Refuse to go on from a checkpoint of another size."""
        before = json.loads((folder / "progress.json").read_text()).get("recipe", {})
        for field in ("layers", "width", "inner"):
            if before.get(field, getattr(self.recipe, field)) != getattr(self.recipe, field):
                raise SystemExit(
                    f"{folder} is of a model with {field} {before[field]}, not "
                    f"{getattr(self.recipe, field)}: name another --run, or remove it"
                )

    def log(self, **entry: Any) -> None:
        """Write a line of the run's log, and show it."""
        line = {"time": datetime.datetime.now().isoformat(timespec="seconds"), **entry}
        append_lines(self.folder / "log.jsonl", [json_line(line)], durable=False)
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
            result["accuracy"] = validation_accuracy(
                self.judged, self.tokenizer, self.recipe.source, count
            )
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
        checkpoint.export(folder, self.judged, self.weights(averaged=better), self.tokenizer_folder)
        self.log(exported=folder.name, averaged=better, **judged)

    def step(self, loss_function: Any, batch: problems_data.Batch, started: float) -> Step:
        """Take an optimiser step on the joint batch of all processes."""
        loss = loss_function(self.model, batch, self.options.device)
        loss.backward()
        parameters = list(self.model.parameters())
        # Only the first process looks at the clock: all must agree on the rate and on the end.
        progress = self.progress(started) if self.workers.first else 0.0
        tokens = int((batch.labels != problems_data.IGNORED).sum())
        total, weight, tokens_sum, progress = self.workers.sum_gradients(
            parameters, [loss.detach(), batch.weights.sum(), tokens, progress]
        )
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(weight)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        rate = set_rates(self.optimisers, self.state["step"], progress)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.state["step"] += 1
        self.state["tokens"] += round(tokens_sum)
        if self.workers.first:
            self.average.update(self.model, self.state["step"])
        return Step(total / weight, rate, progress)

    def fit(self) -> None:
        """Train until the budget is used."""
        started = time.monotonic()
        size = self.workers.size
        loss_function = torch.compile(loss_sum, dynamic=True) if self.options.compile else loss_sum
        stream = problems_data.batches(
            self.train,
            self.recipe.batch_tokens // size,
            self.recipe.prompt_weight,
            self.recipe.seed,
            self.state["step"] * size + self.workers.rank,
            size,
        )
        last_saved = last_judged = last_logged = time.monotonic()
        here = self.progress(started) if self.workers.first else 0.0
        progress = float(self.workers.sum(torch.tensor(here)))
        marks = [m for m in (0.25, 0.5) if m > progress]
        if self.workers.first and self.options.start_from and not self.state["step"]:
            self.log(step=0, tokens=0, **self.judge(self.options.judge_problems))
        while progress < 1:
            done = self.step(loss_function, next(stream), started)
            progress = done.progress
            if not self.workers.first:
                continue
            now = time.monotonic()
            if now - last_logged > 10:
                last_logged = now
                self.log(
                    step=self.state["step"],
                    tokens=self.state["tokens"],
                    seconds=round(self.state["seconds"] + now - started, 1),
                    loss=round(done.loss, 4),
                    rate=round(done.rate, 4),
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
        self.check_weights()
        if self.workers.first:
            self.save(started)
            self.log(
                step=self.state["step"], tokens=self.state["tokens"], done=True, **self.judge(300)
            )

    def check_weights(self) -> None:
        """Stop if the processes do not hold the same weights, bit for bit."""
        bits = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        digest = hashlib.sha256(bits.cpu().numpy().tobytes()).digest()
        digests = self.workers.gather(torch.tensor(list(digest), dtype=torch.uint8))
        if not (digests == digests[0]).all():
            raise RuntimeError("the processes' weights differ; this run is worthless")


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
    parser.add_argument(
        "--start-from",
        metavar="FOLDER",
        type=Path,
        help="an export whose weights a new run begins with, such as another schedule for them",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--processes",
        type=int,
        help="share each batch among so many; default: one per usable core, on an accelerator 1",
    )
    parser.add_argument(
        "--threads", type=int, help="of each process; default: 1, or all cores with one process"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the model; default: when the budget is more than 10 minutes",
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
    for field in CHANGEABLE:
        parser.add_argument(
            f"--{field.replace('_', '-')}", type=int, help="instead of the recipe's"
        )
    options = parser.parse_args()
    recipe = RECIPES.get(options.what, RECIPES["target"])
    changed = {f: v for f in CHANGEABLE if (v := getattr(options, f)) is not None}
    recipe = Recipe(**(asdict(recipe) | changed))
    tokenizer_folder = options.cache / recipe.tokenizer
    if options.what == "tokenizer" or not (tokenizer_folder / "tokenizer.json").exists():
        tokenizer_recipe.save(tokenizer_recipe.train(recipe.source.words()), tokenizer_folder)
    if options.what == "tokenizer":
        return
    on_cpu = torch.device(options.device).type == "cpu"
    options.processes = options.processes or (usable_cores() if on_cpu else 1)
    if options.export_only:
        options.processes = 1
    if options.processes > 1 and not on_cpu:
        parser.error("several processes are for a CPU")
    if options.threads is None:
        options.threads = 1 if options.processes > 1 else torch.get_num_threads()
    set_budget(options, recipe)
    load_data(recipe, options.cache)  # written once, before several processes read it
    start(options.processes, work, recipe, options)


def set_budget(options: argparse.Namespace, recipe: Recipe) -> None:
    """Fill in the minutes, and whether compiling pays within them."""
    options.minutes = options.minutes or recipe.minutes
    remaining = options.minutes
    if options.stop_at:
        now = datetime.datetime.now()
        hour, minute = map(int, options.stop_at.split(":"))
        stop = now.replace(hour=hour, minute=minute, second=0)
        stop += datetime.timedelta(days=stop < now)
        options.stop_time = time.time() + (stop - now).total_seconds()
        remaining = (stop - now).total_seconds() / 60
    if options.compile is None:
        # At some 5000 tokens per second and core.
        by_tokens = (options.tokens or 0) / (5000 * 60 * options.processes)
        options.compile = (by_tokens if options.tokens else remaining) > 10


def work(workers: Workers, recipe: Recipe, options: argparse.Namespace) -> None:
    """Train and export, in each process."""
    torch.set_num_threads(options.threads)
    run = Run(recipe, options, workers)
    if options.export_only:
        run.export(options.export_only)
        return
    if options.stop_at:
        options.minutes = (run.state["seconds"] + options.stop_time - time.time()) / 60
    run.fit()
    if options.export and workers.first:
        run.export(PLACES.get(options.what, run.folder / "export"))


if __name__ == "__main__":
    main()
