"""`stet policies`, `stet doctor` and `stet demo`."""

import json

import pytest

from stet.cli import demo
from stet.cli.demo import POLICIES
from stet.policies import available


def test_policies_lists_every_policy_with_its_first_sentence(run):
    result = run("policies")
    assert result.exit_code == 0
    for name in ("target", "draft", *(policy.name for policy in available())):
        assert name in result.stdout
    assert "Accept a drafted" in result.stdout


def test_policies_as_json(run):
    rows = {row["name"]: row for row in json.loads(run("policies", "--json").stdout)}
    assert set(rows) == {"target", "draft"} | {policy.name for policy in available()}
    assert rows["exact"]["lossless"] is True
    assert rows["draft"]["lossless"] is False
    assert rows["exact"]["parameters"] == {}


@pytest.fixture
def described(monkeypatch):
    """The parts of the fake pair."""
    record = {
        "models": [
            {
                "role": "target",
                "name": "big",
                "parameters": 12_000_000,
                "dtype": "bfloat16",
                "device": "cpu",
                "context": 512,
            }
        ],
        "memory": {
            "models": [
                {"role": "target", "weights": 1, "cache": 2, "workspace": 3, "device": "cpu"}
            ],
            "max_rows": 2,
            "max_length": 512,
            "tokens": 1024,
            "made": [2],
            "process": 9,
            "available": {"cpu": 7},
            "total": 6,
        },
    }
    monkeypatch.setattr("stet.cli.doctor.describe_pair", lambda pair: record)


def test_doctor_says_what_it_measured_and_what_follows(run, pair, described):
    result = run("doctor", "-t", "big", "-d", "small", "--limit", 3)
    assert result.exit_code == 0, result.stderr
    for told in (
        "big",
        "Costs of a pass",
        "draft, 1 token",
        "Acceptance",
        "speed-up",
        "best",
        "Use",
    ):
        assert told in result.stdout
    assert {policy for _, policy, _ in pair.calls} == {"target", "exact"}


def test_doctor_as_json(run, pair, described, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\nthree\n")
    result = run("doctor", "-t", "big", "-d", "small", "--prompts", file, "--json", "--batch", 2)
    record = json.loads(result.stdout)
    assert record["verdict"] == "use"
    assert record["prompt_count"] == 3
    assert record["models"][0]["name"] == "big"
    assert record["best"] in record["forecasts"]
    assert record["acceptance"]["stood"][:2] == [6, 6]
    assert record["costs"]["target"]["1"] == pytest.approx(0.1)


def test_doctor_advises_against_a_pair_with_exit_code_1(run, pair, described, monkeypatch):
    from stet.doctor import doctor

    diagnose = doctor.diagnose

    def pessimist(*measured, **state):
        found = diagnose(*measured, **state)
        advice = "Do not use this pair here: it would be slower."
        return doctor.replace(found, verdict="avoid", advice=advice)

    monkeypatch.setattr(doctor, "diagnose", pessimist)
    result = run("doctor", "-t", "big", "-d", "small", "--limit", 1)
    assert result.exit_code == 1
    assert "Do not use this pair" in result.stdout


def test_doctor_asks_in_the_chat_template(run, pair, described):
    run("doctor", "--limit", 1)
    assert pair.calls[0][0][0].startswith("<user>")
    pair.calls.clear()
    said = run("doctor", "--limit", 1, "-t", "big", "-d", "small", "--system", "Be brief.")
    assert pair.calls[0][0][0].startswith("<system>Be brief.<user>")
    assert "the chat template of big" in said.stderr
    pair.calls.clear()
    run("doctor", "--limit", 1, "--no-chat")
    assert "<user>" not in pair.calls[0][0][0]


def test_demo_shows_all_policies_and_a_worked_answer(run, pair):
    result = run("demo", "--problems", 4)
    assert result.exit_code == 0, result.stderr
    for told in ("target", "draft", "exact", "answers", "4 of 4", "1.00x", "word by word"):
        assert told in result.stdout
    assert "[[ seven]]" in result.stdout
    assert "4 accepted, 2 recovered" in result.stdout


def test_demo_lets_the_policies_take_turns(run, pair):
    run("demo", "--problems", 3, "--json")
    order = [policy for _, policy, _ in pair.calls]
    names = list(POLICIES)
    count = len(names)
    assert order[:count] == names  # the warm-up
    turns = [tuple(order[i : i + count]) for i in (count, 2 * count, 3 * count)]
    assert all(set(turn) == set(names) for turn in turns)
    assert len({turn[0] for turn in turns}) == 3


def test_demo_as_json(run, pair):
    rows = json.loads(run("demo", "--problems", 4, "--json").stdout)
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert "confident" in POLICIES  # a plain rule beside the trained policy
    assert rows[2]["same_text_share"] == 1
    assert rows[2]["speedup"] == pytest.approx(1.0)
    assert rows[2]["accuracy"] == 0  # the fake knows one answer to all problems


def test_demo_of_any_pair_asks_in_words_and_shows_what_needs_no_training(run, pair):
    result = run("demo", "-t", "big", "-d", "small", "--problems", 2, "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    # The fake has no draft, as with prompt lookup.
    assert [row["policy"] for row in rows] == ["target", "exact"]
    asked, _, options = pair.calls[-1]
    assert asked[0].startswith("<user>")
    assert "Answer: N" in asked[0]
    assert options["max_new_tokens"] == demo.LONGEST
    pair.draft = pair.target
    rows = json.loads(run("demo", "-t", "big", "-d", "small", "--problems", 1, "--json").stdout)
    assert [row["policy"] for row in rows] == list(demo.UNTRAINED)
    pair.difference = "another tokenizer"
    rows = json.loads(run("demo", "-t", "big", "-d", "small", "--problems", 1, "--json").stdout)
    assert [row["policy"] for row in rows] == list(demo.STEPS)


def test_demo_of_a_slow_pair_ends_when_the_time_is_up(run, pair):
    rows = json.loads(run("demo", "--problems", 9, "--seconds", 0, "--json").stdout)
    assert [row["problems"] for row in rows] == [1] * len(rows)
    assert "1 of 1" in run("demo", "--problems", 9, "--seconds", 0).stdout
