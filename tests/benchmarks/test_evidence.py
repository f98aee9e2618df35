"""The evidence on a real pair, from its first part to its result file, with the bundled pair."""

import json
import sys
from pathlib import Path

import pytest

import stet
from stet.evaluation.tasks import load_task

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
SPLITS = {
    "branches": "policy_train",
    "calibration": "calibration",
    "validation": "validation",
    "test": "test",
}
MODULES = ("_real", "_splits", "_record", "_progress", "_shared_texts", "_evidence_parts")


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import _evidence_parts as parts
    import _evidence_report as report
    import _real
    import _record

    def task_of(pair, part, count, folder):
        return load_task("stories", split=SPLITS[part], count=count)

    monkeypatch.setattr(_real, "load", lambda pair, **more: stet.load_pair(compile=False, **more))
    monkeypatch.setattr(_real, "task_of", task_of)
    monkeypatch.setattr(_record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_record, "command", lambda: "python benchmarks/evidence.py")
    monkeypatch.setattr(
        parts,
        "RULES",
        {
            "confident": [{"margin": 0.0}, {"margin": 0.2}],
            "ensemble": [{"weight": 0.5}],
            "speculative-cascade": [{"rule": "chow", "cost": 0.2}],
        },
    )
    yield parts, report
    for name in (*MODULES, "_evidence_report"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_part_leads_to_the_result(scripts, tmp_path):
    parts, report = scripts
    settings = parts.Settings(
        pair="real",
        tuning=0,
        validation=24,
        branches=24,
        branched=3,
        calibration=60,
        test=12,
        oracle=4,
        latency=4,
        batch=12,
        seeds=(0,),
        root=tmp_path,
    )
    settings.folder.mkdir()
    for part in ("tune", "train", "calibrate", "declare", "tokens", "steps", "oracle", "latency"):
        getattr(parts, part)(settings)
    report.report(settings)
    found = json.loads((tmp_path / "results/evidence.json").read_text())
    figures = found["figures"]
    assert figures["real_problems"] == 12
    assert {
        "real_target",
        "real_draft",
        "real_oracle_room_points",
        "real_draft_only_right_share",
        "real_cospec_gain_points",
        "real_cospec_low",
        "real_cospec_high",
        "real_cospec_p",
        "real_cospec_over_best_other_points",
        "real_cospec_time_vs_faster",
        "real_cospec_tokens_per_pass",
        "real_specguard_gain_points",
        "real_specguard_relative_gain",
        "real_specguard_p",
        "real_specguard_time_vs_faster",
        "real_specguard_time_vs_rsd",
        "real_power",
    } <= figures.keys()
    assert figures["real_cospec_low"] <= figures["real_cospec_gain_points"]
    rows = {row["policy"]: row for row in found["rows"]}
    assert rows.keys() >= {"target", "draft", "confident", "cospec", "specguard", "reward-guided"}
    assert rows["cospec"]["all"]["gained"] - rows["cospec"]["all"]["lost"] == round(
        12 * figures["real_cospec_gain_points"] / 100
    )
    declared = found["declared"]["real"]
    assert declared["primary"] == ["cospec", "specguard"]
    assert declared["problems"] == 24
    assert set(declared["rules"]) == {"confident", "ensemble", "speculative-cascade"}
    # Started again, everything is there.
    before = {path: path.read_bytes() for path in (tmp_path / "real").glob("*.jsonl")}
    parts.tokens(settings)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("scripts")
def test_the_parts_of_the_split_share_no_problem(tmp_path, monkeypatch):
    import _real
    import _splits

    lines = {
        name: "".join(
            json.dumps({"question": f"{name} {n}?", "answer": f"a\n#### {n:,}"}) + "\n"
            for n in range(count)
        )
        for name, count in (("train", 6000), ("test", 300))
    }
    for name, text in lines.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    monkeypatch.setattr(_real, "GSM8K", tmp_path)
    monkeypatch.setattr(_real, "SVAMP", tmp_path / "SVAMP.json")
    row = {"Body": "Ann has 3 pens", "Question": "How many?", "Answer": 3.0}
    (tmp_path / "SVAMP.json").write_text(json.dumps([row, {**row, "Answer": 2.5}]))
    asked = {part: _real.problems("gsm8k", part) for part in (*_splits.GSM8K, "test")}
    questions = [r["question"] for records in asked.values() for r in records]
    assert len(set(questions)) == len(questions)
    assert {part: len(records) for part, records in asked.items()} == {
        **_splits.GSM8K,
        "test": 300 - _splits.LOOKED_AT,
    }
    assert {r["question"] for r in asked["test"]} == {f"test {n}?" for n in range(96, 300)}
    assert all("," not in r["answer"] for r in asked["branches"])
    assert _real.problems("svamp", "branches") == []
    assert sorted(r["answer"] for r in _real.problems("svamp", "test")) == ["2.5", "3"]
    assert all(
        r["question"] == "Ann has 3 pens. How many?" for r in _real.problems("svamp", "test")
    )
    names = {r["answer"] for r in _real.problems("units", "tuning")}
    assert len(names) > 100
