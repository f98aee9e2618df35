"""Records of earlier releases, in their words: they are still read, in this release's."""

import json

import pytest
import torch

from calibration.report_example import example
from stet.arbiter import Arbiter, Network
from stet.calibration.result import Calibration
from stet.core import trace
from stet.core.trace import BlockRecord, Counters, MismatchRecord
from stet.core.upgrades import upgrade, upgrade_parameters
from stet.evaluation import records
from stet.policies import CoSpec, resolve
from stet.training.measuring import Measured, read_measured

pytestmark = pytest.mark.unit

TRACE = {
    "request": 0,
    "settings": {
        "policy": {"name": "cospec", "arbiter": "bundled", "threshold": None, "hold": True},
        "lossless": False,
        "sampling": {"temperature": 0.0},
        "draft_length": {"rule": "FixedLength", "length": 3},
        "target": {"name": "bundled/target", "revision": None},
        "draft": {"name": "bundled/draft", "revision": None},
        "stet": "0.1.0",
        "chat": None,
    },
    "prompt": "1 + 2 =",
    "prompt_tokens": 4,
    "text": "abcd",
    "finish_reason": "length",
    "seconds": 0.25,
    "tokens": [
        {"id": 0, "text": "a", "origin": "draft", "reason": "accepted"},
        {"id": 1, "text": "b", "origin": "draft", "reason": "overruled"},
        {"id": 2, "text": "c", "origin": "target", "reason": "corrected"},
        {"id": 3, "text": "d", "origin": "draft", "reason": "step kept"},
    ],
    "blocks": [
        {
            "position": 0,
            "drafted": [0, 1, 9],
            "kept": 2,
            "overruled": [1],
            "next_token": 2,
            "disputes": [
                {"at": 1, "draft": 1, "target": 7, "score": 0.75, "stands": True, "features": []},
                {"at": 2, "draft": 9, "target": 2, "score": 0.25, "stands": False, "features": []},
            ],
        }
    ],
    "counters": {
        "emitted_tokens": 4,
        "drafts": 1,
        "drafted_tokens": 3,
        "kept_tokens": 2,
        "kept_per_position": [1, 1, 0],
        "target_passes": 1,
        "draft_passes": 3,
        "target_seconds": 0.125,
        "draft_seconds": 0.125,
        "steps": 2,
        "kept_steps": 1,
    },
    "steps": [
        {
            "position": 0,
            "tokens": 2,
            "decision": decision,
            "reason": reason,
            "candidates": [],
            "chosen": 0,
            "signals": {},
            "normalised": {},
        }
        for decision, reason in (("kept", "step kept"), ("rewritten", "step rewritten"))
    ],
    "version": 2,
}
"""A line of `trace.jsonl` of version 2."""

COUNTERS = Counters(
    emitted_tokens=4,
    drafts=1,
    drafted_tokens=3,
    accepted_tokens=2,
    accepted_per_position=[1, 1, 0],
    target_passes=1,
    draft_passes=3,
    target_seconds=0.125,
    draft_seconds=0.125,
    steps=2,
    accepted_steps=1,
)
"""Those of `TRACE`."""

RUN = {
    "task": "sums",
    "questions": [{"id": "sums/0", "prompt": "1 + 2 =", "reference": "3", "group": None}],
    "policies": [
        {
            "label": "cospec",
            "name": "cospec",
            "parameters": {"arbiter": "bundled", "threshold": None, "hold": False},
            "lossless": False,
            "options": {},
        }
    ],
    "reference": "cospec",
    "primary": [],
    "seeds": [0],
    "batch": 1,
    "options": {"temperature": 0.0},
    "target": {"name": "bundled/target", "revision": None},
    "draft": {"name": "bundled/draft", "revision": None},
    "graded": True,
    "grader": {"name": "text"},
    "note": "",
    "machine": {},
    "versions": {"stet-decoding": "0.1.0"},
    "command": "stet compare",
    "date": "2026-01-01T00:00:00+00:00",
    "chat": None,
    "version": 1,
}
"""`run.json` of a comparison of version 1."""

ANSWER = {
    "policy": "cospec",
    "question": "sums/0",
    "seed": 0,
    "text": "abcd",
    "answer": "hold",
    "right": False,
    "finish_reason": "length",
    "error": None,
    "seconds": 0.25,
    "chunk": 0,
    "chunk_seconds": 0.25,
    "chunk_answers": 1,
    "prompt_tokens": 4,
    "counters": TRACE["counters"],
    "signals": {"target probability, mean": 0.5},
    "samples": 3,
    "votes": {"hold": 2, "overruled": 1},
}
"""A line of `answers.jsonl` of the same comparison; its answers happen to be former words."""


@pytest.fixture
def comparison(tmp_path):
    """The folder of a comparison of version 1."""
    line = {name: ANSWER[name] for name in ("policy", "question", "seed")} | {"trace": TRACE}
    for name, record in (
        (records.RUN, RUN),
        (records.ANSWERS, ANSWER),
        (records.TRACES, line),
    ):
        (tmp_path / name).write_text(json.dumps(record) + "\n")
    return tmp_path


def test_a_trace_of_version_2(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(TRACE) + "\n")
    (found,) = trace.read(path)
    assert found.version == trace.VERSION
    assert [token.reason for token in found.tokens] == [
        "accepted",
        "accepted_mismatch",
        "recovered",
        "step kept",
    ]
    assert found.blocks == [
        BlockRecord(
            position=0,
            drafted=[0, 1, 9],
            accepted=2,
            accepted_mismatches=[1],
            next_token=2,
            mismatches=[
                MismatchRecord(1, 1, 7, 0.75, accepted=True),
                MismatchRecord(2, 9, 2, 0.25, accepted=False),
            ],
        )
    ]
    assert found.counters == COUNTERS
    assert [step.decision for step in found.steps] == ["accepted", "rewritten"]
    assert found.settings.policy["defers_bonus"] is True
    trace.write([found], tmp_path / "again.jsonl")
    assert trace.read(tmp_path / "again.jsonl") == [found]


def test_a_trace_of_this_version_is_read_as_it_is(tmp_path):
    """A policy's own reason may be a word that an earlier release used for something else."""
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(TRACE) + "\n")
    (found,) = trace.read(path)
    found.tokens[0].reason = "corrected"
    trace.write([found], tmp_path / "own.jsonl")
    assert trace.read(tmp_path / "own.jsonl") == [found]


def test_a_comparison_of_version_1(comparison):
    results = records.read(comparison)
    (entry,) = results.run.policies
    assert entry.parameters == {"arbiter": "bundled", "threshold": None, "defers_bonus": False}
    (answer,) = results.answers
    assert answer.counters == COUNTERS
    assert (answer.answer, answer.votes) == ("hold", {"hold": 2, "overruled": 1})


def test_traces_of_a_comparison_of_version_1(comparison):
    (line,) = records.read_traces(comparison)
    assert line["question"] == "sums/0"
    (block,) = line["trace"]["blocks"]
    assert (block["accepted"], block["accepted_mismatches"]) == (2, [1])
    assert [m["accepted"] for m in block["mismatches"]] == [True, False]
    assert [token["reason"] for token in line["trace"]["tokens"][1:3]] == [
        "accepted_mismatch",
        "recovered",
    ]
    assert [step["decision"] for step in line["trace"]["steps"]] == ["accepted", "rewritten"]
    # What was not counted then is 0.
    assert Counters(**line["trace"]["counters"]) == COUNTERS


def test_an_arbiter_with_features_by_their_former_names(tmp_path):
    torch.manual_seed(0)
    names = ("target_target", "accepted_mismatches", "accepted_mismatches_in_block")
    made = Arbiter(Network(3).requires_grad_(False), names)
    made.save(tmp_path)
    path = tmp_path / "arbiter.json"
    former = ["target_target", "overruled", "overruled_in_block"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features": former}))
    found = Arbiter.load(tmp_path)
    assert found.features == names
    assert found.in_block
    looked_at = torch.rand(4, 3)
    assert torch.equal(found.logits_of(looked_at), made.logits_of(looked_at))


def test_a_policy_file_with_a_parameter_by_its_former_name(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"policy": "cospec", "parameters": {"hold": False}}))
    assert resolve(str(path)) == CoSpec(defers_bonus=False)


def test_a_parameter_of_another_policy_keeps_its_name():
    assert upgrade_parameters("theirs", {"hold": 3}) == {"hold": 3}
    record = {"name": "theirs", "parameters": {"hold": 3}}
    assert upgrade(record) == record


def test_a_calibration_whose_label_source_has_its_former_name(tmp_path):
    made, path = example(), tmp_path / "mine.json"
    made.save(path)
    record = json.loads(path.read_text())
    record["yardstick"] = record.pop("label_source")
    path.write_text(json.dumps(record))
    assert Calibration.load(path) == made


def test_measurements_of_a_training_that_was_interrupted(tmp_path):
    path = tmp_path / "warm-start.json"
    measured = {"threshold": 0.5, "questions": 200, "right": 160, "tokens_per_pass": 6.5}
    path.write_text(json.dumps([measured | {"disputes": 800, "overruled": 300}]))
    assert read_measured(path) == [
        Measured(0.5, 200, 160, 6.5, mismatches=800, accepted_mismatches=300)
    ]


def test_a_record_of_this_release_stays_as_it_is():
    found = upgrade(TRACE)
    assert found != TRACE
    assert upgrade(found) == found
