"""What rounded weights cost: perplexity and GSM8K of a real target in each format, on a CPU.

    python benchmarks/quantisation.py [--models .cache/models] [--gsm8k .cache/gsm8k] [--minutes 4]

Every format gets the same texts and questions, all of GSM8K's train split (nothing is tuned on
them), so differences are paired; intervals are of 95 %, over texts or questions. Perplexity is that
of questions with their worked solutions, in one pass over each. Work is done in rounds of all
formats and kept as it is done; `--minutes` ends it, and the next run goes on.

The folder holds the very values of the GGUF file (`"folder_is_file"` says whether it does), so the
folder in bfloat16 stands for the file unpacked, too. Its weights lie on the file's 4-bit grid: what
rounding costs a model that was never rounded is measured on the same model moved off the grid
(`_off_grid.py`), and set beside that.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from _off_grid import save_off_grid
from _record import plain_numbers, write
from safetensors import safe_open

import stet
from stet.evaluation.graders.number import Number
from stet.evaluation.statistics import Resamples, gain, ratio, share
from stet.evaluation.tasks import load_task
from stet.evaluation.tasks.base import Question
from stet.models.gguf.file import GgufFile
from stet.requests.options import PINNED

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "bfloat16": ("folder", {}),
    "int4": ("off_grid", {"quantize": "int4"}),
    "Q4_K_M packed": ("file", {"packed": True}),
    "int8": ("off_grid", {"quantize": "int8"}),
    "bfloat16, off the grid": ("off_grid", {}),
    "int4, on the file's grid": ("folder", {"quantize": "int4"}),
}
"""Formats by name: which model, and how it is loaded."""

GRADED = ("bfloat16", "int4", "Q4_K_M packed", "int8")
"""Those that also answer questions; the first is what others are compared with."""
LENGTH = 768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--target", default="coder-1.5b")
    parser.add_argument("--gsm8k", type=Path, default=Path(".cache/gsm8k"))
    parser.add_argument("--folder", type=Path, default=Path(".cache/quantisation"))
    parser.add_argument("--texts", type=int, default=12, help="texts of a round")
    parser.add_argument("--questions", type=int, default=24, help="questions of a round")
    parser.add_argument("--batch", type=int, default=12, help="questions answered together")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=320)
    parser.add_argument("--minutes", type=float, default=1e9)
    options = parser.parse_args()
    end = time.perf_counter() + 60 * options.minutes
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.rounds):
        for part in PARTS:
            for name in FORMATS if part == "texts" else GRADED:
                if time.perf_counter() < end:
                    measure(options, name, part, number, end)
    report(options)


PARTS = ("texts", "answers")


def kept_file(options: argparse.Namespace, name: str, part: str) -> Path:
    word = "".join(c for c in name.lower() if c.isalnum())
    return options.folder / f"{options.target}-{word}-{part}.json"


def measure(options: argparse.Namespace, name: str, part: str, number: int, end: float) -> None:
    """A round's texts or questions in one format, kept as they are done."""
    path = kept_file(options, name, part)
    kept: dict[str, Any] = {"seconds": 0.0, part: {}}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
    units = wanted(options, part, number)
    left = [unit for unit in units if not unit.keys() <= kept[part].keys()]
    if not left:
        return
    began = time.perf_counter()
    with loaded(options, name) as pair:
        print(name, number, "load", round(time.perf_counter() - began, 1), flush=True)
        kept["bytes"] = pair.target.parameter_bytes
        for unit in left:
            began = time.perf_counter()
            if began > end:
                return
            found = losses(pair, unit) if part == "texts" else answers(pair, options, unit)
            kept[part] |= found
            kept["seconds"] += time.perf_counter() - began
            path.write_text(json.dumps(kept), encoding="utf-8")


def wanted(options: argparse.Namespace, part: str, number: int) -> list[dict[str, Any]]:
    """What a round measures, by its id, in pieces that are kept when they are done."""
    if part == "texts":
        some = texts(options)[number * options.texts :][: options.texts]
        return [{str(number * options.texts + i): text} for i, text in enumerate(some)]
    count = options.questions * options.rounds
    path = options.gsm8k / "train.jsonl"
    # Only the template and the order are the task's; it grades in `answers`.
    questions = load_task("gsm8k", split="train", count=count, path=path).questions
    some_ = questions[number * options.questions :][: options.questions]
    return [
        {question.id: question for question in some_[at : at + options.batch]}
        for at in range(0, len(some_), options.batch)
    ]


def loaded(options: argparse.Namespace, name: str) -> stet.Pair:
    kind, more = FORMATS[name]
    folder = options.models / options.target
    place = {
        "folder": folder,
        "file": folder.with_name(folder.name + ".gguf"),
        "off_grid": options.folder / f"{options.target}-off-grid",
    }[kind]
    if kind == "off_grid":
        save_off_grid(folder, place)
    return stet.load_pair(
        place, "lookup", dtype="bfloat16", device="cpu", max_batch=32, max_length=LENGTH,
        compile=False, **more,
    )  # fmt: skip


def texts(options: argparse.Namespace) -> list[str]:
    """Questions with their solutions, from the end of the split."""
    lines = (options.gsm8k / "train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in reversed(lines)]
    return [f"{record['question']}\n{record['answer']}" for record in records]


@torch.inference_mode()
def losses(pair: stet.Pair, some: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Of each text: minus the log-probability of its tokens but the first, and the best tokens."""
    runner = pair.engine.runners["target"]
    row = runner.allocate()
    found: dict[str, dict[str, Any]] = {}
    for key, text in some.items():
        ids = torch.tensor([pair.tokenizer(text)["input_ids"][:LENGTH]])
        logits = runner.forward([row], ids, [0]).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        found[key] = {"loss": float(loss), "best": logits.argmax(-1).tolist()}
    runner.release(row)
    return found


def answers(
    pair: stet.Pair, options: argparse.Namespace, some: dict[str, Question]
) -> dict[str, bool]:
    """Whether questions are answered rightly, by their ids."""
    prompts = [[{"role": "user", "content": question.prompt}] for question in some.values()]
    results = pair.generate(prompts, "target", max_new_tokens=options.max_new_tokens, **PINNED)
    grader = Number()
    return {
        question.id: grader.right(grader.extract(result.text), str(question.reference))
        for question, result in zip(some.values(), results, strict=True)
    }


def report(options: argparse.Namespace) -> None:
    """Compare what every format has done with the first one, and write the result."""
    done: dict[str, dict[str, Any]] = {}
    for name in FORMATS:
        for part in PARTS:
            path = kept_file(options, name, part)
            if path.exists():
                done.setdefault(name, {}).update(json.loads(path.read_text(encoding="utf-8")))
    for part in PARTS:  # what every format has done, so that their numbers are of the same texts
        held = [found[part] for found in done.values() if part in found]
        shared = set(held[0]).intersection(*held)
        for found in done.values():
            if part in found:
                found[part] = {key: value for key, value in found[part].items() if key in shared}
    base = done[GRADED[0]]
    rows = [compared(name, found, base) for name, found in done.items()]
    for row in rows:
        print(json.dumps(row))
    figures: dict[str, float] = {}
    for row in rows:
        word = row["format"].replace(" ", "_").replace(",", "").replace("'", "").lower()
        if "perplexity" in row:
            figures[f"{word}_perplexity"] = row["perplexity"]
        if row["format"] in GRADED[1:] and "gain" in row:
            figures[f"{word}_accuracy_loss_points"] = round(-100 * row["gain"]["value"], 2)
    more = {"target": options.target, "folder_is_file": folder_is_file(options)}
    print("written:", write("quantisation", rows, figures, **more))


def compared(name: str, own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """A format's row: its own numbers, and differences to the first format's on the same texts."""
    resamples = Resamples()
    row: dict[str, Any] = {"format": name, "gigabytes": round(own["bytes"] / 1e9, 3)}
    ours, theirs = own.get("texts", {}), base.get("texts", {})
    if both := [(ours[key], theirs[key]) for key in ours if key in theirs]:
        tokens = [len(a["best"]) for a, _ in both]
        more = ratio([a["loss"] - b["loss"] for a, b in both], tokens, resamples)
        same = [sum(x == y for x, y in zip(a["best"], b["best"], strict=True)) for a, b in both]
        row["texts"], row["tokens"] = len(both), sum(tokens)
        row["perplexity"] = round(math.exp(sum(a["loss"] for a, _ in both) / sum(tokens)), 4)
        row["nats_more_for_a_token"] = plain_numbers(more)
        row["same_best_token"] = plain_numbers(ratio(same, tokens, resamples))
    right, others = own.get("answers", {}), base.get("answers", {})
    if keys := [key for key in right if key in others]:
        ones = [1] * len(keys)
        row["questions"] = len(keys)
        row["accuracy"] = plain_numbers(share([right[key] for key in keys], ones))
        row["gain"] = plain_numbers(
            gain(
                [right[key] and not others[key] for key in keys],
                [others[key] and not right[key] for key in keys],
                ones,
                resamples,
            )
        )
    return row


def folder_is_file(options: argparse.Namespace) -> bool:
    """Whether the folder holds the values of the GGUF file, to the last bit."""
    folder = options.models / options.target
    file = GgufFile.open(folder.with_name(folder.name + ".gguf"))
    with safe_open(folder / "model.safetensors", "pt") as held:
        for weight in file.weights():
            values = torch.empty(weight.shape, dtype=torch.bfloat16)
            weight.unpack(values)
            if not torch.equal(values, held.get_tensor(weight.name)):
                return False
    return True


if __name__ == "__main__":
    main()
