"""`stet train` from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stet.cli import app
from stet.cli.chat import ChatOptions
from stet.cli.train_options import TaskOptions
from stet.evaluation.tasks import load_task
from stet.policies import CoSpec


def call(*words):
    return CliRunner().invoke(app, ["train", *map(str, words)])


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--hidden", "wide"), "hidden is 'wide'; give widths such as 32 or 64,32"),
        (("--feature", "mood"), "There is no feature 'mood'"),
        (("--method", "luck"), "method is 'luck'"),
        (("--labels", "gut"), "labels is 'gut'"),
        (("--pair", "nowhere"), "There is no pair 'nowhere'"),
        (("--pair", "bundled", "--draft", "mine"), "--pair names both models"),
        (("--inspect", "--folder", "nowhere"), "nowhere holds no training"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(words, sentence):
    result = call(*words)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


@pytest.mark.unit
def test_one_split_is_divided_into_questions_to_learn_from_and_to_judge_by(tmp_path):
    lines = [json.dumps({"question": f"What is {i}?", "answer": str(i)}) for i in range(40)]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(lines))
    task = TaskOptions(
        task=str(file), grader="number", problems=22, validation=12, max_new_tokens=17
    )
    loaded = task.load(ChatOptions(), seed=3)
    learnt, checked = ({q.id for q in part.questions} for part in loaded)
    assert (len(learnt), len(checked)) == (22, 12)
    assert not learnt & checked
    assert [part.max_new_tokens for part in loaded] == [17, 17]
    again = load_task(str(file), count=22, seed=3, grader="number")
    assert {q.id for q in again.questions} == learnt


@pytest.mark.unit
@pytest.mark.parametrize("validation", [30, 31])
def test_one_split_with_too_few_questions_for_both_is_refused(tmp_path, monkeypatch, validation):
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"question": f"What is {i}?", "answer": str(i)}) for i in range(30)]
    Path("mine.jsonl").write_text("\n".join(lines))
    result = call("--task", "mine.jsonl", "--grader", "number", "--validation", validation)
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert f"Task 'mine' has 30 questions, and --validation takes {validation} of them" in said
    assert [p.name for p in tmp_path.iterdir()] == ["mine.jsonl"]


@pytest.mark.slow
def test_from_questions_to_a_policy_that_generates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ("-n", 20, "--validation", 10, "--sweeps", 1, "--method", "none", "--hidden", 0)
    result = call(*few, "--pair", "bundled", "--labels", "target", "--out", "mine")
    assert result.exit_code == 0, result.output
    assert "Written: mine" in result.output
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "arbiter.json",
        "arbiter.safetensors",
    ]
    assert "An arbiter trained on stories" in (tmp_path / "mine.html").read_text()
    assert CoSpec.load("mine")._arbiter.trained["labels"] == "target"
    looked = CliRunner().invoke(app, ["train", "--inspect", "-o", "mine", "--json"])
    assert json.loads(looked.output)[0]["branches"] > 0
    words = ["generate", "Ann has 3 boxes of 12 pens. How many pens?", "--json"]
    used = CliRunner().invoke(app, [*words, "--policy", "autojudge", "--param", "arbiter=mine"])
    assert used.exit_code == 0, used.output
    # Another training does not go on there.
    again = call(*few, "--labels", "target", "-o", "mine", "--seed", 1)
    assert again.exit_code == 2
    assert "holds another training" in " ".join(again.output.split())
