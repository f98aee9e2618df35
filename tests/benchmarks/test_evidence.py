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
MODULES = (
    "_real",
    "_splits",
    "_record",
    "_progress",
    "_shared_texts",
    "_evidence_parts",
    "_evidence_control",
    "_pairs",
)


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
    monkeypatch.setattr(_real, "BASES", {"target": None, "draft": None})
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
        noise=4,
        batch=12,
        seeds=(0,),
        root=tmp_path,
    )
    settings.folder.mkdir()
    for part in (
        "tune",
        "train",
        "calibrate",
        "declare",
        "tokens",
        "steps",
        "oracle",
        "noise",
        "latency",
    ):
        getattr(parts, part)(settings)
    report.report(settings)
    found = json.loads((tmp_path / "results/evidence.json").read_text())
    figures = found["figures"]
    assert figures["real_problems"] == 12
    assert figures["real_noise_problems"] == 4
    assert figures["real_noise_texts"] == 0  # float32 rounds too little to be seen
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


def figures(number: int) -> dict[str, float]:
    """The figures of CoSpec on a control pair; the pairs differ by a tenth in what they gain."""
    gains = {"best_plain_rule": 6, "cascades": 5, "router": 9, "shuffled": 11, "warm_start": 1}
    found = {
        "accuracy_target": 0.5,
        "accuracy_draft": 0.2,
        "accuracy_cospec": 0.6 + number / 10,
        "problems": 1000,
        "tokens_per_pass_cospec": 8.0,
        "gain_points": 10 + 10 * number,
        "speedup_vs_target": 2.0,
        "speedup_exact": 1.5 - number,
        "oracle_agreement_non_tie": 0.9,
        "always_target_agreement_non_tie": 0.6,
        "always_draft_agreement_non_tie": 0.4,
    }
    for name, points in gains.items():
        ends = {"": points, "_low": points - 1.96, "_high": points + 1.96}
        found |= {f"gain_over_{name}_points{end}": value for end, value in ends.items()}
    return found


def control_results(folder: Path, numbers: range) -> None:
    """Result files of control pairs."""

    def row(label: str, number: int, key: str) -> dict:
        value = {"value": 0.1 + number / 10, "low": 0.08 + number / 10, "high": 0.12 + number / 10}
        gained = 100 + 100 * number
        return {
            "policy": label,
            "pair": f"control-{number}",
            "accuracy": value,
            key: value,
            "tokens_per_pass": 2.0,
            "speed_over_exact": {"value": 0.5},
            "gained": gained + 5,
            "lost": 5,
            "p_values": [0.0],
        }

    made = [
        {"seed": n, "criteria": {"room": True}, "room": {"room": 0.1 + n / 100}} for n in numbers
    ]
    cells = {"both right": 50, "draft only": 20, "target only": 20, "neither": 10}
    tokens = {
        "figures": {f"control-{n}_{k}": v for n in numbers for k, v in figures(n).items()},
        "rows": [row("cospec 0", n, "gain_over_reference") | {"part": "test"} for n in numbers],
        "pairs": {f"control-{n}": {"agreement": {"cells": cells}} for n in numbers},
    }
    steps = {
        "accuracy_specguard": 0.6,
        "accuracy_rsd": 0.55,
        "relative_gain_over_exact": 0.2,
        "problems": 1000,
        "latency_ratio_to_rsd_batch_16": 1.2,
    }
    files = {"control": {"mix": {}, "rows": made}, "cospec": tokens} | {
        f"specguard_control-{n}": {
            "figures": steps,
            "rows": [row("specguard", n, "gain_over_exact") | {"part": "greedy"}],
        }
        for n in numbers
    }
    folder.mkdir()
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record))


@pytest.mark.usefixtures("scripts")
def test_the_control_pairs_are_taken_together(tmp_path):
    import _evidence_control as control

    control_results(tmp_path / "results", range(2))
    every = control.controls()
    found = control.figures_of(every)
    assert [c.seed for c in every] == [0, 1]
    assert found["problems"] == 2000
    assert found["cospec_gain_points"] == pytest.approx(15)
    # Two intervals of two points each way: their mean is surer than either.
    assert found["cospec_high"] - found["cospec_low"] == pytest.approx(4 / 2**0.5)
    assert found["cospec_p"] < 1e-30
    assert found["cospec_over_best_other_points"] == pytest.approx(5)
    # Where exact is slower than the target, the target is the one to beat.
    assert found["cospec_time_vs_faster"] == pytest.approx((1.5 / 2 + 1 / 2) / 2)
    assert found["policy_gradient_over_warm_start_points"] == pytest.approx(1)
    assert found["router_gain_points"] == pytest.approx(6)
    assert found["shuffled_gain_points"] == pytest.approx(4)
    assert found["draft_only_right_share"] == pytest.approx(0.2)
    assert found["specguard_time_vs_rsd_as_published"] == pytest.approx(1.2)
    assert "specguard_time_vs_rsd" not in found  # of which there is nothing
    assert len(control.rows_of(every)) == 4


@pytest.mark.usefixtures("scripts")
def test_a_control_pair_that_one_method_was_not_tested_on_is_not_told_of(tmp_path):
    import _evidence_control as control

    control_results(tmp_path / "results", range(2))
    (tmp_path / "results/specguard_control-1.json").unlink()
    assert [c.seed for c in control.controls()] == [0]
    (tmp_path / "results/control.json").unlink()
    assert control.controls() == []
    assert control.figures_of([]) == {}


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
