"""The server under load: speed, memory, what it costs around the engine, and that nothing is lost.

    python benchmarks/serve.py                      # both pairs, the real one where it is there
    python benchmarks/serve.py reuse --pairs real   # one of them, one part: load, memory, reuse

Everything goes over the loopback, and the clients share the machine's cores with the server: its
speed alone would be higher. Greedy texts are compared among all answers to a request, whatever was
decoded beside it. Memory is looked at with small caches (`--cache-memory`), which are soon full of
texts: larger ones are filled by and by, up to their plan.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx2
from _record import RESULTS, write
from _serve_load import asks, attack, hostile, load
from _serve_process import Running, server

from stet.bundled import generate

POLICIES = ("exact", "target", "block", "specguard", "cospec", "top-k", "ensemble", "cascade")
REAL = (".cache/models/coder-1.5b.gguf", ".cache/models/coder-0.5b.gguf")
MODEL = "served"
PARTS = ("load", "memory", "reuse")
CACHES = "512MB"
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64)


def problems(count: int) -> list[str]:
    return [problem.text for problem in generate("stories", "test", count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=tuple(PAIRS), default=tuple(PAIRS))
    parser.add_argument("--each", type=int, default=320, help="requests for each concurrency")
    parser.add_argument("--requests", type=int, default=10_000, help="of the test of memory")
    parser.add_argument("--hostile", type=int, default=2000)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    if unknown := set(options.parts) - {*PARTS}:
        parser.error(f"there is no part {min(unknown)!r}; choose from {', '.join(PARTS)}")
    options.parts = options.parts or PARTS
    before = json.loads((RESULTS / "serve.json").read_text()) if _known() else {"figures": {}}
    figures = dict(before["figures"])
    rows = before.get("rows", [])
    for pair in options.pairs:
        if pair == "real" and not all(Path(model).exists() for model in REAL):
            print(f"Without the real pair: there is no {' or '.join(REAL)}.")
            continue
        found = PAIRS[pair](options, figures)
        parts = {row.get("part", "load") for row in found}
        rows = [r for r in rows if r["pair"] != pair or r.get("part", "load") not in parts] + found
        # Of the whole: a part that is measured alone replaces its own figures.
        print(write("serve", rows, figures, command="python benchmarks/serve.py"))


def _known() -> bool:
    return (RESULTS / "serve.json").exists()


def bundled(options: argparse.Namespace, figures: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    base = ["--served-model-name", MODEL, "--allow", "all", "--max-queue", "512"]
    if "load" in options.parts:
        with server(base) as running:
            figures["ready_seconds"] = round(running.ready_seconds, 2)
            rows = loaded(running, options, figures)
    if "memory" in options.parts:
        with server([*base, "--cache-memory", CACHES]) as running:
            rows += memory(running, options.requests, figures)
    if "reuse" in options.parts:
        figures["prefix_hit_speedup_bundled"] = reuse(base, 600)
    return rows


def loaded(
    running: Running, options: argparse.Namespace, figures: dict[str, Any]
) -> list[dict[str, Any]]:
    """Clients of all numbers, and hostile bodies."""
    rows: list[dict[str, Any]] = []
    texts = problems(60)
    changed: dict[str, set[str]] = {}
    load(running.url, asks(MODEL, texts, POLICIES, 64, tokens=100), 4)  # costs are known
    for clients in CONCURRENCY:
        engine, around = running.cpu()
        wanted = asks(MODEL, texts, POLICIES, options.each, tokens=100)
        seen = load(running.url, wanted, clients)
        after = running.cpu()
        row = {"pair": "bundled", "clients": clients, **seen.row()}
        row["cpu_around_engine"] = round((after[1] - around) / (after[0] - engine), 4)
        print(json.dumps(row), flush=True)
        rows.append(row)
        for key, some in seen.texts.items():
            changed.setdefault(key, set()).update(some)
    figures["ttft_p99_ms"] = rows[0]["ttft_ms"]["p99"]
    figures["overhead_outside_engine_bundled"] = rows[0]["cpu_around_engine"]
    statuses = attack(running.url, hostile(MODEL, options.hostile))
    figures["hostile_bodies"] = sum(statuses.values())
    figures["hostile_5xx"] = sum(n for s, n in statuses.items() if s >= 500 or s == 0)
    figures["lost_under_load"] = sum(row["lost"] for row in rows)
    figures["outputs_changed_under_load"] = sum(len(some) - 1 for some in changed.values())
    return rows


def memory(running: Running, count: int, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Memory over many requests, after each tenth of them.

    Growth is over the last half: in the first one caches fill, and passes are compiled behind the
    work, which takes memory once.
    """
    wanted = asks(MODEL, problems(60), POLICIES, count, tokens=60)
    texts: dict[str, set[str]] = {}
    lost, sizes = 0, []
    for first in range(0, count, count // 10):
        seen = load(running.url, wanted[first : first + count // 10], 16)
        lost += seen.lost
        running.settle()
        sizes.append(round(running.metric("stet:resident_bytes") / 2**20, 1))
        print(json.dumps({"requests": first + count // 10, "resident_mib": sizes[-1]}), flush=True)
        for key, some in seen.texts.items():
            texts.setdefault(key, set()).update(some)
    figures["requests"] = count
    figures["lost"] = lost
    figures["other_outputs_changed"] = sum(len(some) - 1 for some in texts.values())
    figures["memory_growth_mib"] = round(sizes[-1] - sizes[4], 1)
    figures["leaked_rows"] = running.metric("stet:cache_rows")
    return [{"pair": "bundled", "part": "memory", "resident_mib": sizes}]


def reuse(base: list[str], words: int) -> float:
    """How much sooner a chat's next turn begins where its texts are kept."""
    first: dict[bool, float] = {}
    for kept in (True, False):
        option = "--prefix-caching" if kept else "--no-prefix-caching"
        with server([*base, option]) as running:
            times = [_second_turn(running, number, words) for number in range(7)]
            first[kept] = statistics.median(times[1:])
    return round(first[False] / first[True], 2)


def _second_turn(running: Running, number: int, words: int) -> float:
    """Seconds to the first token of a question behind a long text that was asked about before."""
    long = f"{number} boxes. " + "Ann has 3 boxes. " * (words // 6)
    chat: list[dict[str, str]] = [{"role": "user", "content": f"{long} How many?"}]
    ask: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    url = f"{running.url}/v1/chat/completions"
    said = httpx2.post(url, json={**ask, "messages": chat}, timeout=600).json()
    answer = said["choices"][0]["message"]["content"]
    chat += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Why?"}]
    began = time.monotonic()
    body = {**ask, "messages": chat, "stream": True}
    with httpx2.stream("POST", url, json=body, timeout=600) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                break
        return time.monotonic() - began


def real(options: argparse.Namespace, figures: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    base = [
        *("--target", REAL[0], "--draft", REAL[1], "--served-model-name", MODEL),
        *("--allow", "all", "--max-length", "2048", "--max-batch", "8"),
    ]
    if "load" in options.parts:
        with server(base) as running:
            figures["ready_seconds_real"] = round(running.ready_seconds, 2)
            rows = loaded_real(running)
        figures["overhead_outside_engine"] = max(row["cpu_around_engine"] for row in rows)
    if "reuse" in options.parts:
        figures["prefix_hit_speedup"] = reuse(base, 900)
    return rows


def loaded_real(running: Running) -> list[dict[str, Any]]:
    """One client, and eight."""
    rows: list[dict[str, Any]] = []
    texts = problems(12)
    load(running.url, asks(MODEL, texts, ("exact",), 4, tokens=32), 1)
    for clients in (1, 8):
        engine, around = running.cpu()
        seen = load(running.url, asks(MODEL, texts, ("exact",), 24, tokens=120), clients)
        after = running.cpu()
        row = {"pair": "real", "clients": clients, **seen.row()}
        row["cpu_around_engine"] = round((after[1] - around) / (after[0] - engine), 4)
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


PAIRS = {"bundled": bundled, "real": real}


if __name__ == "__main__":
    main()
