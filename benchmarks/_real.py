"""The real pairs, and the problems that they are asked.

Models lie in `.cache/models`, GSM8K's `train.jsonl` and `test.jsonl` in `.cache/gsm8k`, SVAMP's
`SVAMP.json` in `.cache/svamp`.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import _splits

from stet import load_pair
from stet.bundled import iterate
from stet.evaluation.tasks import load_task
from stet.evaluation.tasks.base import LoadedTask
from stet.pair import Pair

MODELS = Path(".cache/models")
GSM8K, SVAMP = Path(".cache/gsm8k"), Path(".cache/svamp/SVAMP.json")

NAMES = {
    "target": "Qwen/Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, decoded as it is stored",
    "draft": "Qwen/Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, decoded as it is stored",
}
TUNED = {role: Path(f".cache/evidence/tuned/{role}") for role in ("target", "draft")}
"""Adapters that the part `adapt` makes of these two."""

BASES = {"target": MODELS / "coder-1.5b", "draft": MODELS / "coder-0.5b"}
"""What they are made of: the same weights, dequantised to bfloat16."""

PAIRS: dict[str, tuple[Path, Path]] = {
    "real": (MODELS / "coder-1.5b.gguf", MODELS / "coder-0.5b.gguf"),
    "tuned": (MODELS / "coder-1.5b.gguf", TUNED["draft"]),
}
"""Target and draft of each pair."""

DOMAINS: dict[str, tuple[str, ...]] = {
    "real": ("gsm8k", "svamp"),
    "tuned": ("gsm8k", "svamp", "units"),
}
"""The sets that each pair is tested on; it learns from those of them that have a train split."""

BRIEFLY = """Write each step of the solution on a line of its own: what it is, and its calculation.

Question: A box holds 4 rows of 6 eggs. 5 eggs are broken. How many eggs are whole?
Eggs in the box: 4 * 6 = 24
Whole eggs: 24 - 5 = 19
Answer: 19

Question: Tom earns $12 an hour and works 5 hours a day. After 3 days he spends $40. What is left?
Earned in a day: 12 * 5 = 60
Earned in 3 days: 60 * 3 = 180
Left: 180 - 40 = 140
Answer: 140

Question: {{ question }}"""
"""Brief steps, by two examples: asked for them in words alone, the target leaves steps out, and the
draft writes code."""

LONGEST = 320
"""The most tokens of an answer; the share that is cut is stated."""

CONTEXT = 1024
GENERATED = 2000
"""Problems of each part of a generated domain."""


def load(pair: str, **options: Any) -> Pair:
    """A pair by its name."""
    target, draft = map(str, PAIRS[pair])
    return load_pair(target, draft, max_length=CONTEXT, **options)


def missing(pair: str) -> str | None:
    """The first file that is not there, or None."""
    models = [path for path in PAIRS[pair] if path not in TUNED.values()]
    bases = BASES.values() if pair == "tuned" else ()
    wanted = [*models, *bases, GSM8K / "train.jsonl", GSM8K / "test.jsonl", SVAMP]
    return next((str(path) for path in wanted if not path.exists()), None)


def task_of(pair: str, part: str, count: int, folder: Path) -> LoadedTask:
    """Problems of a part of the split, so many of each of the pair's domains.

    Args:
        pair: name of the pair.
        part: "tuning", "branches", "calibration", "validation" or "test".
        count: problems of each domain.
        folder: where they are written down.
    """
    records = [r for domain in DOMAINS[pair] for r in problems(domain, part)[:count]]
    path = folder / f"{part}-{count}.jsonl"
    text = "".join(json.dumps(record) + "\n" for record in records)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    task = load_task(str(path), template=BRIEFLY, grader="number", chat=True)
    return replace(task, max_new_tokens=LONGEST)


def problems(domain: str, part: str) -> list[dict[str, str]]:
    """All problems of a part of a domain, as records of a JSONL file, in an order of their own."""
    if domain == "svamp":
        found = _svamp() if part == "test" else []
    elif domain == "gsm8k":
        found = [_worked(r["question"], r["answer"]) for r in _splits.gsm8k(GSM8K, part)]
    else:
        every = islice(iterate(domain, _splits.SECOND_DOMAIN[part]), GENERATED)
        found = [
            {"question": p.text, "answer": str(p.answer), "solution": p.solution} for p in every
        ]
    for number, record in enumerate(found):
        record |= {"id": f"{domain}-{number}", "group": domain}
    random.Random(f"evidence/{domain}/{part}").shuffle(found)
    return found


def _worked(question: str, solution: str) -> dict[str, str]:
    """A record of GSM8K with its solution in the form that is asked for."""
    steps, _, answer = re.sub(r"<<[^<>]*>>", "", solution).rpartition("####")
    answer = answer.strip().replace(",", "")
    worked = f"{steps.strip()}\nAnswer: {answer}"
    return {"question": question, "answer": answer, "solution": worked}


def examples(count: int, folder: Path) -> Path:
    """Worked problems of the part `tuning`, so many of each domain that has one, in a file."""
    records = [r for domain in DOMAINS["tuned"] for r in problems(domain, "tuning")[:count]]
    random.Random("evidence/examples").shuffle(records)
    path = folder / f"examples-{count}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": r["id"],
            "prompt": BRIEFLY.replace("{{ question }}", r["question"]),
            "answer": r["solution"],
        }
        for r in records
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _svamp() -> list[dict[str, str]]:
    rows = json.loads(SVAMP.read_text(encoding="utf-8"))
    return [
        {
            "question": f"{r['Body'].strip().rstrip('.')}. {r['Question'].strip()}",
            "answer": f"{float(r['Answer']):g}",
        }
        for r in rows
    ]
