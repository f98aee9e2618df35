"""`stet calibrate` from the command line."""

import json

import pytest
from typer.testing import CliRunner

from stet.cli import app


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
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(words, sentence):
    result = call(*words)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


@pytest.mark.slow
def test_the_file_is_a_policy_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("-n", 20, "--thresholds", 2, "--keep", 0, "--batch", 10, "-o", "mine.json")
    assert result.exit_code == 0, result.output
    assert "AUROC" in result.stdout
    assert "--policy mine.json" in result.stdout
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
