"""What the page knows of a run, without a document: its functions are asked in the browser."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from browser.conftest import Page
from browser.fake import recorded
from stet.core import trace as traces

TRACES = recorded()


def test_the_recorded_traces_are_traces_of_today(tmp_path: Path):
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(t) + "\n" for t in TRACES.values()), encoding="utf-8")
    assert len(traces.read(path)) == len(TRACES)


@pytest.mark.browser
class TestModel:
    @pytest.fixture
    def page(self, page: Page) -> Page:
        page.open()
        return page

    @pytest.mark.parametrize("name", ["exact", "target", "draft", "top-k", "cospec", "ensemble"])
    def test_passes_are_those_that_were_counted(self, page: Page, name: str):
        counters = TRACES[name]["counters"]
        found = page.module("model.rounds(model.runOfTrace(a))", TRACES[name])
        assert sum(r["target"] for r in found) == counters["target_passes"]
        assert sum(r["drafted"] for r in found) == counters["draft_passes"]
        assert found[0]["from"] == 0
        assert all(a["until"] <= b["from"] + 1e-9 for a, b in pairwise(found))
        assert found[-1]["until"] == pytest.approx(TRACES[name]["seconds"])

    @pytest.mark.parametrize("name", list(TRACES))
    def test_tokens_are_the_text(self, page: Page, name: str):
        found = page.module("model.runOfTrace(a)", TRACES[name])
        assert "".join(found["shown"]).removesuffix("<|end|>") == TRACES[name]["text"]

    @pytest.mark.parametrize("name", ["exact", "specguard", "overrule"])
    def test_a_stream_ends_where_its_trace_does(self, page: Page, name: str):
        """In pieces of one token a run comes to the same state as all at once."""
        script = """(() => {
          const whole = model.runOfTrace(a);
          const run = model.createRun({policy: "x"});
          a.tokens.forEach((token, i) => model.addPiece(run, {
            text: i < a.tokens.length - 1 ? token.text : "",
            tokens: [token],
            blocks: a.blocks.filter((b) => b.position === i),
            steps: a.steps.filter((s) => s.position + s.tokens - 1 === i),
          }));
          model.endRun(run, {trace: a});
          const struck = (r) => [...r.struck].map(([i, s]) => [i, s.count]);
          const seen = (r) => [r.shown, [...r.ends], r.blockOf, r.stepOf, struck(r)];
          return [seen(whole), seen(run)];
        })()"""
        whole, run = page.module(script, TRACES[name])
        assert whole == run

    def test_events_are_read_whatever_ends_their_lines(self, page: Page):
        found = page.driver.execute_async_script(
            "const done = arguments[0]; import('/page/api.js').then(({EventReader}) => {"
            "const r = new EventReader(), found = [];"
            "for (const byte of new TextEncoder().encode("
            "': hello\\r\\n\\r\\ndata: é🙂\\r\\n\\r\\n"
            "event: x\\ndata:a\\ndata: b\\n\\ndata: c\\n'))"
            " found.push(...r.push(new Uint8Array([byte]))); done(found) })"
        )
        assert found == ["é🙂", "a\nb"]

    @pytest.mark.parametrize(
        ("p", "text"),
        [(None, "–"), (0, "0.0 %"), (1, "100.0 %"), (1e-9, "< 0.1 %"), (0.99999, "> 99.9 %")],
    )
    def test_probabilities_that_are_not_certain_do_not_look_so(self, page: Page, p, text: str):
        assert page.module("model.percent(a)", p) == text

    def test_what_cannot_be_seen_is_written_out(self, page: Page):
        assert page.module("model.quoted(a)", "a\n\u200b\u202e") == "“a↵\\u{200b}\\u{202e}”"

    def test_records_of_any_numbers_end(self, page: Page):
        """A file may say anything; the page must not hang on it."""
        wild = TRACES["exact"] | {
            "blocks": [
                {"position": p, "drafted": [], "accepted": 0, "next_token": None}
                for p in (0, 0, 7, 2**40)
            ]
        }
        assert page.module("model.rounds(model.runOfTrace(a)).length", wild) > 0
