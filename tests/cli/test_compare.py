"""`stet compare` from the command line to the files it leaves."""

import json

import pytest
from typer.testing import CliRunner

from families import VOCAB, save
from stet.cli import app
from stet.policies import available
from tiny import llama, near

QUESTIONS = ["a", "b", "c d", "e f", "how many"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("compare")
    large = llama(vocab=VOCAB, layers=2)
    for role, model in (("target", large), ("draft", near(large, 0.1))):
        save(place / role, model=model)
    lines = [json.dumps({"question": q, "answer": f"{i}"}) for i, q in enumerate(QUESTIONS)]
    (place / "mine.jsonl").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture
def compare(place):
    def call(*arguments, models=True):
        own = ["--target", place / "target", "--draft", place / "draft"] if models else []
        own += ["--max-length", 200] if models else []
        words = ["compare", *arguments, *own]
        return CliRunner().invoke(app, [str(w) for w in words])

    return call


@pytest.fixture
def task(place):
    return (
        *("--task", place / "mine.jsonl", "--template", "{{ question }}", "--grader", "number"),
        *("--max-new-tokens", 10, "--no-chat"),
    )


def test_one_command_leaves_records_and_a_report(compare, task, tmp_path):
    folder = tmp_path / "out"
    result = compare(*task, "-o", folder, "--batch", 2)
    assert result.exit_code == 0, result.output
    names = {p.name for p in folder.iterdir()}
    assert {"run.json", "answers.jsonl", "traces.jsonl", "report.html", "summary.json"} <= names
    run = json.loads((folder / "run.json").read_text())
    labels = [p["label"] for p in run["policies"]]
    # Whatever policies there are, now or later: all that need no settings are compared. The
    # shipped rewards and arbiters are for the bundled pair, and one policy is a control.
    others = {p.name for p in available()} - {"reward-guided", "cospec", "autojudge", "random"}
    assert {"target", "draft", *others} <= set(labels)
    assert "reward-guided" not in labels
    for label in labels:
        assert label.split(" ")[0] in result.stdout
    assert str(folder / "report.html") in result.stdout.replace("\n", "")
    assert len((folder / "answers.jsonl").read_text().splitlines()) == len(labels) * len(QUESTIONS)


def test_reporting_again_runs_nothing_and_says_the_same(compare, task, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    first = compare(*task, "-p", "exact", "-o", folder, "--json")
    assert first.exit_code == 0, first.output
    monkeypatch.setattr("stet.load_pair", lambda *_, **__: pytest.fail("a model was loaded"))
    again = compare("--from", folder, "--json", models=False)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(first.stdout)
    ratio = compare("--from", folder, "--json", "--cost-ratio", 5, models=False)
    policies = {p["label"]: p for p in json.loads(ratio.stdout)["policies"]}
    assert policies["exact"]["speed"]["modelled_speedup"] > 0


def test_started_again_it_goes_on(compare, task, tmp_path):
    folder = tmp_path / "out"
    assert compare(*task, "-p", "exact", "-o", folder).exit_code == 0
    lines = (folder / "answers.jsonl").read_text().splitlines(keepends=True)
    (folder / "answers.jsonl").write_text("".join(lines[:4]))
    result = compare(*task, "-p", "exact", "-o", folder)
    assert result.exit_code == 0, result.output
    assert "4 of 10 answers are there already" in result.stderr
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 10


def labels_of(folder):
    return [p["label"] for p in json.loads((folder / "run.json").read_text())["policies"]]


def test_plain_rules_stand_beside_a_lossy_policy(compare, task, tmp_path):
    assert compare(*task, "-p", "cascade", "-o", tmp_path / "a").exit_code == 0
    plain = ["target", "draft", "exact", "ensemble", "confident"]
    assert labels_of(tmp_path / "a") == [*plain, "cascade"]
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    assert run["primary"] == ["cascade"]
    assert compare(*task, "-p", "cascade", "--no-baselines", "-o", tmp_path / "b").exit_code == 0
    assert labels_of(tmp_path / "b") == ["target", "cascade"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "exakt"], "no policy 'exakt'"),
        (["--task", "nowhere"], "no task 'nowhere'"),
        (["--primary", "someone"], "no policy 'someone'"),
        (["--draft-length", "many"], "neither a number"),
    ],
)
def test_what_is_wrong_is_one_sentence(compare, task, tmp_path, arguments, sentence):
    result = compare(*task, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_another_run_s_folder_is_refused(compare, task, tmp_path):
    assert compare(*task, "-p", "exact", "-o", tmp_path / "out").exit_code == 0
    result = compare(*task, "-p", "block", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "holds another run" in result.stderr


def test_no_results_is_one_sentence(compare, tmp_path):
    result = compare("--from", tmp_path, models=False)
    assert result.exit_code == 2
    assert "holds no results" in result.stderr


def test_tasks_and_graders_are_listed(compare):
    result = compare("--list-tasks", models=False)
    assert result.exit_code == 0
    for name in ("stories", "units", "gsm8k", "svamp", "math500", "multiarith", "spec-bench"):
        assert name in result.stdout
    assert "number" in result.stdout


def test_instruct_models_are_asked_in_their_chat_template(compare, place, task, tmp_path):
    mine = [word for word in task if word != "--no-chat"]
    template = (
        "{% for m in messages %}{{ m.role[0] + ' ' + m.content + ' ' }}{% endfor %}"
        "{% if loud %}!{% endif %}"
    )
    for role in ("target", "draft"):
        path = place / role / "chat_template.jinja"
        path.write_text(template)
    try:
        folder = tmp_path / "out"
        words = ("--system", "be", "--template-arg", "loud=true")
        result = compare(*mine, *words, "-p", "exact", "-o", folder)
        assert result.exit_code == 0, result.output
        assert "the chat template of target" in result.stderr
        run = json.loads((folder / "run.json").read_text())
        assert run["chat"]["system"] == "be"
        assert run["chat"]["arguments"] == {"loud": True}
        traces = (folder / "traces.jsonl").read_text().splitlines()
        assert json.loads(traces[0])["trace"]["prompt"].startswith("s be u ")
        other = compare(*mine, "-p", "exact", "-o", folder)
        assert other.exit_code != 0
        assert "differs in chat" in other.stderr.replace("\n", " ")
        plain = compare(*task, "-p", "exact", "-o", tmp_path / "plain")
        assert plain.exit_code == 0, plain.output
        assert "template" not in plain.stderr
        assert json.loads((tmp_path / "plain" / "run.json").read_text())["chat"] is None
    finally:
        for role in ("target", "draft"):
            (place / role / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--output", "{file}/results"),
        ("calibrate", "--output", "{file}/policy.json"),
        ("calibrate", "--output", "{file}/policy.json", "--no-report"),
        ("calibrate", "--folder", "{file}/steps"),
        ("calibrate", "--report", "{file}/page.html"),
        ("calibrate", "--report", "{folder}"),
        ("train", "--output", "{file}/policy"),
        ("train", "--output", "{file}/policy", "--no-report"),
        ("train", "--folder", "{file}"),
        ("train", "--report", "{file}/page.html"),
        ("generate", "hello", "--trace", "{file}/trace.jsonl"),
    ],
)
def test_places_that_cannot_be_written_to_are_told_before_anything_is_loaded(
    run, loader, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    places = {"file": tmp_path / "file", "folder": tmp_path}
    result = run(*(a.format(**places) for a in arguments))
    assert result.exit_code == 2
    assert "cannot be written" in " ".join(result.stderr.split())
    assert not loader.arguments
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
