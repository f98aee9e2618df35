"""`--ray` on the command line, without Ray."""

import json
import sys

import pytest
import typer

from stet.cli import app
from stet.cli.cluster import with_address


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("compare --ray", "compare --ray local"),
        ("compare --ray --workers 2", "compare --ray local --workers 2"),
        ("compare --ray -n 3", "compare --ray local -n 3"),
        ("compare --ray 10.0.0.1:6379 -n 3", "compare --ray 10.0.0.1:6379 -n 3"),
        ("compare --ray=auto", "compare --ray=auto"),
        ("generate -- --ray", "generate -- --ray"),
        ("compare", "compare"),
    ],
)
def test_an_address_may_be_left_out(words, expected):
    assert with_address(words.split()) == expected.split()


@pytest.mark.parametrize("command", ["compare", "calibrate", "train", "generate"])
def test_commands_that_can_run_on_many_machines(command):
    group = typer.main.get_command(app)
    context = group.make_context("stet", [command, "--ray", "--workers", "2"])
    name, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    made = found.make_context(name, rest, parent=context)
    assert (made.params["ray"], made.params["workers"]) == ("local", 2)


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"{i}?", "answer": "1"}) + "\n" for i in range(30))
    )
    return "--task", path, "--template", "{{ question }}", "--grader", "number"


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """As where Ray is not installed."""
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ray"], "Running on Ray needs ray: pip install 'stet-decoding[ray]'."),
        (["--workers", "2"], "--workers goes with --ray."),
        (["--ray", "-t", "https://there/v1", "-d", "x"], "needs a local target"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(run, loader, task, tmp_path, arguments, sentence):
    result = run("compare", *task, "-p", "exact", "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a prompt", "--ray"], "--ray is for many prompts: give them by --file."),
        (["a prompt", "--workers", "2"], "--workers goes with --ray."),
        (["-f", "FILE", "--ray"], "Running on Ray needs ray"),
        (
            ["-f", "FILE", "--ray", "-t", "https://there/v1", "--target-model", "m", "-d", "x"],
            "name one that is local",
        ),
    ],
)
def test_generate_refuses_in_one_sentence(run, loader, tmp_path, arguments, sentence):
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n")
    result = run("generate", *[file if word == "FILE" else word for word in arguments])
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
