"""The page: the summary's numbers, everything escaped, whole without the network."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from evaluation.report_example import example
from evaluation.report_run import HOSTILE
from stet.evaluation import records
from stet.evaluation.report import changes as shown_changes
from stet.evaluation.report import write_report
from stet.evaluation.report.changes import policy_changes
from stet.evaluation.report.html import page
from stet.evaluation.report.plots import plots
from stet.evaluation.report.table import columns
from stet.evaluation.summary import Change

VOID = {"meta", "br", "input", "link", "img", "hr", "wbr", "source"}


class Checker(HTMLParser):
    """Balanced tags, unique ids, and the text and attributes of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return example(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    written = write_report(*run, folder)
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    return folder


@pytest.fixture(scope="module")
def text(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def checked(text) -> Checker:
    return Checker(text)


def built(results, summary) -> str:
    made = page(results, summary, plots(summary))
    Checker(made)
    return made


def test_files(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "summary.json", "summary.csv", "summary.md"} <= names
    for name in ("frontier", "speed", "kept", "cost", "signals-6"):
        assert {f"{name}.png", f"{name}.svg"} <= names
    assert (folder / "report.html").stat().st_size < 4_000_000


def test_whole_and_without_the_network(text, checked):
    assert text.startswith("<!DOCTYPE html>")
    ids = [attributes["id"] for _, attributes in checked.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in checked.elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
            if attributes.get(name):
                assert attributes[name][1:] in ids
    assert "default-src 'none'" in text


def test_semantics(checked):
    headings = [int(tag[1]) for tag, _ in checked.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(headings))
    assert all(attributes.get("scope") in ("row", "col") for attributes in checked.all("th"))
    for attributes in checked.all("svg"):
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 20
    named = {
        attributes["aria-labelledby"]
        for attributes in checked.all("section")
        if "aria-labelledby" in attributes
    }
    assert named <= {attributes.get("id") for _, attributes in checked.elements}
    assert checked.all("html")[0]["lang"] == "en"


def test_main_table_is_the_summarys(run, checked):
    _, summary = run
    expected = [
        [cell.text + cell.interval for cell in (column.cell(policy) for column in columns(summary))]
        for policy in summary.policies
    ]
    assert checked.tables[0][1:] == expected


def test_answers_are_escaped(text, checked):
    assert HOSTILE not in text
    assert ">&lt;</span>" in text
    assert len(checked.all("script")) == 1


def test_everything_else_is_escaped(run):
    results, summary = run
    evil = '"><script>x</script>'
    settings = {evil: evil}
    described = replace(
        results.run,
        task=evil,
        questions=[replace(q, id=q.id, prompt=evil, reference=evil) for q in results.run.questions],
        policies=[
            replace(p, name=evil, parameters=settings, options=settings)
            for p in results.run.policies
        ],
        options=settings,
        target=settings,
        draft=settings,
        grader=settings,
        machine=settings,
        versions=settings,
        command=evil,
        date=evil,
        note=evil,
    )
    answers = [
        replace(a, answer=evil, error=evil, finish_reason=evil, votes={evil: 2})
        for a in results.answers
    ]
    groups = {evil: summary.policies[0].accuracy}
    policies = [
        replace(p, label=evil if not p.is_reference else p.label, name=evil, groups=groups)
        for p in summary.policies
    ]
    everywhere = replace(
        summary,
        policies=policies,
        task=evil,
        target=evil,
        draft=evil,
        recommendation=evil,
        notes=[evil],
        command=evil,
        date=evil,
    )
    answers = [replace(a, policy=evil) if a.policy == "steps" else a for a in answers]
    made = built(records.Results(described, answers, None), everywhere)
    assert "<script>x" not in made
    assert made.count("&lt;script&gt;x") > 50


def test_same_page_each_time(run, text):
    assert built(*run) == text


def test_changes(run):
    results, summary = run
    found = {changes.label: changes for changes in policy_changes(results, summary)}
    assert list(found) == [p.label for p in summary.policies[1:]]
    for policy in summary.policies[1:]:
        changes = found[policy.label]
        assert changes.gained == sum(policy.difference.gained)
        assert changes.lost == sum(policy.difference.lost)
        assert len(changes.shown) == min(50, len(policy.changes))
        assert changes.left_out == len(policy.changes) - len(changes.shown)
    assert {change.gained for change in found["draft"].shown} == {True, False}
    answers = {answer.key: answer for answer in results.answers}
    for change in found["steps"].shown:
        for side in (change.mine, change.theirs):
            answer = answers[side.label, change.question, change.seed]
            assert "".join(piece.text for piece in side.pieces) == answer.text
            assert side.right == answer.right
        assert change.mine.right == change.gained != change.theirs.right
        assert sum(piece.diverges for piece in change.mine.pieces) == 1
    origins = {piece.origin for change in found["steps"].shown for piece in change.mine.pieces}
    assert origins == {"draft", "target"}
    pieces = [piece for change in found["steps"].shown for piece in change.mine.pieces]
    assert all("tolerated" in piece.tip for piece in pieces if piece.accepted_mismatches)
    assert any(piece.accepted_mismatches for piece in pieces)


def test_where_two_answers_part(run):
    results, summary = run
    change = next(
        change
        for found in policy_changes(results, summary)
        if found.label == "draft"
        for change in found.shown
        if change.question == "boxes-000"
    )
    index = next(i for i, piece in enumerate(change.mine.pieces) if piece.diverges)
    before = [
        "".join(piece.text for piece in side.pieces[:index])
        for side in (change.mine, change.theirs)
    ]
    assert before[0] == before[1]
    assert change.mine.pieces[index].text == "<"
    assert change.theirs.pieces[index].text == "After"
    assert (
        f"They first differ at token {index + 1}: draft has '<' (draft: accepted" in change.parting
    )


def test_tokens_that_are_parts_of_characters(run, tmp_path):
    """What is shown is always the answer's own text, whatever its tokens look like alone."""
    results, summary = run
    texts = {"target": "é is 5", "exact": "é is"}
    tokens = {"target": ["�", "�", " is", " ", "5", "</s>"], "exact": ["�", "�", " is", "</s>"]}
    with (tmp_path / records.TRACES).open("w", encoding="utf-8") as file:
        for label, names in tokens.items():
            line = {
                "policy": label,
                "question": "q",
                "seed": 1,
                "trace": {
                    "tokens": [{"text": t, "origin": "draft", "reason": "accepted"} for t in names],
                    "blocks": [{"position": 1, "accepted_mismatches": [0]}],
                },
            }
            file.write(json.dumps(line) + "\n")
    answers = [
        replace(results.answers[0], policy=label, question="q", seed=1, text=text)
        for label, text in texts.items()
    ]
    exact = replace(summary.policies[2], changes=[Change("q", 1, False)])
    small = replace(summary, policies=[summary.policies[0], exact])
    (found,) = policy_changes(records.Results(results.run, answers, tmp_path), small)
    (change,) = found.shown
    assert [piece.text for piece in change.mine.pieces] == ["é is", ""]
    assert [piece.text for piece in change.theirs.pieces] == ["é is", " ", "5"]
    assert change.mine.pieces[0].accepted_mismatches
    assert change.mine.pieces[-1].shown == "∎"
    assert change.parting.startswith(
        "They first differ at token 2: exact has the end; target has ' '"
    )


def test_without_traces_the_texts_are_shown(run):
    results, summary = run
    bare = records.Results(results.run, results.answers, None)
    made = built(bare, summary)
    assert "no trace" in made
    assert "They first differ at character" in made
    assert '<span class="d"' not in made.split('class="changes"', 1)[1]


def test_many_changes_are_limited(run, monkeypatch):
    results, summary = run
    monkeypatch.setattr(shown_changes, "SIZE", 200_000)
    found = policy_changes(results, summary)
    draft = found[0]
    assert 0 < len(draft.shown) < 50
    made = built(results, summary)
    assert len(made) < 900_000
    assert f"{draft.left_out} more of the {draft.gained + draft.lost} are not shown here" in made


def test_no_grader_no_changes_no_signals(run):
    results, summary = run
    policies = [
        replace(
            p,
            accuracy=None,
            difference=None,
            same_answer=None,
            changes=[],
            signals=[],
            groups={},
            work=replace(p.work, accepted_per_position=[]),
        )
        for p in summary.policies
    ]
    bare = replace(summary, policies=policies, notes=[], recommendation="", draft="lookup")
    ungraded = replace(results.run, graded=False, draft=None)
    made = built(records.Results(ungraded, results.answers, None), bare)
    assert "The task has no grader" in made
    assert "Signals for right" not in made
    assert 'id="controls"' not in made
    assert "looked up in the text" in made


def test_one_policy_and_incomplete(run):
    results, summary = run
    made = built(results, replace(summary, policies=summary.policies[:1], complete=False))
    assert "No grade differs from that of target" in made
    assert "Incomplete" in made


def test_half_a_surrogate_pair_is_written(run, tmp_path):
    results, summary = run
    strange = replace(summary, policies=summary.policies[:1], notes=["half \ud83d"])
    write_report(results, strange, tmp_path)
    assert "half \\ud83d" in (tmp_path / "report.html").read_text(encoding="utf-8")
    notes = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["notes"]
    assert notes == ["half \ud83d"]
