"""Runs on a Ray cluster: what they cost beside one process, and where their driver gives out.

    python benchmarks/ray_scale.py [--parts overhead kill simulation]

*overhead*: the same comparison by one actor and by this process, in turns. *kill*: a worker is
killed in the middle of a run, whose records are then held against those of one process.
*simulation*: 64 workers that only wait, a hundredth of what a pair would work, answer 100,000
questions; the driver is the real one, and writes real records.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from _ray_fake import MARK, Simulated, Template, Waiting
from _record import add
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import stet
from stet.core.folders import PROFILE
from stet.evaluation import records
from stet.evaluation.contenders import contender
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.tasks import load_task
from stet.executors.base import Executor
from stet.executors.local import LocalExecutor
from stet.executors.ray import RayBackend, Shape, on_ray
from stet.executors.source import PairSource
from stet.pages.drawing import BLUE, GREY, VERMILLION, Picture, laid_out, new_figure, style

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "ray-scale.svg"
PARTS = ("overhead", "kill", "simulation")
FASTER = 100
"""By how much the simulation's times are scaled down."""
SIZES = (1, 2, 4, 8, 16, 32, 64)
NAMES = ("target", "exact", "cospec")


def plan(questions: int, batch: int, names: tuple[str, ...] = NAMES) -> Plan:
    """A comparison on generated problems."""
    task = load_task("stories", count=questions)
    return Plan(
        task=task,
        contenders=[contender(name) for name in names],
        batch=batch,
        options={"max_new_tokens": task.max_new_tokens},
    )


def source(batch: int) -> PairSource:
    return PairSource({"max_batch": batch, "compile": False})


def timed(executor: Executor, planned: Plan, profile: Path | None, folder: Path) -> float:
    """Seconds of a whole run, which begins with the costs of another one."""
    folder.mkdir()
    if profile is not None:
        shutil.copy(profile, folder / PROFILE)
    comparison = Comparison(executor, planned, folder)
    began = time.perf_counter()
    comparison.go()
    return time.perf_counter() - began


def overhead(options: argparse.Namespace, place: Path) -> tuple[list[dict[str, Any]], Any]:
    """The time of a run by one actor over that by this process, in turns."""
    rows = []
    torch.set_num_threads(1)
    for batch in (1, 8):
        planned = plan(options.questions if batch > 1 else options.questions // 2, batch)
        with (
            on_ray(source(batch), workers=1, threads=1) as far,
            stet.load_pair(**source(batch).arguments) as pair,
        ):
            ways: dict[str, Executor] = {"local": LocalExecutor(pair), "ray": far}
            first = place / f"overhead-{batch}"
            timed(ways["local"], planned, None, first)
            timed(ways["ray"], planned, first / PROFILE, place / f"overhead-{batch}-ray")
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(options.alternations):
                for way in sorted(ways, reverse=bool(turn % 2)):
                    folder = place / f"overhead-{batch}-{turn}-{way}"
                    seconds[way].append(timed(ways[way], planned, first / PROFILE, folder))
        ratios = [r / h for r, h in zip(seconds["ray"], seconds["local"], strict=True)]
        rows.append(
            {
                "part": "overhead",
                "batch": batch,
                "questions": len(planned.task.questions),
                "local_seconds": round(statistics.median(seconds["local"]), 3),
                "ray_seconds": round(statistics.median(seconds["ray"]), 3),
                "overhead": round(statistics.median(ratios) - 1, 4),
                "lowest": round(min(ratios) - 1, 4),
                "highest": round(max(ratios) - 1, 4),
            }
        )
        print(rows[-1], flush=True)
    return rows, {"ray_overhead": rows[-1]["overhead"], "ray_overhead_batch_1": rows[0]["overhead"]}


def decided(folder: Path) -> dict[tuple[str, str], Any]:
    """Texts, tokens and decisions of a run's answers."""
    found = {}
    for line in records.read_traces(folder):
        trace = line["trace"]
        tokens = [(t["id"], t["origin"], t["reason"]) for t in trace["tokens"]]
        found[line["policy"], line["question"]] = trace["text"], tokens, trace["blocks"]
    return found


def kill(options: argparse.Namespace, place: Path) -> tuple[list[dict[str, Any]], Any]:
    """Kill a worker of two in the middle of a run, and compare what is left."""
    torch.set_num_threads(1)
    planned = plan(options.questions, 1)
    with stet.load_pair(**source(1).arguments) as pair:
        timed(LocalExecutor(pair), planned, None, place / "kill-local")
    told: list[str] = []
    folder = place / "kill-ray"
    folder.mkdir()
    shutil.copy(place / "kill-local" / PROFILE, folder / PROFILE)
    with on_ray(source(1), workers=2, threads=1, tell=told.append) as executor:
        comparison = Comparison(executor, planned, folder)

        def shoot(_: object) -> None:
            if not told and len(comparison.answers) > comparison.total // 3:
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        if process.cmdline()[0].startswith("ray::RayWorker") and not shot:
                            shot.append(process.pid)
                            process.send_signal(signal.SIGKILL)

        shot: list[int] = []
        comparison.go(shoot)
    here, there = decided(place / "kill-local"), decided(folder)
    same = sum(there.get(key) == value for key, value in here.items())
    row = {"part": "kill", "answers": len(here), "identical": same, "deaths": len(told)}
    print(row, flush=True)
    if len(told) != 1 or len(there) != len(here):
        raise SystemExit("No worker died, or answers are missing.")
    return [row], {"ray_identical_after_kill": round(same / len(here), 4)}


def template(batch: int, place: Path) -> Template:
    """What a pair makes of a chunk of questions, and a hundredth of how long it works on it."""
    torch.set_num_threads(1)
    planned = plan(4 * batch, batch, ("target", "exact"))
    with stet.load_pair(**source(batch).arguments) as pair:
        timed(LocalExecutor(pair), planned, None, place / "template")
    answers = records.read_answers(place / "template")
    lines = (place / "template" / records.TRACES).read_text(encoding="utf-8").splitlines()
    turns: dict[str, Any] = {}
    for label in ("target", "exact"):
        own = [(a, line) for a, line in zip(answers, lines, strict=True) if a.policy == label]
        own = own[-batch:]
        turns[label] = (
            [replace(a, question=MARK) for a, _ in own],
            [line.replace(json.dumps(a.question), json.dumps(MARK), 1) for a, line in own],
        )
    chunks = {(a.policy, a.chunk): a.chunk_seconds for a in answers}
    seconds = 2 * statistics.mean(chunks.values())
    from stet.evaluation.answering import Turn

    return Template({label: Turn(*made) for label, made in turns.items()}, seconds / FASTER)


@contextmanager
def waiting(workers: int, made: Template, pair: stet.Pair) -> Iterator[Simulated]:
    """An executor over workers that only wait."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback alone
    # The actor's class is found by its name, in this folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    import ray

    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=2**29,
    )
    try:

        class Fakes(RayBackend):
            def __init__(self) -> None:
                super().__init__(ray, PairSource(), Shape(workers, 1, 0))
                self._actor = ray.remote(num_cpus=1, max_restarts=0)(Waiting)

            def start(self) -> Any:
                return self._actor.remote(made)

        yield Simulated(Fakes(), workers, LocalExecutor(pair).call)
    finally:
        ray.shutdown()


def simulation(options: argparse.Namespace, place: Path) -> tuple[list[dict[str, Any]], Any]:
    """More and more workers that only wait."""
    made = template(options.batch, place)
    rows = []
    with stet.load_pair(max_batch=1, compile=False) as pair:
        for workers in (n for n in SIZES if n <= options.workers):
            count = options.simulated * workers // options.workers
            planned = plan(count, options.batch, ("target", "exact"))
            folder = place / f"simulation-{workers}"
            with waiting(workers, made, pair) as executor:
                comparison = Comparison(executor, planned, folder)
                # All of them are there before the clock starts.
                list(executor._pool.map("load", [() for _ in range(4 * workers)]))
                before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                results = comparison.go()
                seconds = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_SELF)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            chunks = -(-count // options.batch)
            if any(a.machine is None or a.machine["torch"] for a in results.answers):
                raise SystemExit("A worker that only waits has imported torch.")
            rows.append(
                {
                    "part": "simulation",
                    "workers": workers,
                    "questions": count,
                    "chunks": chunks,
                    "chunk_seconds": round(made.seconds, 5),
                    "seconds": round(seconds, 3),
                    "chunks_per_second": round(chunks / seconds, 2),
                    "busy": round(chunks * made.seconds / seconds / workers, 4),
                    "driver_seconds": round(used, 3),
                    "record_bytes": sum(p.stat().st_size for p in folder.iterdir()),
                    "driver_gib": round(after.ru_maxrss / 2**20, 2),
                }
            )
            print(rows[-1], flush=True)
            shutil.rmtree(folder)
    fastest = max(row["chunks_per_second"] for row in rows)
    # In the time of a pair: how many workers of this one a driver keeps busy.
    fed = fastest * made.seconds * FASTER
    draw(rows, made.seconds)
    figures = {
        "ray_simulated_workers": rows[-1]["workers"],
        "ray_simulated_questions": rows[-1]["questions"],
        "ray_driver_chunks_per_second": fastest,
        "ray_chunk_seconds": round(made.seconds * FASTER, 3),
        "ray_workers_fed": round(fed),
    }
    return rows, figures


def draw(rows: list[dict[str, Any]], seconds: float) -> None:
    """Chunks a second by the number of workers, and what they would be without a driver."""
    with style("ray-scale"):
        figure = new_figure(8.4, 3.6)
        left, right = figure.subplots(1, 2)
        workers = [row["workers"] for row in rows]
        rates = [row["chunks_per_second"] for row in rows]
        ideal = [n / seconds for n in workers]
        left.plot(workers, ideal, color=GREY, linestyle="--", label="if the driver took no time")
        left.plot(workers, rates, color=BLUE, marker="o", markersize=4, label="measured")
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        left.yaxis.set_minor_locator(NullLocator())
        left.set_ylabel("chunks a second")
        left.set_title("Throughput")
        busy = [100 * row["busy"] for row in rows]
        own = [100 * row["driver_seconds"] / row["seconds"] for row in rows]
        right.plot(workers, busy, color=BLUE, marker="o", markersize=4, label="a worker")
        right.plot(workers, own, color=VERMILLION, marker="s", markersize=4, label="the driver")
        right.set_ylim(0, 100)
        right.set_ylabel("share of the time at work, %")
        right.set_title("Who is busy")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(workers, [str(n) for n in workers])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.legend(fontsize=8)
            axes.set_xlabel(f"workers that wait {1000 * seconds:.0f} ms for a chunk")
        told = "; ".join(f"{r['workers']} workers {r['chunks_per_second']} chunks/s" for r in rows)
        picture = Picture("ray-scale", "Where the driver gives out", told, laid_out(figure))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture.svg(), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--alternations", type=int, default=6)
    parser.add_argument("--questions", type=int, default=64, help="of a run with a pair")
    parser.add_argument("--workers", type=int, default=64, help="most that only wait")
    parser.add_argument("--simulated", type=int, default=100_000, help="questions of these")
    parser.add_argument("--batch", type=int, default=8, help="questions of their chunks")
    options = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        print("Skipped: Ray is not installed (pip install 'stet-decoding[ray]').")
        return
    made = {"overhead": overhead, "kill": kill, "simulation": simulation}
    for part in options.parts:
        with tempfile.TemporaryDirectory(prefix="stet-") as folder:
            rows, figures = made[part](options, Path(folder))
        print(add("scale", part, rows, figures), figures)


if __name__ == "__main__":
    main()
