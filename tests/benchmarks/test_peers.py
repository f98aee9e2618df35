"""The harness that compares Stet with its peers, with peers that are made up."""

import importlib
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The modules of the benchmark, which are no package."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        names = ["bound", "checkpoint", "contenders", "figures", "groups", "prompts"]
        names += ["session", "stats", "turns", "workers"]
        yield SimpleNamespace(**{n: importlib.import_module(f"_peers_{n}") for n in names})
    finally:
        sys.path.remove(str(SCRIPTS))


class Scripted:
    """A worker that notes who asked, and fails where it is told to."""

    def __init__(self, failing=()):
        self.about = {"version": "0"}
        self.asked = []
        self.failing = failing

    def ask(self, request, seconds=None):
        self.asked.append((request["setting"]["name"], tuple(request["prompt"])))
        if request["setting"]["name"] in self.failing:
            from _peers_workers import PeerError

            raise PeerError("it does not work")
        return {"tokens": [1, 2, 3], "seconds": 0.5}


def scene(scripts, names="ABC", prompts=4):
    contenders = [scripts.turns.Contender(n, "worker", {"name": n}) for n in names]
    return contenders, [scripts.turns.Prompt(f"p{i}", (i,)) for i in range(prompts)]


# Ratios


def test_prompts_that_are_slow_for_everybody_do_not_widen_the_interval(scripts):
    slow = [1.0, 5.0, 20.0, 3.0, 11.0, 7.0]
    found = scripts.stats.ratio([2 * s for s in slow], slow)
    assert (found.value, found.low, found.high, found.q1, found.q3) == pytest.approx([2.0] * 5)
    assert found.prompts == 6


def test_a_ratio_is_of_medians_and_its_interval_covers_the_truth(scripts):
    assert scripts.stats.ratio([1, 10, 100], [1, 5, 400]).value == pytest.approx(2.0)
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        base = generator.lognormal(size=40)
        fast = 1.5 * base * generator.lognormal(0, 0.2, 40)
        slow = base * generator.lognormal(0, 0.2, 40)
        found = scripts.stats.ratio(fast.tolist(), slow.tolist())
        assert found.low <= found.value <= found.high
        covered += found.low <= 1.5 <= found.high
    assert covered >= 50


@pytest.mark.parametrize("sides", [([1.0], [1.0, 2.0]), ([], [])])
def test_what_makes_no_pairs_has_no_ratio(scripts, sides):
    with pytest.raises(ValueError, match="no pairs"):
        scripts.stats.ratio(*sides)


# Turns and records


def test_contenders_take_turns_and_each_begins_equally_often(scripts, tmp_path):
    contenders, prompts = scene(scripts)
    worker, kept = Scripted(), scripts.checkpoint.Checkpoint(tmp_path / "r.jsonl", {})
    scripts.turns.take_turns(contenders, {"worker": worker}, prompts, kept, stage="s", limit=3)
    order = "".join(name for name, _ in worker.asked)
    assert order == "ABCBCACABABC"
    assert [p for _, p in worker.asked] == [(n,) for n in range(4) for _ in range(3)]
    assert len(kept.records) == 12


def test_a_run_goes_on_where_it_was_cut(scripts, tmp_path):
    contenders, prompts = scene(scripts)
    path = tmp_path / "r.jsonl"
    turns = {"stage": "s", "limit": 3}
    slices = iter([False, False, True])
    kept = scripts.checkpoint.Checkpoint(path, {"size": 4})
    with pytest.raises(scripts.turns.OutOfTime):
        scripts.turns.take_turns(
            contenders,
            {"worker": Scripted()},
            prompts,
            kept,
            **turns,
            out_of_time=lambda: next(slices),
        )
    assert len(kept.records) == 6  # whole prompts only
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])  # an interrupted write
    again = scripts.checkpoint.Checkpoint(path, {"size": 4})
    worker = Scripted()
    scripts.turns.take_turns(contenders, {"worker": worker}, prompts, again, **turns)
    assert len(worker.asked) == 7
    whole = scripts.checkpoint.Checkpoint(path, {"size": 4})
    answered = sorted((r["contender"], r["prompt"]) for r in whole.records)
    assert answered == sorted(itertools.product("ABC", [p.name for p in prompts]))
    idle = Scripted()
    scripts.turns.take_turns(contenders, {"worker": idle}, prompts, whole, **turns)
    assert idle.asked == []


def test_records_of_another_plan_are_not_gone_on_with(scripts, tmp_path):
    scripts.checkpoint.Checkpoint(tmp_path / "r.jsonl", {"size": 4})
    with pytest.raises(SystemExit, match="another plan"):
        scripts.checkpoint.Checkpoint(tmp_path / "r.jsonl", {"size": 5})


def test_a_contender_that_fails_is_named_and_left_out(scripts, tmp_path):
    contenders, prompts = scene(scripts)
    worker, kept = Scripted(failing="B"), scripts.checkpoint.Checkpoint(tmp_path / "r.jsonl", {})
    scripts.turns.take_turns(contenders, {"worker": worker}, prompts, kept, stage="s", limit=3)
    assert [name for name, _ in worker.asked].count("B") == 1
    (failed,) = [r for r in kept.records if "error" in r]
    assert (failed["contender"], failed["error"]) == ("B", "it does not work")
    assert len(kept.records) == 9


def test_a_disturbed_answer_is_written_again_and_the_quietest_counts(scripts, monkeypatch):
    (contender, *_), (prompt, *_) = scene(scripts)
    shares = iter([(0.9, True), (0.3, True), (0.5, True)])
    monkeypatch.setattr(scripts.turns.Elsewhere, "stop", lambda self: next(shares))
    worker = Scripted()
    assert scripts.turns.answer(worker, contender, prompt, 3)["elsewhere"] == 0.3
    assert len(worker.asked) == 3
    shares = iter([(0.02, False)])
    assert scripts.turns.answer(worker, contender, prompt, 3)["elsewhere"] == 0.02
    assert len(worker.asked) == 4


def test_of_a_family_the_fastest_takes_part_unless_it_fails(scripts):
    records = [
        {"contender": "K=2", "tokens": [0] * 10, "seconds": 1.0},
        {"contender": "K=4", "tokens": [0] * 10, "seconds": 0.5},
        {"contender": "K=4", "tokens": [0] * 10, "seconds": 0.6},
        {"contender": "K=8", "tokens": [0] * 10, "seconds": 0.1},
        {"contender": "K=8", "error": "out of memory"},
        {"contender": "alone", "tokens": [0] * 10, "seconds": 0.1},
    ]
    families = {"K=2": "draft", "K=4": "draft", "K=8": "draft"}
    assert scripts.turns.fastest(records, families) == {"draft": "K=4"}


# The bound


@pytest.mark.parametrize("length", [0, 1, 2, 3, 8])
def test_rounds_are_those_of_an_engine_that_drafts_blocks_of_one_length(scripts, length):
    generator = np.random.default_rng(length)
    for _ in range(20):
        matches = (generator.random(40) < 0.7).astype(int).tolist()
        rounds, place = 0, 0
        while place < 40:
            rounds += 1
            for _ in range(length):
                if place >= 40 or not matches[place]:
                    break
                place += 1
            place += 1  # the target's own token
        assert scripts.bound.rounds_of(matches, length) == rounds


def test_the_best_length_weighs_passes_against_agreement(scripts):
    cheap = scripts.bound.Passes({1: 1.0, 17: 1.0}, {1: 0.01, 2: 0.01})
    dear = scripts.bound.Passes({1: 1.0, 17: 17.0}, {1: 0.5, 2: 0.5})
    always = {"matches": [1] * 50, "prompt_seconds": {"target": 0.0, "draft": 0.0}}
    assert scripts.bound.best_length([always], cheap) == 16
    assert scripts.bound.best_length([always], dear) == 0
    assert cheap.round(4) == pytest.approx(1.04)
    assert scripts.bound.expected_speedup(1.0, 4, cheap) == pytest.approx(5 / 1.04)
    assert scripts.bound.expected_speedup(0.0, 4, cheap) == pytest.approx(1 / 1.04)


# Figures and prompts


@dataclass
class Small:
    """Groups of a run that need no models."""

    found: list

    def all(self):
        return self.found


def test_the_best_peer_is_the_one_with_the_smallest_gap_whatever_its_group(scripts, tmp_path):
    turns, groups = scripts.turns, scripts.groups
    prompts = [turns.Prompt(f"p{i}", (i,)) for i in range(3)]

    def group(name, *names):
        own = [turns.Contender(n, "w", {}) for n in ("stet 4-bit exact", *names)]
        return groups.Group(name, "", (), own, prompts, (), 9)

    run = Small([group("4-bit", "stet 4-bit target", "llama.cpp target"), group("vllm", "vLLM")])
    kept = scripts.checkpoint.Checkpoint(tmp_path / "r.jsonl", {})
    speeds = {
        ("4-bit", "stet 4-bit exact"): 30,
        ("4-bit", "stet 4-bit target"): 29,
        ("4-bit", "llama.cpp target"): 20,
        ("vllm", "stet 4-bit exact"): 32,
        ("vllm", "vLLM"): 8,
    }
    for (name, contender), speed in speeds.items():
        for prompt in prompts:
            answer = {"tokens": [1] * 30, "seconds": 30 / speed, "elsewhere": 0.0}
            about = {"stage": name, "contender": contender, "prompt": prompt.name}
            kept.add(about | answer)
    best, value = scripts.figures.best_peer(run, kept)
    assert best == "llama.cpp target"
    assert value.value == pytest.approx(1.5)


def test_an_end_token_or_a_higher_limit_makes_no_other_text(scripts):
    texts = {n: {"tokens": [1, 2, 3, 4, 5]} for n in "abcd"}
    given = {
        "a": {"tokens": [1, 2, 3]},  # cut by its limit
        "b": {"tokens": [1, 9, 3]},
        "c": {"tokens": [1, 2, 0]},  # ended where the reference goes on
        "d": {"tokens": [1, 2, 3]},
    }
    found = scripts.figures._agreement(given, texts, 3, [0])
    assert (found["same_text"], found["compared_texts"]) == (2, 4)
    assert found["parts_after"] == [1, 2]
    ended = scripts.figures._agreement({"a": {"tokens": [7, 0]}}, {"a": {"tokens": [7]}}, 3, [0])
    assert ended["same_text"] == 1


def test_spec_bench_gives_each_group_its_share(scripts, tmp_path):
    path = tmp_path / "question.jsonl"
    names = ["writing"] * 10 + ["math"] * 10 + ["translation"] * 5 + ["rag"] * 5
    names += ["summarization"] * 5 + ["qa"] * 5 + ["math_reasoning"] * 5
    lines = [
        {"question_id": n, "category": c, "turns": ["x" * (9000 if n == 20 else 9)]}
        for n, c in enumerate(names)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    tokenizer = SimpleNamespace(
        apply_chat_template=lambda messages, **more: list(range(len(messages[0]["content"])))
    )
    found = scripts.prompts.spec_bench(path, tokenizer, 2)
    by_group = {}
    for prompt in found:
        by_group.setdefault(prompt.group, []).append(int(prompt.name.removeprefix("spec-")))
    assert set(by_group) == set(scripts.prompts.SPEC_BENCH_GROUPS)
    assert all(len(chosen) == 2 for chosen in by_group.values())
    assert by_group["multi-turn"] == [0, 10]  # of two categories
    assert by_group["translation"] == [21, 22]  # the long one is left out
    assert len({p.group for p in found[:6]}) == 6  # in turns
