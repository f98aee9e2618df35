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
from stet.evaluation.statistics import Resamples, gain, ratio, share
from stet.evaluation.tasks import load_task
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
    parser.add_argument("--texts", type=int, default=20, help="texts of a round")
    parser.add_argument("--questions", type=int, default=24, help="questions of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=320)
    parser.add_argument("--minutes", type=float, default=1e9)
    options = parser.parse_args()
    end = time.perf_counter() + 60 * options.minutes
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.rounds):
        for name in FORMATS:
            if time.perf_counter() < end:
                measure(options, name, number, end)
    report(options)


PARTS = ("texts", "answers")


def part_file(options: argparse.Namespace, name: str, number: int, part: str) -> Path:
    word = "".join(c for c in name.lower() if c.isalnum())
    return options.folder / f"{word}-{number}-{part}.json"


def measure(options: argparse.Namespace, name: str, number: int, end: float) -> None:
    """A round's texts and questions in one format, each kept in a file of its own."""
    files = {part: part_file(options, name, number, part) for part in PARTS}
    left = [part for part, path in files.items() if not path.exists()]
    if name not in GRADED:
        left = [part for part in left if part == "texts"]
    if not left:
        return
    began = time.perf_counter()
    with loaded(options, name) as pair:
        print(name, number, "load", round(time.perf_counter() - began, 1), flush=True)
        for part in left:
            began = time.perf_counter()
            if began > end:
                return
            if part == "texts":
                some = texts(options)[number * options.texts :][: options.texts]
                found: Any = losses(pair, some)
            else:
                found = answers(pair, options, number)
            seconds = time.perf_counter() - began
            kept = {"bytes": pair.target.parameter_bytes, "seconds": seconds, part: found}
            files[part].write_text(json.dumps(kept), encoding="utf-8")
            print(name, number, part, round(seconds, 1), flush=True)


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
def losses(pair: stet.Pair, some: list[str]) -> list[tuple[float, int]]:
    """Of each text, minus the log-probability of all tokens but the first, and their number."""
    runner = pair.engine.runners["target"]
    row = runner.allocate()
    found: list[tuple[float, int]] = []
    for text in some:
        ids = torch.tensor([pair.tokenizer(text)["input_ids"][:LENGTH]])
        logits = runner.forward([row], ids, [0]).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        found.append((float(loss), ids.shape[1] - 1))
    runner.release(row)
    return found


def answers(pair: stet.Pair, options: argparse.Namespace, number: int) -> dict[str, bool]:
    """Whether each of a round's questions is answered rightly, by its id."""
    count = options.questions * options.rounds
    task = load_task("gsm8k", split="train", count=count, path=options.gsm8k / "train.jsonl")
    some = task.questions[number * options.questions :][: options.questions]
    prompts = [[{"role": "user", "content": question.prompt}] for question in some]
    results = pair.generate(prompts, "target", max_new_tokens=options.max_new_tokens, **PINNED)
    grader = task.grader
    assert grader is not None
    return {
        question.id: grader.right(grader.extract(result.text), str(question.reference))
        for question, result in zip(some, results, strict=True)
    }


def report(options: argparse.Namespace) -> None:
    """Compare what every format has done with the first one, and write the result."""
    done = {
        name: [
            json.loads(path.read_text(encoding="utf-8"))
            for number in range(options.rounds)
            for part in PARTS
            if (path := part_file(options, name, number, part)).exists()
        ]
        for name in FORMATS
    }
    base = done[GRADED[0]]
    rows = [compared(name, units, base) for name, units in done.items() if units]
    for row in rows:
        print(json.dumps(row))
    figures: dict[str, float] = {}
    for row in rows:
        word = row["format"].replace(" ", "_").replace(",", "").replace("'", "").lower()
        figures[f"{word}_perplexity"] = row["perplexity"]
        if row["format"] in GRADED[1:]:
            figures[f"{word}_accuracy_loss_points"] = round(-100 * row["gain"]["value"], 2)
    more = {"target": options.target, "folder_is_file": folder_is_file(options)}
    print("written:", write("quantisation", rows, figures, **more))


def compared(name: str, units: list[Any], base: list[Any]) -> dict[str, Any]:
    """A format's row: its own numbers, and differences to the first format's on the same texts."""
    resamples = Resamples()
    own = [tuple(text) for unit in units for text in unit.get("texts", ())]
    theirs = [tuple(text) for unit in base for text in unit.get("texts", ())]
    both = list(zip(own, theirs, strict=False))
    tokens = [text[1] for text, _ in both]
    more = ratio([a[0] - b[0] for a, b in both], tokens, resamples)
    row: dict[str, Any] = {
        "format": name,
        "gigabytes": round(units[0]["bytes"] / 1e9, 3),
        "texts": len(both),
        "tokens": sum(tokens),
        "perplexity": round(math.exp(sum(text[0] for text, _ in both) / sum(tokens)), 4),
        "nats_more_for_a_token": plain_numbers(more),
    }
    right = {key: good for unit in units for key, good in unit.get("answers", {}).items()}
    others = {key: good for unit in base for key, good in unit.get("answers", {}).items()}
    keys = [key for key in right if key in others]
    if keys:
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
