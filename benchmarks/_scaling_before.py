"""This version against a checkout of an earlier one, each in a process of its own, in turns."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from _peers_setup import ROOT, stet
from _peers_workers import Spec, Worker
from _scaling_settings import Rows, Settings

from stet import bundled

WAYS: dict[str, dict[str, Any]] = {
    "target": {"policy": "target"},
    "exact": {"policy": "exact", "draft_length": 4},
    "specguard.paper": {"policy": "specguard.paper"},
}
"""What is asked of both versions."""

TOKENS = {"bundled": 96, "real": 64}


def before(settings: Settings) -> None:
    """Answer one prompt after the other with both versions, which take turns at being first."""
    if settings.before is None:
        print("Skipped: no checkout of an earlier version was named with --before.")
        return
    rows = Rows(settings, "before")
    trees = {"before": settings.before.resolve(), "now": ROOT}
    commits = {name: _commit(path) for name, path in trees.items()}
    problems = [p.prompt for p in bundled.generate("stories", "validation", settings.alternations)]
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, tree in trees.items():
            workers[name] = Worker(_spec(settings, name, tree), settings.root / f"{name}.log")
            stack.callback(workers[name].close)
        warm = set(WAYS)
        for number, prompt in enumerate(problems):
            for way, setting in WAYS.items():
                if rows.has(alternation=number, way=way):
                    continue
                request = {
                    "prompt": prompt,
                    "setting": setting | {"ignore_eos": True, "seed": number},
                    "max_new_tokens": TOKENS[settings.pair],
                }
                if way in warm:
                    warm.remove(way)
                    for worker in workers.values():
                        worker.ask(request)
                order = list(workers) if number % 2 else list(workers)[::-1]
                found = {name: workers[name].ask(request) for name in order}
                rows.add(
                    alternation=number,
                    way=way,
                    equal=found["now"]["tokens"] == found["before"]["tokens"],
                    commits=commits,
                    **{name: found[name]["seconds"] for name in trees},
                )


def _spec(settings: Settings, name: str, tree: Path) -> Spec:
    load: dict[str, Any] = {"threads": settings.thread_count, "max_rows": 18, "max_batch": 1}
    if settings.is_real:
        for role in ("target", "draft"):
            load[role] = str(settings.path(role).resolve())
        load["max_length"] = 1024
    spec = stet(name, load)
    return replace(spec, environment={**spec.environment, "PYTHONPATH": str(tree / "src")})


def _commit(tree: Path) -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True
    )
    return found.stdout.strip()
