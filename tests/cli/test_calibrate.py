"""`stet calibrate` from the command line."""

import json

import pytest
from typer.testing import CliRunner

from stet.bundled import generate
from stet.cli import app
from stet.cli.calibrate import _task
from stet.evaluation.tasks import TaskError


def call(*words):
    return CliRunner().invoke(app, ["calibrate", *map(str, words)])


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--keep", "0.5", "--risk", "0.1"), "Ask for one thing"),
        (("--policy", "exact"), "'exact' cannot be calibrated"),
        (("--policy", "specguard:threshold=0.2|0.4"), "cannot be calibrated"),
        (("--policy", "specguard:threshold=2"), "threshold is 2; it must be between 0 and 1"),
        (("--without-answers",), "Without right answers, say what the threshold is chosen for"),
        (("--without-answers", "--grader", "none", "--keep", "0.5", "--rollouts", "4"), "name a"),
        (("--from", "nothing.json"), "nothing.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(words, sentence):
    result = call(*words)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


@pytest.mark.unit
def test_a_file_with_prompts_alone_may_have_a_grader(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}?"}) + "\n" for i in range(20)))
    bare = _task(str(path), None, {"count": 20})
    assert bare.grader is None
    graded = _task(str(path), "answer-line", {"count": 20})
    assert graded.grader.name == "answer-line"
    assert all(q.reference is None for q in graded.questions)
    # Of answers there are some must not be passed over.
    path.write_text(path.read_text() + json.dumps({"question": "?", "answer": "1"}) + "\n")
    with pytest.raises(TaskError, match="has no answer to grade by"):
        _task(str(path), "answer-line", {"count": 21})


@pytest.mark.slow
def test_prompts_alone_are_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems = generate("stories", "calibration", 20)
    lines = [json.dumps({"question": p.text}) + "\n" for p in problems]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    words = ["--task", "prompts.jsonl", "--grader", "answer-line", "--keep", 0]
    result = call(*words, "-n", 20, "--thresholds", 2, "--batch", 10, "-o", "mine.json")
    assert result.exit_code == 0, result.output
    assert "does not mean that it is right" in " ".join(result.stdout.split())
    record = json.loads((tmp_path / "mine.json").read_text())
    assert record["label_source"] == "target's answer"
    assert "the target's own answer" in (tmp_path / "mine.html").read_text().replace("&#39;", "'")


@pytest.mark.slow
def test_the_file_is_a_policy_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("-n", 20, "--thresholds", 2, "--keep", 0, "--batch", 10, "-o", "mine.json")
    assert result.exit_code == 0, result.output
    assert "AUROC" in result.stdout
    assert "--policy mine.json" in result.stdout
    assert "Reliability of the score" in (tmp_path / "mine.html").read_text()
    record = json.loads((tmp_path / "mine.json").read_text())
    assert record["wish"]["goal"] == "keep"
    assert record["chosen"]["threshold"] == max(p["threshold"] for p in record["points"])

    words = ["generate", "Ann has 3 pens.", "--policy", "mine.json", "--json"]
    answer = CliRunner().invoke(app, [*words, "--max-new-tokens", "12"])
    assert answer.exit_code == 0, answer.output
    words = ["compare", "-n", "2", "-p", "mine.json", "--no-baselines", "--json", "-o", "out"]
    compared = CliRunner().invoke(app, words)
    assert compared.exit_code == 0, compared.output
    labels = [p["label"] for p in json.loads(compared.stdout)["policies"]]
    assert labels == ["target", "mine"]
