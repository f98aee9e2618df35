"""The report page: whole, the same each time, escaped, in words that the label source allows."""

import html
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner

from calibration.report_example import example
from stet.calibration.choosing import Wish
from stet.calibration.label_source import LABEL_SOURCES, TARGETS_ANSWER, TARGETS_TEXT
from stet.calibration.report import page, terminal, write_page
from stet.calibration.report.plots import plots
from stet.calibration.report.words import best_first, label, outlook, role
from stet.calibration.result import Calibration
from stet.cli import app
from stet.core.errors import OptionError

GOALS = [
    Wish("accuracy"),
    Wish("speed", 0.8),
    Wish("keep", 0.5),
    Wish("latency", 0.4),
    Wish("risk", 0.1),
]


class Tags(HTMLParser):
    """All start tags, and the text of every table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def found():
    return example()


@pytest.fixture(scope="module")
def text(found):
    return page(found)


def words_of(text: str) -> str:
    shown = re.sub(r"<style>.*?</style>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def test_the_page_needs_nothing_else(text):
    tags = Tags(text).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags:
        assert tag not in ("link", "img", "iframe", "object", "script")
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
            if attributes.get(name):
                assert attributes[name][1:] in ids
    assert "default-src 'none'" in text
    assert len(text) < 1_000_000


def test_the_page_says_what_was_asked_chosen_and_claimed(found, text):
    words = words_of(text)
    assert "10.0% of new problems get their first error from an accepted draft step" in words
    assert "Threshold 0.4 on a score of min_logprob (0.70), max_entropy (0.30)" in words
    assert found.claim in words
    assert "The policy is lossy" in words
    assert "2.0% lead to the right answer where the target's own do not, and 15.0%" in words
    assert "expect speed, not accuracy" in words
    # Signals as they are meant, the best first, with the reason why some are left out.
    assert re.search(r"min_logprob 0\.910 0\.860 to 0\.950 0\.900 weight 0\.70", words)
    assert re.search(r"less max_entropy 0\.880 0\.830 to 0\.920 0\.850 weight 0\.30", words)
    assert re.search(r"mean_logprob .{0,40}left out: it adds nothing to the others", words)
    assert re.search(r"grounding .{0,40}left out: here it ranks steps the wrong way", words)
    # Thresholds with what the bound rests on.
    assert re.search(r"0\.4 \(chosen\) 87\.0% 0\.260 61\.0% 7 of 200 0\.000", words)
    assert "so the bar is 0.013" in words
    for fact in ("stet calibrate --risk 0.1", "a processor", "2.13", "c0ffee", "Two small models."):
        assert fact in words
    assert f"{found.reliability.error:.3f}" in words


def test_the_outlook_follows_what_steps_and_thresholds_showed():
    found = example()
    more = replace(found.chosen, right=found.references["target"].right + 10)
    assert "gave 5.0 points more right answers" in outlook(replace(found, chosen=more))
    earlier = {k: v for k, v in found.task.items() if k not in ("saving", "misleading")}
    assert outlook(replace(found, task=earlier)) == ""
    assert outlook(example(label_source=TARGETS_ANSWER)) == ""


def test_the_same_page_each_time(found, text):
    assert page(found) == text
    assert page(example()) == text


@pytest.mark.parametrize("goal", GOALS, ids=lambda w: w.goal)
def test_every_goal_has_its_words_and_plots(goal):
    made = example(goal)
    names = [p.name for p in plots(made)]
    risk = ["risk"] if goal.goal == "risk" else []
    assert names == ["signals", "reliability", "thresholds", "frontier", *risk]
    for picture in plots(made):
        root = ElementTree.fromstring(picture.inline())
        assert root.get("aria-label").startswith(picture.title)
        assert "$" not in picture.svg()
    text = page(made)
    assert ("Risk was not measured" in text) == (not risk)
    assert "Request." in text


@pytest.mark.parametrize("goal", GOALS[::2], ids=lambda w: w.goal)
@pytest.mark.parametrize("label_source", [TARGETS_ANSWER, TARGETS_TEXT], ids=lambda y: y.name)
def test_without_right_answers_nothing_is_called_right(goal, label_source):
    made = example(goal, label_source)
    words = words_of(page(made))
    console = Console(width=100, file=None, record=True, force_terminal=False)
    with console.capture() as shown:
        console.print(terminal(made))
    for said in (words, " ".join(shown.get().split())):
        assert label_source.note in said
        rest = said.replace(label_source.note, "")
        assert "as the target" in rest
        assert not re.search(r"\bright\b(?! way)|\brightly\b|first error|accuracy, %", rest), rest
    if goal.goal == "risk":
        assert "disagrees with the target" in words
        assert "the first disagreement with the target of its solution is an accepted step" in words


def test_everything_is_escaped(found):
    evil = '"><script>x</script>'
    made = replace(
        found,
        claim=evil,
        command=evil,
        date=evil,
        policy=evil,
        task={**found.task, "name": evil, "labels": evil, "note": evil},
        parameters={**found.parameters, "pair": evil},
        target={evil: evil},
        draft={evil: evil},
        machine={evil: evil},
        versions={evil: evil},
        qualities=[replace(q, name=evil) for q in found.qualities],
    )
    text = page(made)
    assert "<script" not in text
    assert text.count("&lt;script&gt;x") > 15


def test_signals_are_shown_as_they_are_meant(found):
    shown = best_first(found)
    assert [label(q) for q in shown] == [
        "min_logprob",
        "less max_entropy",
        "mean_logprob",
        "grounding",
        "score",
    ]
    assert shown[1].low == pytest.approx(0.83)
    assert shown[1].high == pytest.approx(0.92)
    assert role(found, shown[-1]) == "the fitted score itself"


def test_a_calibration_is_read_back_as_it_was(found, tmp_path):
    path = tmp_path / "mine.json"
    found.save(path)
    again = Calibration.load(path)
    assert asdict(again) == asdict(found)
    assert page(again) == page(found)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 1}, "version 1, not 2"),
        ({"points": "none"}, "not a calibration"),
        ({"label_source": "yes"}, "there is no label source 'yes'"),
    ],
)
def test_other_files_are_refused_in_a_sentence(found, tmp_path, change, sentence):
    path = tmp_path / "mine.json"
    found.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(OptionError, match=sentence):
        Calibration.load(path)
    path.write_text("[")
    with pytest.raises(OptionError, match="holds no calibration"):
        Calibration.load(path)
    with pytest.raises(OptionError, match="cannot be read"):
        Calibration.load(tmp_path / "nothing.json")


def test_the_page_is_written_again_without_running_anything(found, tmp_path, monkeypatch):
    monkeypatch.setattr("stet.cli.options.load", lambda *_, **__: pytest.fail("loaded a model"))
    path = tmp_path / "mine.json"
    found.save(path)
    result = CliRunner().invoke(app, ["calibrate", "--from", str(path)])
    assert result.exit_code == 0, result.output
    assert "AUROC" in result.stdout
    assert (tmp_path / "mine.html").read_text() == page(found)

    words = ["calibrate", "--from", str(path), "--report", str(tmp_path / "a" / "b.html"), "--json"]
    result = CliRunner().invoke(app, words)
    assert json.loads(result.stdout)["claim"] == found.claim
    assert (tmp_path / "a" / "b.html").exists()

    (tmp_path / "mine.html").unlink()
    CliRunner().invoke(app, ["calibrate", "--from", str(path), "--no-report"])
    assert not (tmp_path / "mine.html").exists()


def test_a_name_for_every_label_source():
    assert {y.name for y in LABEL_SOURCES.values()} == set(LABEL_SOURCES)


def test_half_a_surrogate_pair_is_written(found, tmp_path):
    write_page(replace(found, command="half \ud83d"), tmp_path / "page.html")
    assert "half \\ud83d" in (tmp_path / "page.html").read_text(encoding="utf-8")
