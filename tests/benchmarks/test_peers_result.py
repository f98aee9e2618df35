"""From the records of a whole run, made up, to the result, and the tables and plots of the page."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SPEEDS = {"stet 4-bit exact": 30.0, "stet 4-bit target": 20.0, "llama.cpp target": 16.0}
WORSE = "llama.cpp draft max=4 confidence=0.6"


@pytest.fixture(scope="module")
def scripts():
    folders = [str(ROOT / "benchmarks"), str(ROOT / "docs")]
    sys.path[:0] = folders
    try:
        names = ["checkpoint", "figures", "groups", "prompts", "session", "turns"]
        found = {name: importlib.import_module(f"_peers_{name}") for name in names}
        found |= {name: importlib.import_module(name) for name in ("peer_tables", "peer_plots")}
        yield SimpleNamespace(**found)
    finally:
        for folder in folders:
            sys.path.remove(folder)


@pytest.fixture
def groups(scripts, monkeypatch, tmp_path):
    """The groups of a run, over prompts that are made up."""

    def some(name, kinds=("",)):
        turns = scripts.turns
        return lambda *_: [turns.Prompt(f"{name}{k}-{n}", (n,), k) for n in range(3) for k in kinds]

    tokens = SimpleNamespace(convert_tokens_to_ids=lambda text: len(text))
    monkeypatch.setattr(scripts.prompts, "tokenizer_of", lambda folder: tokens)
    monkeypatch.setattr(scripts.prompts, "gsm8k", some("gsm8k"))
    monkeypatch.setattr(scripts.prompts, "bundled", some("stories"))
    monkeypatch.setattr(scripts.prompts, "spec_bench", some("spec", ["qa", "rag"]))
    folder = Path("models")
    places = scripts.groups.Places(folder / "a", folder / "b", tmp_path, folder, folder / "q")
    return scripts.groups.Groups(places, scripts.groups.QUICK)


@pytest.fixture
def records(scripts, groups, tmp_path):
    """Every contender's answers, and every measurement."""
    kept = scripts.checkpoint.Checkpoint(tmp_path / "r.jsonl", {})

    def answered(stage, contender, prompts):
        for number, prompt in enumerate(prompts):
            speed = SPEEDS.get(contender.name, 8.0) * (1 + 0.1 * number)
            record = {"stage": stage, "contender": contender.name, "prompt": prompt.name}
            record |= {"tokens": [1, 2, 3], "seconds": 3 / speed, "elsewhere": 0.01}
            record |= {"drafted": 4, "accepted": 3} if "exact" in contender.name else {}
            record |= {"group": prompt.group} if prompt.group else {}
            kept.add(record)

    for group in groups.all():
        for contender in group.contenders:
            if contender.name == WORSE and group.chosen is None:
                told = {"stage": f"{group.name}: choice", "contender": WORSE, "prompt": "p"}
                kept.add(told | {"error": "no | memory"})
            elif contender.family:
                answered(f"{group.name}: choice", contender, group.others)
        for contender in scripts.session.chosen(group, kept):
            answered(group.name, contender, group.prompts)
    for requests in scripts.session.measurements(groups, kept).values():
        for name, request in requests.items():
            kept.add({"measured": name, **measured(request)})
    kept.add({"worker": "vllm-target", "failed": True, "error": "a\nlong story"})
    kept.add({"spent": "4-bit", "took": 12.5})
    kept.add({"spent": "4-bit", "took": 7.5})
    return kept


def measured(request):
    if request["measure"] == "passes":
        return {
            role: {str(w): (0.01 if role == "draft" else 0.03) + 0.001 * w for w in widths}
            for role, widths in request["widths"].items()
        }
    if request["measure"] == "matches":
        seconds = {"target": 0.2, "draft": 0.1}
        return {"matches": [1, 0, 1], "prompt_seconds": seconds}
    return {
        "seconds": 0.1,
        "rounds": 9,
        "all_seconds": 1.0,
        "target_seconds": 0.4,
        "draft_seconds": 0.5,
        "blocks": 10,
        "drafted": 40,
        "accepted": 20,
    }


@pytest.fixture
def reference(scripts, groups, tmp_path):
    kept = scripts.checkpoint.Checkpoint(tmp_path / "t.jsonl", {})
    for number, prompt in enumerate(groups.test):
        about = {"stage": "reference", "contender": "float32", "prompt": prompt.name}
        kept.add(about | {"tokens": [1, 2, 3 if number else 9], "seconds": 1.0})
    return kept


def test_all_figures_of_a_whole_run_are_there(scripts, groups, records):
    found = scripts.figures.figures(groups, records)
    assert set(scripts.figures.RATIOS) <= set(found)
    assert found["target_vs_llamacpp_q4"] == pytest.approx(20 / 16)
    assert found["default_vs_best_peer"] == pytest.approx(30 / 16)
    assert {"round_overhead_b1_real", "round_overhead_b8_real", "round_overhead_b32_bundled"} <= (
        set(found)
    )
    # Passes of 11 to 16 ms of the draft, and 35 ms of the target, make a round of K = 4.
    assert found["round_overhead_b1_real"] == pytest.approx(
        0.1 / (0.012 + 3 * 0.011 + 0.035), abs=1e-3
    )
    # Three tokens of which the middle one is the target's own: a block of 1 is two rounds at best.
    bound = scripts.figures.bound(groups, records)
    round_ = {k: 0.012 + 0.011 * (k - 1) + 0.031 + 0.001 * k for k in (1, 2)}
    best = min(0.2 + 3 * 0.031, *(0.3 + 2 * seconds for seconds in round_.values()))
    assert bound["tokens_per_second"] == pytest.approx(3 / best, abs=0.01)
    assert bound["length"] == (0 if best == 0.2 + 3 * 0.031 else 1)


def test_the_page_and_its_pictures_are_made_of_the_result(
    scripts, groups, records, reference, monkeypatch, tmp_path
):
    found = scripts.figures.rows(groups, records, reference)
    assert found["took_seconds"] == {"4-bit": 20.0}
    assert found["best_peer"] == "llama.cpp target"
    found["rows"] = found.pop("speeds")
    found = json.loads(json.dumps(found))  # as the file holds it
    (best,) = [
        r for r in found["rows"] if (r["group"], r["contender"]) == ("4-bit", "stet 4-bit exact")
    ]
    assert (best["same_text"], best["compared_texts"], best["parts_after"]) == (2, 3, [2])
    assert best["acceptance_rate"] == 0.75
    tables = {name: make(found) for name, make in scripts.peer_tables.PEER_TABLES.items()}
    for name, table in tables.items():
        lines = table.splitlines()
        if name == "peers_failures":
            assert "- vllm-target: `a long story`" in lines
            assert any(WORSE in line for line in lines)
            continue
        cells = {line.count("|") for line in lines if line.startswith("|")}
        assert len(cells) == 1, name
        assert "not measured" not in table
    assert (
        tables["peers_speeds"].splitlines()[2].startswith("| stet 4-bit exact | 4-bit GGUF | 33.0")
    )
    assert "| qa |" in tables["peers_tasks"]
    for picture in (scripts.peer_plots.speeds(found), scripts.peer_plots.speedup(found)):
        assert "<svg" in picture.svg()
        assert len(picture.svg()) < 60_000


def test_a_run_of_which_most_is_missing_says_so(scripts, groups, tmp_path):
    kept = scripts.checkpoint.Checkpoint(tmp_path / "r.jsonl", {})
    found = scripts.figures.rows(groups, kept, kept)
    found["rows"] = found.pop("speeds")
    assert scripts.figures.figures(groups, kept) == {}
    assert "not measured" in scripts.peer_tables.ratios(found)
    assert scripts.peer_tables.lengths(found) == "Not measured yet.\n"


def test_figures_that_other_scripts_measure_are_taken_over(scripts, tmp_path):
    (tmp_path / "peers.json").write_text('{"figures": {"exact": 2.0}, "rows": []}')
    for upper, missed in ((1.04, set()), (1.06, {"auto_time_vs_best_upper"})):
        other = {"figures": {"auto_time_vs_best_upper": upper, "x": 3}}
        (tmp_path / "auto.json").write_text(json.dumps(other))
        found = scripts.figures.gather(tmp_path)
        assert found == {"exact": 2.0, "auto_time_vs_best_upper": upper}
        kept = json.loads((tmp_path / "peers.json").read_text())
        assert (kept["figures"], kept["rows"], set(kept["missed"])) == (found, [], missed)
