"""The main job on a real pair, as a new user would type it: every command to its end.

    make real MODELS=.cache/models [GSM8K=folder/of/its/files]

Runs `stet generate`, `doctor`, `compare`, `calibrate` and `train` on two instruct models of one
family, in bfloat16, each in a process of its own, with small numbers: it shows that they go through
and what they print, not which policy is best. A command that fails stops the run. What the commands
wrote stays in `--folder`, and an interrupted run goes on there; the figures go to
`benchmarks/results/real.json`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _record import write

NAMES = {
    "coder-1.5b": "Qwen/Qwen2.5-Coder-1.5B-Instruct (Q4_K_M, dequantised to bfloat16)",
    "coder-0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct (Q4_K_M, dequantised to bfloat16)",
}
QUESTION = "What is the capital of France?"
PROBLEM = (
    "A baker sells 12 boxes of 8 rolls in the morning and 30 rolls in the afternoon. "
    "How many rolls does she sell in a day?"
)
BRIEFLY = "Answer in one short sentence with the number."
"""So that what writes many answers takes minutes on a CPU; single ones are as long as they are."""


@dataclass
class Session:
    """Commands run one after the other, and what came of them; none is run twice."""

    folder: Path
    steps: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = self.folder / "steps.json"
        if self.log.exists():
            self.steps = json.loads(self.log.read_text(encoding="utf-8"))

    def run(self, name: str, *words: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run a command that prints JSON, which is returned."""
        command = shlex.join(["stet", *words])
        out = self.folder / f"{name}.out.json"
        print(f"$ {command}", file=sys.stderr, flush=True)
        if any(step["step"] == name for step in self.steps):
            return json.loads(out.read_text(encoding="utf-8"))
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "stet.cli", *words], stdout=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - began
        if done.returncode not in codes:
            raise SystemExit(f"{command}: code {done.returncode}\n{done.stdout}")
        found = json.loads(done.stdout)
        out.write_text(done.stdout, encoding="utf-8")
        step = {"step": name, "command": command, "seconds": round(seconds, 1)}
        step |= {"code": done.returncode} | told(found)
        self.steps.append(step)
        self.log.write_text(json.dumps(self.steps, indent=1), encoding="utf-8")
        print(f"  {seconds:.0f} s", file=sys.stderr, flush=True)
        return found


def told(found: dict[str, Any]) -> dict[str, Any]:
    """What the result file keeps of a command's output."""
    if "text" not in found:
        return {}
    return {name: found[name] for name in ("text", "finish_reason", "counters")}


def answered(session: Session, name: str, *words: str) -> dict[str, Any]:
    """An answer with its counters; an empty one fails the run."""
    found = session.run(name, "generate", *words, "--json")
    if not found["text"].strip():
        raise SystemExit(f"{name}: the answer is empty")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--target", default="coder-1.5b")
    parser.add_argument("--draft", default="coder-0.5b")
    parser.add_argument("--gsm8k", type=Path, help="folder of test.jsonl and train.jsonl; else hub")
    parser.add_argument("--folder", type=Path, default=Path(".cache/real"))
    parser.add_argument(
        "--max-new-tokens", type=int, default=40, help="of comparing, calibrating and training"
    )
    parser.add_argument("--fresh", action="store_true", help="do not go on with an earlier run")
    options = parser.parse_args()
    target, draft = options.models / options.target, options.models / options.draft
    missing = [str(path) for path in (target, draft) if not (path / "config.json").is_file()]
    if missing:
        print(f"Skipped: there is no model in {' and '.join(missing)}; name the folder of models.")
        return
    if options.fresh:
        shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    models = ["-t", str(target), "-d", str(draft), "--dtype", "bfloat16"]
    session = Session(options.folder)
    figures = run(session, target, models, options.gsm8k, options.max_new_tokens)
    for step in session.steps:
        print(f"{step['step']:<12} {step['seconds']:>8.1f} s  code {step['code']}")
    named = {role: NAMES.get(p.name, p.name) for role, p in (("target", target), ("draft", draft))}
    print(write("real", session.steps, figures, models=named))


def run(
    session: Session, target: Path, models: list[str], gsm8k: Path | None, longest: int
) -> dict[str, float]:
    """All commands; returns the figures worth a line."""
    folder = session.folder
    short = ["--system", BRIEFLY, "--max-new-tokens", str(longest)]
    task = {split: ["--task", "gsm8k", "--split", split] for split in ("test", "train")}
    if gsm8k is not None:
        for split, words in task.items():
            words += ["--task-file", str(gsm8k / f"{split}.jsonl")]
    lookup = ["-t", str(target), "-d", "lookup", "--dtype", "bfloat16"]
    answered(session, "capital", *lookup, QUESTION)
    exact = answered(session, "exact", *models, PROBLEM)
    plain = answered(session, "target", *models, "-p", "target", PROBLEM)
    answered(session, "specguard", *models, "-p", "specguard", PROBLEM)
    # Code 1 says that the pair does not pay here, which is an answer too.
    doctor = session.run(
        "doctor", "doctor", *models, *["--limit", "4", "-n", "48", "--json"], codes=(0, 1)
    )
    compare = session.run(
        *("compare", "compare", *task["test"], *models, *short),
        *["-n", "20", "-p", "exact", "-p", "confident", "--no-baselines", "--batch", "4", "--json"],
        *("-o", str(folder / "compare")),
    )
    session.run(
        *("calibrate", "calibrate", *task["train"], *models, *short),
        *["-n", "20", "--thresholds", "2", "--json"],
        *("--folder", str(folder / "calibration"), "-o", str(folder / "specguard.json")),
    )
    answered(session, "calibrated", *models, "-p", str(folder / "specguard.json"), PROBLEM)
    session.run(
        *("train", "train", *task["train"], *models, *short),
        *["-n", "20", "--validation", "10", "--validation-split", "train"],
        *["--sweeps", "1", "--method", "none", "--json"],
        *("--folder", str(folder / "training"), "-o", str(folder / "policy")),
    )
    cospec = ("-p", "cospec", "--param", f"arbiter={folder / 'policy'}")
    answered(session, "cospec", *models, *cospec, PROBLEM)
    rows = {row["label"]: row for row in compare["policies"]}
    return {
        "doctor_differing_texts": float(len(doctor["differing_texts"])),
        "exact_tokens_per_pass": round(exact["counters"]["tokens_per_pass"], 2),
        "same_text": float(exact["text"] == plain["text"]),
        "compare_target_accuracy": rows["target"]["accuracy"]["value"],
        "compare_exact_accuracy": rows["exact"]["accuracy"]["value"],
        "compare_confident_accuracy": rows["confident"]["accuracy"]["value"],
        "compare_exact_speedup": round(rows["exact"]["speed"]["latency_speedup"]["value"], 3),
        "compare_confident_speedup": round(
            rows["confident"]["speed"]["latency_speedup"]["value"], 3
        ),
        "seconds": round(sum(step["seconds"] for step in session.steps), 1),
    }


if __name__ == "__main__":
    main()
