"""Clients of other people's, unmodified, against the server: what each of them came to.

    python benchmarks/clients.py

They are installed into an environment of their own (`.cache/clients`, some minutes, 2 GB). Problems
are the bundled generator's, the pair is the bundled one. Each client's figure is held against what
the pair itself does on the same problems, where the two should be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from _record import write
from _serve_process import server

from stet import load_pair
from stet.bundled import TARGET, generate, parse_answer

HOME = Path(".cache/clients")
PACKAGES = ("torch==2.13.0", "lm_eval[api]", "inspect_ai", "guidellm", "schemathesis", "openai")
MODEL = "served"
PROBLEMS = 24

GENERATION = """task: stet_stories
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Problem: {{{{question}}}}\\nSolution:\\n"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<|end|>"], max_gen_toks: 100, temperature: 0}}
filter_list:
  - name: number
    filter: [{{function: regex, regex_pattern: "Answer: (-?[0-9]+)"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHATTING = GENERATION.replace("stet_stories", "stet_chats").replace(
    '"Problem: {{{{question}}}}\\nSolution:\\n"', '"{{{{question}}}}"'
)
CHOICE = """task: stet_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Problem: {{{{question}}}}\\nSolution:\\nAnswer:"
doc_to_choice: ["{{{{answer}}}}", "{{{{wrong}}}}"]
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
INSPECT = """from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def stories():
    samples = json_dataset({file!r}, lambda r: Sample(input=r["question"], target=r["answer"]))
    return Task(dataset=samples, solver=generate(), scorer=match())
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    install()
    work = (HOME / "work").resolve()
    work.mkdir(exist_ok=True)
    problems = generate("stories", "test", PROBLEMS)
    file = work / "problems.jsonl"
    lines = [
        {"question": p.text, "answer": str(p.answer), "wrong": str(p.answer + 1)} for p in problems
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (work / "generation.yaml").write_text(GENERATION.format(file=file))
    (work / "chats.yaml").write_text(CHATTING.format(file=file))
    (work / "choice.yaml").write_text(CHOICE.format(file=file))
    (work / "task.py").write_text(INSPECT.format(file=str(file)))
    with load_pair() as pair:
        prompts = [f"Problem: {p.text}\nSolution:\n" for p in problems]
        texts = [r.text for r in pair.generate(prompts, max_new_tokens=100)]
    own = sum(parse_answer(t) == p.answer for t, p in zip(texts, problems, strict=True)) / PROBLEMS
    rows: list[dict[str, Any]] = [{"client": "the pair itself", "accuracy": round(own, 4)}]
    with server(["--served-model-name", MODEL, "--allow", "all"]) as running:
        rows += harness(running.url, work)
        rows.append(inspect(running.url, work))
        rows.append(guide(running.url, work))
        rows.append(schema(running.url, work))
    for row in rows:
        print(json.dumps(row))
    figures = {"clients": float(len(rows) - 1), "pair_accuracy": round(own, 4)}
    print(write("clients", rows, figures, packages=installed()))


def install() -> None:
    """Make the clients' environment, once."""
    if not (HOME / "bin" / "guidellm").exists():
        HOME.parent.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        for package in PACKAGES:
            subprocess.run([HOME / "bin/pip", "install", "-q", package], check=True)


def installed() -> dict[str, str]:
    done = subprocess.run(
        [HOME / "bin/pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    names = {re.split(r"[=\[]", package)[0] for package in PACKAGES}
    return {p["name"]: p["version"] for p in json.loads(done.stdout) if p["name"] in names}


def run(command: list[str], work: Path, **variables: str) -> str:
    """Run a client, and return all that it says."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    program = (HOME / "bin" / command[0]).resolve()
    done = subprocess.run(
        [program, *command[1:]],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, **offline, **variables},
    )
    return done.stdout + done.stderr


def harness(url: str, work: Path) -> list[dict[str, Any]]:
    """lm-evaluation-harness: texts and likelihoods over completions, texts over chats."""
    shared = ["--include_path", str(work), "--output_path", str(work / "lm_eval")]
    said = run(
        [
            *("lm_eval", "--model", "local-completions", "--tasks", "stet_stories,stet_choice"),
            "--model_args",
            f"model={MODEL},base_url={url}/v1/completions,num_concurrent=4,tokenizer={TARGET},"
            "max_length=1024",
            *shared,
        ],
        work,
    )
    chats = run(
        [
            *("lm_eval", "--model", "local-chat-completions", "--tasks", "stet_chats"),
            "--model_args",
            f"model=stet/exact,base_url={url}/v1/chat/completions,num_concurrent=4",
            "--apply_chat_template",
            *shared,
        ],
        work,
    )
    return [
        {
            "client": "lm-evaluation-harness, local-completions",
            "accuracy": table(said, "stet_stories"),
            "choice_accuracy": table(said, "stet_choice"),
        },
        {
            "client": "lm-evaluation-harness, local-chat-completions",
            "accuracy": table(chats, "stet_chats"),
        },
    ]


def table(said: str, task: str) -> float | None:
    """The value in the harness's table of results."""
    found = re.search(rf"\|\s*{task}\s*\|.*?\|[↑↓]\s*\|\s*([0-9.]+)", said)
    return float(found[1]) if found else None


def inspect(url: str, work: Path) -> dict[str, Any]:
    """inspect_ai, over its provider for compatible servers."""
    said = run(
        [
            *("inspect", "eval", "task.py", "--model", f"openai-api/stet/{MODEL}"),
            *("--temperature", "0", "--max-tokens", "100", "--display", "plain"),
        ],
        work,
        STET_API_KEY="none",
        STET_BASE_URL=f"{url}/v1",
    )
    found = re.search(r"accuracy\s+([0-9.]+)", said)
    return {"client": "inspect_ai", "accuracy": float(found[1]) if found else None}


def guide(url: str, work: Path) -> dict[str, Any]:
    """guidellm, four streams at a time."""
    report = work / "guidellm.json"
    run(
        [
            *("guidellm", "run", "--backend", f"kind=openai_http,target={url}"),
            *("--profile", "kind=concurrent,streams=4"),
            *("--constraint", "kind=max_requests,count=40"),
            *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=32"),
            *("--tokenizer", f"kind=hf_auto,model={TARGET}"),
            *("--disable-console-interactive", "--output", f"kind=json,path={report}"),
        ],
        work,
    )
    text = report.read_text() if report.exists() else ""
    counts = {
        kind: int(found[1]) if (found := re.search(rf'"{kind}_requests": (\d+)', text)) else None
        for kind in ("successful", "errored")
    }
    return {"client": "guidellm", **counts}


def schema(url: str, work: Path) -> dict[str, Any]:
    """schemathesis, against the server's own schema: nothing may answer with a 5xx."""
    said = run(
        [
            *("schemathesis", "run", f"{url}/openapi.json", "--max-examples", "50"),
            *("--phases", "examples,fuzzing,coverage", "--checks", "not_a_server_error"),
        ],
        work,
    )
    cases = re.search(r"(\d+) generated", said)
    return {
        "client": "schemathesis",
        "requests": int(cases[1]) if cases else None,
        "server_errors": len(re.findall(r"- ST101 Server error", said)),
    }


if __name__ == "__main__":
    main()
