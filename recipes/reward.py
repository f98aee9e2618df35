"""Train the bundled reward model and the head on the draft's hidden states.

    python recipes/reward.py                 # label steps, train every size, export the default
    python recipes/reward.py draft head      # train these only
    python recipes/reward.py head --control 0 --pairs benchmarks/pairs/control   # of a control pair

Everything goes on where it stopped when started again.
"""

from __future__ import annotations

import os

# Set before torch is loaded: idle threads that spin make a shared machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import datetime
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import control
import reward_data
import torch
from checkpoint import replace_folder
from reward_model import (
    SIZES,
    Fit,
    Text,
    batches,
    build,
    head_loss,
    head_scores,
    model_loss,
    model_scores,
    quality,
    step_batches,
    steps_of,
    texts_of,
)

import stet
import stet.bundled as bundled
from stet.core.writing import append_lines, json_line
from stet.rewards.head import HeadNet, RewardHead

PAIRS = Path(__file__).resolve().parent.parent / "benchmarks/pairs/control"
Source = Callable[[str, int], list[tuple[int, Any]]]

HEAD = "head"
INNER = 64
BATCH_TOKENS, BATCH_STEPS = 4096, 256
EXPORTED = "draft"
"""The size that is shipped: the best of the sweep, see `README.md`."""


def log(folder: Path, **entry: Any) -> None:
    """Write a line of a run's log, and show it."""
    line = {"time": datetime.datetime.now().isoformat(timespec="seconds"), **entry}
    append_lines(folder / "log.jsonl", [json_line(line)], durable=False)
    print(folder.name, json.dumps(line), flush=True)


def export_model(folder: Path, model: Any, name: str, pair: str) -> None:
    """A folder that transformers loads by itself, in bfloat16, with its tokenizer."""
    partial_folder = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial_folder, ignore_errors=True)
    model.config.id2label, model.config.label2id = {0: "good"}, {"good": 0}
    # For which pair it was made, and how: read by nobody but people and `stet.rewards`.
    model.config.stet = {"pair": pair, "size": name}
    model.to(torch.bfloat16).save_pretrained(partial_folder)
    (partial_folder / "model.safetensors").chmod(0o644)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled.TARGET / file, partial_folder / file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(partial_folder, folder)


class Subject(NamedTuple):
    """What rewards are trained for.

    Attributes:
        pair: steps are labelled with it.
        draft: folder of its draft, whose states a head reads.
        source: its problems.
        export: the folder in which its rewards belong.
    """

    pair: stet.Pair
    draft: Path
    source: Source
    export: Path


def subject_of(options: argparse.Namespace) -> Subject:
    """What the options ask for: the bundled pair, or a control pair."""
    seed, export = options.control, options.export
    if seed is None:
        pair = stet.load_pair(max_batch=64, max_length=512, compile=False)
        return Subject(pair, bundled.DRAFT, reward_data.numbered, export or bundled.REWARD.parent)
    target, draft = (options.pairs / f"{role}-{seed}" for role in ("target", "draft"))
    pair = stet.load_pair(
        target, draft, dtype="float32", max_batch=64, max_length=512, compile=False
    )

    def problems(split: str, count: int) -> list[tuple[int, Any]]:
        return list(enumerate(control.generate("asked", split, count, seed)))

    return Subject(pair, draft, problems, export or options.pairs / f"rewards-{seed}")


def main() -> None:
    """Read the command line, label and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help=f"of {', '.join([*SIZES, HEAD])}; default: all")
    parser.add_argument("--cache", type=Path, default=Path(".cache/reward"))
    parser.add_argument("--problems", type=int, default=9000, help="labelled for training")
    parser.add_argument("--validation", type=int, default=600, help="labelled to judge with")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="for each reward model")
    parser.add_argument("--head-tokens", type=int, default=2_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", type=int, metavar="SEED", help="the head of a control pair")
    parser.add_argument(
        "--pairs", type=Path, default=PAIRS, help="holds target-SEED and draft-SEED of --control"
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="default: into the package, or beside the control pair",
    )
    options = parser.parse_args()
    names = options.what or [*SIZES, HEAD]
    if options.control is not None and names != [HEAD]:
        parser.error("for a control pair the head alone is trained: `reward.py head --control 0`")
    if unknown := [name for name in names if name not in (*SIZES, HEAD)]:
        parser.error(f"there is no {unknown[0]}; choose from {', '.join([*SIZES, HEAD])}")
    torch.set_num_threads(options.threads)

    pair, draft, source, export = subject_of(options)
    if options.control is not None:
        options.cache /= f"control-{options.control}"
    files = {
        "policy_train": (options.cache / "policy_train.jsonl", options.problems),
        "validation": (options.cache / "validation.jsonl", options.validation),
    }
    for split, (path, count) in files.items():
        reward_data.collect(pair, path, split, count, source=source)
    training, validation = (
        texts_of(list(reward_data.read(path)), pair.tokenizer) for path, _ in files.values()
    )
    texts = [text for text, _ in training]

    for name in names:
        folder = options.cache / name
        folder.mkdir(parents=True, exist_ok=True)
        say = partial(log, folder)
        if name == HEAD:
            net = train_head(folder, training, draft, options, say)
            weights = sum(p.numel() for p in net.parameters())
            found = quality(head_scores(net, steps_of(validation, draft)), validation)
            head = RewardHead(net, pair.fingerprint)
            head.save(folder / "export")
            head.save(export / bundled.REWARD_HEAD.name)
        else:
            model = build(SIZES[name], pair.tokenizer, options.seed)
            weights = sum(p.numel() for p in model.parameters())
            fit = Fit(folder, model, SIZES[name].rate, options.tokens)
            fit.run(partial(batches, texts, BATCH_TOKENS, options.seed), model_loss, say)
            found = quality(model_scores(model, validation), validation)
            export_model(folder / "export", model, name, pair.fingerprint)
            if name == EXPORTED:
                shutil.copytree(folder / "export", export / bundled.REWARD.name, dirs_exist_ok=True)
        say(done=True, parameters=weights, **found)


def train_head(
    folder: Path,
    training: list[tuple[Text, int]],
    draft: Path,
    options: argparse.Namespace,
    say: Any,
) -> HeadNet:
    """The head, trained on states that the draft is run for once."""
    steps = steps_of(training, draft)
    torch.manual_seed(options.seed)
    net = HeadNet(steps.states[0].shape[1], INNER)
    fit = Fit(folder, net, 2e-3, options.head_tokens, decay=0.1)
    fit.run(partial(step_batches, steps, BATCH_STEPS, options.seed), head_loss, say)
    return net


if __name__ == "__main__":
    main()
