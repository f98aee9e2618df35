"""The report on the terminal, as Markdown, JSON and CSV: every number is the summary's."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from evaluation.report_example import example
from stet.evaluation.report import markdown, terminal, to_csv, to_json
from stet.evaluation.report.table import columns, estimate_cell, p_value
from stet.evaluation.summary import Estimate, Summary
from stet.pages.words import number


@pytest.fixture(scope="module")
def summary(tmp_path_factory) -> Summary:
    return example(tmp_path_factory.mktemp("run"))[1]


def printed(summary: Summary, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal(summary))
    return console.file.getvalue()


def ungraded(summary: Summary) -> Summary:
    policies = [
        replace(p, accuracy=None, difference=None, same_answer=None, changes=[], groups={})
        for p in summary.policies
    ]
    return replace(summary, policies=policies)


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1.234, ".2f", "1.23"),
        (-1.25, "+.1f", "−1.2"),
        (2.0, "+.1f", "+2.0"),
        (-0.04, "+.1f", "0.0"),
        (0.04, "+.1f", "0.0"),
        (-0.0, ".2f", "0.00"),
        (None, ".2f", "–"),
        (math.nan, ".2f", "–"),
        (math.inf, ".2f", "–"),
    ],
)
def test_numbers(value, form, text):
    assert number(value, form) == text


def test_intervals():
    assert estimate_cell(Estimate(0.8, 0.75, 0.85), ".1f", 100).line == "80.0 (75.0–85.0)"
    assert estimate_cell(Estimate(-0.01, -0.03, 0.01), "+.1f", 100).line == "−1.0 (−3.0, +1.0)"
    assert estimate_cell(Estimate(1.0)).line == "1.00"
    assert estimate_cell(None).line == "–"


def test_p_values():
    assert [p_value(p) for p in (None, 0.0004, 0.0312, 1.0)] == ["–", "<0.001", "0.031", "1.000"]


def test_table_says_what_the_summary_says(summary):
    found = {column.heading: column.cell for column in columns(summary)}
    for policy in summary.policies:
        right = policy.accuracy
        cell = found["accuracy, %"](policy)
        assert cell.text == f"{100 * right.value:.1f}"
        assert cell.interval == f"{100 * right.low:.1f}–{100 * right.high:.1f}"
        assert found["speed-up, times"](policy).text == f"{policy.speed.latency_speedup.value:.2f}"
        assert found["tokens/s"](policy).text == f"{policy.speed.tokens_per_second:.0f}"
        assert found["same text, %"](policy).text == f"{100 * policy.same_text.value:.0f}"
        assert found["failed"](policy).text == str(policy.failed)
        difference = found["difference, points"](policy).text
        if policy.is_reference:
            assert difference == "–"
        else:
            shown = float(difference.replace("−", "-"))
            assert shown == pytest.approx(100 * policy.difference.gain.value, abs=0.0501)
    adjusted = [found["p, adjusted"](policy).text for policy in summary.policies]
    assert adjusted == ["–", "–", "–", "–", "–", "0.100", "0.062", "–"]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_terminal_fits_the_width(summary, width):
    text = printed(summary, width)
    assert max(map(len, text.splitlines())) <= width
    for policy in summary.policies:
        assert policy.label in text
    for said in ("Intervals are at", "Notes", "Recommendation", "1.71", "1.66–1.76"):
        assert said in text


def test_terminal_names_the_columns_it_gives_up(summary):
    wide, hundred, eighty = (printed(summary, width) for width in (160, 100, 80))
    assert "because of the width" not in wide
    assert "(adj.)" in hundred
    assert "tokens/pass" in " ".join(eighty.split("because of the width")[1].split())
    assert "because of the width: throughput" in " ".join(hundred.split())
    # The least important go first: accuracy and speed-up are there to the end.
    assert "75.6–81.8" in printed(summary, 50)


def test_markup_in_a_label_is_text(summary):
    policies = [replace(p, label=f"[red]{p.label}[/]") for p in summary.policies]
    assert "[red]exact[/]" in printed(replace(summary, policies=policies), 160)


def test_markdown(summary):
    text = markdown(summary)
    assert text.startswith("# Comparison on word-problems\n")
    assert (
        "| exact (lossless) | 78.7 (75.6–81.8) | 0.0 (−0.5, +0.5) | – | 1.62 (1.57–1.67) |" in text
    )
    for heading in ("Changes against target", "Notes", "Recommendation", "To repeat it"):
        assert f"\n## {heading}\n" in text
    assert summary.command in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    tables: list[int] = []
    for line, row in enumerate(rows):
        if set(row) <= set("|-: "):
            tables.append(rows[line - 1].count("|"))
            assert row.count("|") == tables[-1]
    assert len(tables) == 4


def test_markdown_escapes(summary):
    strange = "a|b_c<i>`"
    policies = [replace(summary.policies[0], label=strange, parameters={"x": "1|2"})]
    text = markdown(
        replace(summary, policies=policies, notes=["<b>*x*</b>\ny"], command="stet `a` ```")
    )
    assert r"a\|b\_c\<i\>\`" in text
    assert r"- \<b\>\*x\*\</b\> y" in text
    assert r"x=1\|2" in text
    assert "````sh\nstet `a` ```\n````" in text


def test_json_round_trip(summary):
    assert TypeAdapter(Summary).validate_json(to_json(summary)) == summary


def test_json_is_strict(summary):
    strange = replace(summary, cost_ratio=math.inf, machine={"load": math.nan, 1: ("a", object)})
    found = json.loads(to_json(strange), parse_constant=pytest.fail)
    assert found["cost_ratio"] is None
    assert found["machine"]["load"] is None


def test_csv_round_trip(summary):
    rows = list(csv.DictReader(io.StringIO(to_csv(summary))))
    assert [row["policy"] for row in rows] == [p.label for p in summary.policies]
    for row, policy in zip(rows, summary.policies, strict=True):
        assert float(row["accuracy"]) == policy.accuracy.value
        assert float(row["accuracy_low"]) == policy.accuracy.low
        assert float(row["latency_speedup"]) == policy.speed.latency_speedup.value
        assert float(row["seconds"]) == policy.speed.seconds
        assert json.loads(row["parameters"]) == policy.parameters
        accepted = [float(share) for share in filter(None, row["accepted_per_position"].split(";"))]
        assert accepted == policy.work.accepted_per_position
        if policy.difference is None:
            assert row["difference"] == row["p_values"] == ""
        else:
            assert float(row["difference"]) == policy.difference.gain.value
            assert row["gained"] == ";".join(map(str, policy.difference.gained))


def test_without_a_grader(summary):
    bare = ungraded(summary)
    assert not {"accuracy, %", "difference, points", "p, adjusted", "same answer, %"} & {
        column.heading for column in columns(bare)
    }
    assert "75.6–81.8" not in printed(bare, 160)
    assert "Changes against" not in markdown(bare)
    assert next(csv.DictReader(io.StringIO(to_csv(bare))))["accuracy"] == ""


def test_one_policy_and_none(summary):
    for count in (1, 0):
        small = replace(summary, policies=summary.policies[:count], notes=[], recommendation="")
        assert "Notes" not in printed(small, 80)
        assert "Recommendation" not in markdown(small)
        assert len(to_csv(small).splitlines()) == 1 + count
        assert TypeAdapter(Summary).validate_json(to_json(small)) == small


def test_incomplete_is_said(summary):
    part = replace(summary, complete=False)
    for text in (printed(part, 80), markdown(part)):
        assert "Incomplete" in text
    assert "Incomplete" not in markdown(summary)


def test_modelled_speedup_is_shown_where_a_ratio_was_given(summary):
    policies = [replace(p, speed=replace(p.speed, modelled_speedup=2.5)) for p in summary.policies]
    given = replace(summary, policies=policies, cost_ratio=8.0)
    column = next(c for c in columns(given) if c.heading == "modelled, times")
    assert "costing 8 draft passes" in column.meaning
    assert column.cell(policies[0]).text == "2.50"
