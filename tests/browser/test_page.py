"""The server's page in a browser, against a server that replays recorded traces."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from browser.conftest import Page
from browser.fake import PAGE, TEXTS, recorded

pytestmark = pytest.mark.browser

TRACES = recorded()
ROOT = Path(__file__).parents[2]
AXE = Path(os.environ.get("AXE") or ROOT / ".cache/axe/node_modules/axe-core/axe.min.js")


def shown(trace: dict[str, Any]) -> list[str]:
    """What the tokens of a trace look like: a line feed is the end of a row."""
    return [t["text"].removesuffix("\n") for t in trace["tokens"]]


def trace_of(texts: list[str], text: str | None = None, **changes: Any) -> dict[str, Any]:
    """A trace of tokens with these texts."""
    kind = {"origin": "draft", "reason": "accepted", "p_target": 0.5, "p_draft": None}
    tokens = [{"id": i, "text": t, "top_logprobs": None} | kind for i, t in enumerate(texts)]
    return (
        TRACES["exact"]
        | {"tokens": tokens, "blocks": [], "text": "".join(texts) if text is None else text}
        | changes
    )


def long_trace(count: int = 2000) -> dict[str, Any]:
    """An answer of so many tokens, of which every fifth replaces a rejected one."""
    trace = trace_of([f" word{i}" if i % 12 else f" w{i}.\n" for i in range(count)])
    for token in trace["tokens"][4::5]:
        token |= {"origin": "target", "reason": "recovered"}
    trace["blocks"] = [
        {
            "position": i,
            "drafted": [i, i + 1, i + 2, i + 3, 9, 9],
            "accepted": 4,
            "accepted_mismatches": [],
            "next_token": i + 4,
            "mismatches": [],
        }
        for i in range(0, count, 5)
    ]
    return trace


# Streaming


def test_an_answer_appears_as_it_comes(page: Page):
    page.server.knobs.gate = gate = threading.Semaphore(0)
    page.ask("exact")
    expected = shown(TRACES["exact"])
    for count in (3, 6, 9):
        gate.release()
        page.until(lambda count=count: len(page.all_in(0)) == count)
        assert page.all_in(0) == expected[:count]
        assert page.text(".status") == "writing"
    gate.release(1000)
    page.settled()
    assert page.all_in(0) == expected
    assert page.text(".status") == "finished"
    assert page.server.finished == 1


def test_numbers_rise_while_an_answer_goes_on(page: Page):
    page.server.knobs.gate = gate = threading.Semaphore(4)
    page.ask("target")
    page.until(lambda: page.texts(".numbers dd")[:1] == ["12"])
    assert page.texts(".numbers dd")[1] == "1.00"
    gate.release(1000)
    page.settled()
    assert page.texts(".numbers dd")[0] == "50"


def test_two_policies_answer_side_by_side(page: Page):
    page.answered("exact", "target")
    assert page.texts(".side h2") == ["exact", "target"]
    assert page.all_in(0) == shown(TRACES["exact"])
    assert page.all_in(1) == shown(TRACES["target"])
    assert TRACES["exact"]["text"] == TRACES["target"]["text"]
    ratio = TRACES["target"]["seconds"] / TRACES["exact"]["seconds"]
    verdict = page.text("#verdict")
    assert verdict.startswith(f"{ratio:.2f}×as fast as the target alone")
    assert "Both texts are the same." in verdict
    assert page.texts(".side .tag") == ["lossless", "lossless"]


def test_where_two_texts_part_is_said(page: Page):
    page.answered("top-k", "exact")
    page.one("#verdict button").click()
    assert page.text("#verdict button") == "The texts part at token 1."
    assert page.js("return document.activeElement.dataset.i") == "0"


def test_what_is_asked(page: Page):
    page.open()
    page.ready()
    page.choose("specguard", "target")
    page.js("for (const d of document.querySelectorAll('details')) d.open = true")
    page.one("#problem").send_keys("How many?")
    labels = page.all(".choice .fields label")
    by_name = {a.text.split()[0]: a.find_element("css selector", "*") for a in labels}
    by_name["threshold"].send_keys("0,6")
    by_name["shadow"].send_keys("true")
    page.one("#temperature").send_keys("0.7")
    page.one("#seed").send_keys("11")
    page.one("#run").click()
    page.settled()
    path, body = next(q for q in page.server.questions if len(q[1]["speculation"]) > 2)
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "bundled/target",
        "messages": [{"role": "user", "content": "How many?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 256,
        "temperature": 0.7,
        "seed": 11,
        "speculation": {
            "policy": "specguard",
            "metrics": "trace",
            "threshold": 0.6,
            "shadow": True,
        },
    }


def test_a_prompt_may_be_asked_as_it_is_and_policies_in_turns(page: Page):
    page.open()
    page.ready()
    page.js("document.querySelector('.go details').open = true")
    for field, value in (("#shape", "as it is"), ("#order", "one after the other")):
        page.one(field).send_keys(value)
    page.js("document.querySelector('#problem').value = 'Once'")
    page.server.knobs.gate = gate = threading.Semaphore(1)
    page.one("#run").click()
    page.until(lambda: len(page.all_in(0)) == 3)
    assert [q[1]["prompt"] for q in page.server.questions] == ["Once"]  # the other one waits
    gate.release(1000)
    page.settled()
    assert [q[0] for q in page.server.questions] == ["/v1/completions"] * 2
    assert "shared the machine" not in page.text("#verdict")


@pytest.mark.parametrize("cut", [1, 2, 7])
def test_characters_may_be_cut_anywhere(page: Page, cut: int):
    """Bytes of the stream end inside characters, and so do tokens."""
    texts = ["Zoë", " 数", "\ufffd", "\ufffd", " é", "\ufffd\ufffd", "\n", "ok", "<|end|>"]
    page.server.knobs.traces["exact"] = trace_of(texts, "Zoë 数🙂 é🧮\nok")
    page.server.knobs.cut = cut
    page.server.knobs.per_piece = 2
    page.answered("exact")
    assert page.all_in(0) == ["Zoë", " 数", "🙂", "", " é", "🧮", "", "ok", "<|end|>"]
    assert page.texts("[data-i].end") == ["<|end|>"]


def test_a_token_that_was_shown_changes_when_more_is_known(page: Page):
    """The rest of a character comes later, and so does the block that a token was decided in."""
    trace = trace_of(["\ufffd", "\ufffd", " is", " here"], "🙂 is here")
    trace["blocks"] = [block(0, [0, 1, 9], 2, 2)]
    page.server.knobs.traces["exact"] = trace
    page.server.knobs.late_blocks = True
    page.server.knobs.per_piece = 1
    page.server.knobs.gate = gate = threading.Semaphore(3)
    page.ask("exact")
    page.until(lambda: page.all_in(0)[2:] == [" is"])
    assert page.texts(".answer del") == []
    gate.release(1000)
    page.settled()
    assert page.all_in(0) == ["🙂", "", " is", " here"]
    assert page.js("return document.querySelector('.answer del + .put').textContent") == " is"


def test_tokens_without_their_space_get_it_from_the_text(page: Page):
    page.open()
    page.drop_traces(trace_of(["Two", "words", "here", "</s>"], "Two words here"))
    assert page.all_in(0) == ["Two", " words", " here", "</s>"]


# Marks


def test_rejected_text_is_struck_and_what_replaces_it_marked(page: Page):
    page.answered("exact")
    trace = TRACES["exact"]
    blocks = [b for b in trace["blocks"] if b["accepted"] < len(b["drafted"])]
    assert blocks
    texts = ["".join(TEXTS[i] for i in b["drafted"][b["accepted"] :]) for b in blocks]
    assert page.texts(".answer .line del") == [t.replace("\n", "↵") for t in texts]
    after = "return [...document.querySelectorAll('.answer del + .put')].map(e => +e.dataset.i)"
    assert page.js(after) == [b["position"] + b["accepted"] for b in blocks]
    for origin, name in (("draft", "d"), ("target", "t")):
        count = sum(t["origin"] == origin for t in trace["tokens"])
        assert len(page.all(f".answer .k.{name}")) == count


def test_a_traces_rejected_tokens_are_counted_where_their_text_is_unknown(page: Page):
    page.open()
    page.drop_traces(trace_of(["a", "b"], blocks=[block(0, [7, 8], 0, 1), block(1, [1, 9], 1)]))
    assert page.texts(".answer del") == ["2 drafted"]  # behind the end nothing is rejected


def test_what_one_answer_wrote_names_the_tokens_of_the_other(page: Page):
    page.open()
    page.drop_traces(trace_of(["a"], blocks=[block(0, [1], 0, 0)]), trace_of(["a", "b"]))
    assert page.texts(".answer del") == ["b"]


def block(position: int, drafted: list[int], accepted: int, following: int | None = None):
    return {
        "position": position,
        "drafted": drafted,
        "accepted": accepted,
        "accepted_mismatches": [],
        "next_token": following,
        "mismatches": [],
    }


def test_what_stands_against_the_target_has_dots(page: Page):
    page.answered("top-k")
    expected = [
        i for i, t in enumerate(TRACES["top-k"]["tokens"]) if t["reason"] == "accepted_mismatch"
    ]
    assert expected
    assert page.js(
        "return [...document.querySelectorAll('.answer .stet')].map(e => +e.dataset.i)"
    ) == (expected)
    style = page.js(
        "const s = getComputedStyle(document.querySelector('.answer .stet .w'));"
        "return s.textDecorationLine + s.textDecorationStyle"
    )
    assert style == "underlinedotted"
    assert page.all(".row.has-stet")


def test_marks_can_be_put_away(page: Page):
    page.answered("exact")
    page.one(".legend button").click()
    assert not page.one(".answer del").is_displayed()


# Steps


@pytest.mark.parametrize("late", [False, True])
def test_steps_fold_open(page: Page, late: bool):
    page.server.knobs.late_steps = late
    page.answered("specguard")
    trace = TRACES["specguard"]
    step = trace["steps"][1]
    assert step["decision"] == "rewritten"
    assert page.texts(".decision") == [s["decision"] for s in trace["steps"]]
    heads = "[...document.querySelectorAll('.step-head')]"
    first = "h.nextSibling.querySelector('[data-i]').dataset.i"
    assert page.js(f"return {heads}.map(h => +{first})") == [s["position"] for s in trace["steps"]]
    assert page.all_in(0) == shown(trace)
    fold = page.all(".fold")[1]
    assert fold.get_attribute("aria-expanded") == "false"
    fold.click()
    assert fold.get_attribute("aria-expanded") == "true"
    body = page.text(".step-body")
    for part in [c["text"].strip() for c in step["candidates"]]:
        assert part in body
    for part in step["target_candidates"]:
        assert part.strip() in body
    assert "step rewritten" in body
    assert f"{step['score']:.2f} (threshold {step['threshold']:.2f})" in body
    assert "min logprob" in body
    fold.click()
    assert not page.one(".step-body").is_displayed()
    fold.click()
    assert len(page.all(".step-body")) == 1


def test_a_step_that_is_decided_after_its_tokens_were_shown_gets_its_head(page: Page):
    """Also in the middle of a row, where steps end at no line feed."""
    trace = trace_of(["a ", "b. ", "c ", "d.", "\n"])
    like = TRACES["specguard"]["steps"][-1]
    trace["steps"] = [like | {"position": p, "tokens": n} for p, n in ((0, 2), (2, 3))]
    trace["blocks"] = [block(2, [9], 0, 2)]
    page.server.knobs.traces["specguard"] = trace
    page.server.knobs.late_steps = True
    page.server.knobs.per_piece = 1
    page.server.knobs.gate = gate = threading.Semaphore(1)
    page.ask("specguard")
    order = (
        "return [...document.querySelectorAll('.step-head, .answer .line > *')]"
        ".map((e) => e.matches('.step-head') ? '#' : e.textContent)"
    )
    page.until(lambda: page.js(order) == ["a "])
    gate.release()
    page.until(lambda: page.js(order) == ["#", "a ", "b. "])
    gate.release(2)
    struck = TEXTS.get(9, "·9")
    page.until(lambda: page.js(order) == ["#", "a ", "b. ", struck, "c ", "d."])
    gate.release(1000)
    page.settled()
    assert page.js(order) == ["#", "a ", "b. ", "#", struck, "c ", "d.", ""]
    assert len(page.all(".row")) == 2


def test_a_rewritten_step_shows_what_it_replaces(page: Page):
    page.answered("specguard")
    chosen = [
        s["candidates"][s["chosen"]]["text"].strip()
        for s in TRACES["specguard"]["steps"]
        if s["decision"] == "rewritten"
    ]
    assert page.texts(".step-head > del.step") == chosen


def test_a_step_that_stands_after_all_has_dots(page: Page):
    page.answered("overrule")
    assert page.texts(".stands .decision")[0] == "stands after all"
    first = TRACES["overrule"]["steps"][0]
    assert len(page.all(".answer .stet")) >= first["tokens"]


def test_tokens_that_a_stop_string_took_back_are_not_shown(page: Page):
    trace = trace_of(["a", " b", " STOP", " c"], "a b")
    page.server.knobs.traces["exact"] = trace
    page.server.knobs.last_word = trace_of(["a", " b"])
    page.answered("exact")
    assert page.all_in(0) == ["a", " b"]
    assert page.text(".status") == "finished"


# Looking at tokens


def test_the_mouse_shows_a_tokens_card(page: Page):
    from selenium.webdriver import ActionChains

    page.answered("top-k")
    token = TRACES["top-k"]["tokens"][0]
    ActionChains(page.driver).move_to_element(page.one("[data-i='0']")).perform()
    page.until(lambda: page.one("#card").is_displayed())
    card = page.text("#card")
    assert token["reason"] == "accepted_mismatch"
    for part in (
        f"“{token['text']}”",
        "draft · accepted mismatch",
        "against the target’s own choice",
    ):
        assert part in card
    assert f"{100 * token['p_target']:.1f} %" in card
    assert f"{100 * token['p_draft']:.1f} %" in card
    ActionChains(page.driver).move_to_element(page.one("h1")).perform()
    page.until(lambda: not page.one("#card").is_displayed())


def test_a_tap_keeps_the_card_open(page: Page):
    page.answered("cospec")
    page.one("[data-i='0']").click()
    assert "The arbiter gives the draft’s token" in page.text("#card")
    assert page.js("return document.querySelector('[data-i].looked').dataset.i") == "0"
    page.one("h1").click()
    assert not page.one("#card").is_displayed()


def test_everything_can_be_done_with_keys(page: Page):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def here() -> str | None:
        return page.js("return document.activeElement.dataset.i")

    page.open()
    page.ready()
    while page.js("return document.activeElement.id") != "problem":
        press(Keys.TAB)
    press("2 + 2?")
    while page.js("return document.activeElement.id") != "policy-left":
        press(Keys.TAB)
    press("top")
    while page.js("return document.activeElement.id") != "policy-right":
        press(Keys.TAB)
    press("exa")
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
        Keys.CONTROL
    ).perform()
    page.until(lambda: len(page.all("[data-i]")) > 90)
    page.settled()
    for _ in range(40):
        press(Keys.TAB)
        if here() is not None:
            break
    assert here() == "0"
    assert page.one("#card").is_displayed()
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert here() == "2"
    assert page.js("return document.activeElement.getAttribute('aria-describedby')") == "card"
    press(Keys.ARROW_LEFT)
    assert here() == "1"
    first = next(i for i, t in enumerate(TRACES["top-k"]["tokens"]) if "\n" in t["text"]) + 1
    press(Keys.HOME, Keys.ARROW_DOWN)
    assert here() == str(first)
    press(Keys.ARROW_UP)
    assert here() == "0"
    marked = [i for i, t in enumerate(TRACES["top-k"]["tokens"]) if "mismatch" in t["reason"]]
    press("n")
    assert here() == str(marked[1])
    press(Keys.END)
    assert here() == str(len(TRACES["top-k"]["tokens"]) - 1)
    press(Keys.ESCAPE)
    assert not page.one("#card").is_displayed()


def test_the_time_line_leads_to_tokens(page: Page):
    page.answered("exact")
    assert "passes of the draft" in page.one(".timeline svg").get_attribute("aria-label")
    page.one(".timeline svg").click()  # in the middle
    assert int(page.js("return document.activeElement.dataset.i")) > 0


# What goes wrong


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"refuse": (400, "k is 0; it must be at least 1.")}, "k is 0; it must be at least 1."),
        ({"refuse": (429, "x"), "retry_after": "4"}, "The server is busy; try again in 4 seconds."),
        ({"refuse": (500, "")}, "The server answered with status 500."),
        ({"fail_after": 2}, "The device ran out of memory."),
        ({"break_after": 2}, "The connection ended before the answer did."),
    ],
)
def test_an_error_is_one_sentence(page: Page, knobs: dict[str, Any], sentence: str):
    for name, value in knobs.items():
        setattr(page.server.knobs, name, value)
    page.answered("exact")
    assert page.one(".side .failure").text == sentence
    assert page.text(".status") == "failed"
    assert len(page.all_in(0)) == (6 if "refuse" not in knobs else 0)  # what came, stays
    assert page.one("#run").is_displayed()


def test_an_empty_problem_or_a_wrong_number_is_not_sent(page: Page):
    page.ask("exact", problem=" ")
    assert "There is no problem yet" in page.one("#problem-line").text
    page.js("document.getElementById('problem').value = 'x'")
    page.js("document.getElementById('seed').value = 'one'")
    page.one("#run").click()
    assert page.one("#problem-line").text == "“one” is no number for the seed."
    assert page.server.questions == []


def test_a_server_that_is_gone_is_told_of(page: Page):
    page.open()
    page.ready()
    network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    try:
        page.js("document.getElementById('problem').value = 'x'")
        page.one("#run").click()
        page.settled()
        assert "The server cannot be reached" in page.one(".side .failure").text
    finally:
        on = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", on)


def test_stop_frees_the_server(page: Page):
    page.server.knobs.stall_after = 3
    page.ask("exact", "target")
    page.until(lambda: len(page.all("[data-i]")) == 18)
    page.one("#stop").click()
    page.until(lambda: page.server.aborted == 2)
    page.settled()
    assert page.texts(".status") == ["stopped", "stopped"]
    assert len(page.all("[data-i]")) == 18
    assert page.js("return document.activeElement.id") == "run"


def test_a_stream_that_says_nothing_is_noticed(page: Page):
    page.server.knobs.stall_after = 1
    page.ask("exact")
    page.until(lambda: "nothing new for" in page.text(".status"))
    page.one("#stop").click()


def test_a_key_is_asked_for(page: Page):
    page.server.knobs.key = "secret"
    page.open()
    page.until(lambda: page.one("#key-form").is_displayed())
    assert page.one("#problem-line").text == "The API key is missing or wrong."
    page.one("#key").send_keys("secret\n")
    page.ready()
    assert not page.one("#key-form").is_displayed()
    page.one("#problem").send_keys("x")
    page.one("#run").click()
    page.settled()
    assert page.text(".status") == "finished"
    assert page.js("return localStorage.length + ' ' + sessionStorage.length") == "0 1"
    page.js("sessionStorage.clear()")


# Files


def test_a_trace_file_can_be_opened(page: Page, tmp_path: Path):
    path = tmp_path / "two.jsonl"
    odd = TRACES["exact"] | {"prompt": "a\u2028b"}  # no line ends at U+2028
    text = "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in (odd, TRACES["draft"]))
    path.write_text(text + '{"cut', encoding="utf-8")
    page.open()
    page.one("#file").send_keys(str(path))
    page.until(lambda: len(page.all("[data-i]")) == 100)
    assert page.texts(".side h2") == ["exact", "draft"]
    assert page.one("#prompt").is_displayed()
    page.all(".pick")[1].send_keys("1 of")
    page.until(lambda: page.texts(".side h2") == ["exact", "exact"])


def test_a_trace_file_can_be_dropped(page: Page):
    page.open()
    page.drop_traces(TRACES["specguard"])
    assert page.texts(".side:not([hidden]) h2") == ["specguard"]
    assert page.all_in(0) == shown(TRACES["specguard"])


def test_a_file_takes_the_place_of_a_run(page: Page):
    page.server.knobs.stall_after = 1
    page.ask("exact", "target")
    page.until(lambda: len(page.all("[data-i]")) == 6)
    page.drop_traces(TRACES["specguard"])
    page.until(lambda: page.server.aborted == 2)
    page.settled()
    assert page.texts(".side:not([hidden]) h2") == ["specguard"]
    assert page.text(".status") == "finished"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "There is no trace in this file."),
        ("{", "Line 1 is not JSON."),
        ('{"version": 2}\n', "Line 1 is a trace of version 2"),
        ('{"version": 3}\n', "Line 1 is not a trace of version 3."),
        ("[]\n", "Line 1 is not a trace"),
        ("null\n", "Line 1 is not a trace"),
    ],
)
def test_a_file_that_holds_no_trace_is_refused(page: Page, text: str, sentence: str):
    page.open()
    page.ready()
    page.drop(text, "x.jsonl")
    page.until(lambda: page.one("#problem-line").is_displayed())
    assert page.one("#problem-line").text.startswith(f"x.jsonl: {sentence}")


def test_a_run_is_saved_as_traces_and_as_a_page(page: Page, tmp_path: Path):
    from stet.core import trace

    page.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    evil = TRACES["exact"] | {"prompt": "</script><script>document.title = 'no'</script><!--$&"}
    page.server.knobs.traces["exact"] = evil
    page.answered("exact", "specguard")
    page.all(".save")[0].click()
    path = tmp_path / "stet-traces.jsonl"
    page.until(path.exists)
    assert [t.settings.policy["name"] for t in trace.read(path)] == ["exact", "specguard"]
    page.one("#save-page").click()
    path = tmp_path / "stet-run.html"
    page.until(path.exists)
    page.open(path.as_uri())
    page.until(lambda: len(page.all("[data-i]")) == 96)
    assert page.all_in(1) == shown(TRACES["specguard"])
    assert page.text("#prompt").startswith("</script>")
    assert page.js("return document.title").startswith("Stet")
    assert not page.one("#ask").is_displayed()
    assert page.texts(".save:not([hidden])") == ["Save traces"]
    page.all(".fold")[0].click()
    page.one("[data-i='2']").click()
    assert page.one("#card").is_displayed()


def test_a_page_that_is_saved_holds_all_modules(page: Page):
    page.open()
    names = page.driver.execute_async_script(
        "const done = arguments[0]; import('/page/share.js').then((m) => done(m.MODULES))"
    )
    assert sorted(names) == sorted(p.stem for p in PAGE.glob("*.js") if p.stem != "theme")


# Much text, and evil text


WATCH = """
window.tasks = []; window.added = []; window.removed = 0;
new PerformanceObserver((list) => tasks.push(...list.getEntries().map((e) => e.duration)))
  .observe({type: 'longtask'});
const tokens = (node) => (node.dataset?.i ? 1 : node.querySelectorAll?.('[data-i]').length ?? 0);
new MutationObserver((list) => {
  let count = 0;
  for (const change of list) {
    for (const node of change.addedNodes) count += tokens(node);
    removed += change.removedNodes.length;
  }
  added.push(count);
}).observe(document.querySelector('.answer'), {childList: true, subtree: true});
"""


def test_a_long_answer_stays_smooth(page: Page):
    trace = long_trace()
    page.server.knobs.traces["exact"] = trace
    page.server.knobs.per_piece = 5
    page.open()
    page.ready()
    page.js(WATCH)
    page.choose("exact")
    page.js("document.getElementById('problem').value = 'x'")
    page.one("#run").click()
    page.settled()
    page.until(lambda: len(page.all_in(0)) == 2000)
    added, removed, tasks = page.js("return [added, removed, tasks]")
    assert sum(added) == 2000
    assert removed == 0  # nothing is built twice
    assert max(added) <= 300  # in a frame; times hang on what else the machine does
    assert [t for t in tasks if t > 1500] == []
    page.js("tasks.length = 0; added.length = 0")
    for part in range(1, 9):
        page.js("scrollTo(0, document.documentElement.scrollHeight * arguments[0] / 8)", part)
        page.frames(2)
    assert page.js("return added.length") == 0
    assert [t for t in page.js("return tasks") if t > 1500] == []
    assert page.js("return getComputedStyle(document.querySelector('.row')).contentVisibility") == (
        "auto"
    )


def test_a_long_trace_is_shown_in_frames(page: Page):
    page.open()
    page.js(WATCH)
    page.drop_traces(long_trace())
    added = page.js("return added")
    assert sum(added) == 2000
    assert max(added) <= 300


HOSTILE = [
    "<script>document.title = 'no'</script>",
    "</style><img src=x onerror=\"document.title = 'no'\">",
    "\u202eevil\u202c",
    " שלום עולם",
    " مرحبا",
    "\u200b",
    "\u200d\u2060",
    "\x00\x1b[31m",
    "x" * 10_000,
    " &amp; &lt;b&gt;",
    "${1}`",
    "\n\n\n",
    "a\u0301" * 50,
]


@pytest.mark.parametrize("width", [1200, 360])
def test_hostile_text_is_only_text(page: Page, width: int):
    trace = trace_of(HOSTILE, prompt="<b>x</b>" * 500)
    trace["tokens"][3]["reason"] = "<i>reason</i>"
    trace["settings"] = trace["settings"] | {"policy": {"name": "<u>p</u>" * 20, "x": "<s>" * 200}}
    page.size(width)
    page.open()
    page.drop_traces(trace)
    assert page.all_in(0) == [t.removesuffix("\n") for t in HOSTILE]
    page.js("document.querySelector('[data-i=\"3\"]').focus()")
    assert "<i>reason</i>" in page.text("#card")
    assert page.js("return document.title").startswith("Stet")
    assert page.all(".side img, .side script, .side u, .side s, #card i, #prompt b") == []
    wide = (
        "[...document.querySelectorAll('.line')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
    )
    assert page.js(f"return {wide}.length") == 0  # nothing is cut off at the side
    assert page.js("return document.documentElement.scrollWidth - innerWidth") <= 0


# Sizes, colours, and readers who do not see


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_narrow_page_fits(page: Page, theme: str):
    page.size(360, 700)
    page.open()
    page.js(f"localStorage.setItem('stet-theme', '{theme}')")
    page.answered("specguard", "cospec")
    for fold in page.all(".fold")[:2]:
        page.js("arguments[0].click()", fold)
    page.js("for (const d of document.querySelectorAll('details')) d.open = true")
    page.js("document.querySelector('[data-i]').focus()")
    assert page.js("return document.documentElement.scrollWidth - innerWidth") <= 0
    boxes = (
        "return [...document.querySelectorAll('.side')].map(s => s.getBoundingClientRect().left)"
    )
    left, right = page.js(boxes)
    assert left == right  # one below the other
    background = page.js("return getComputedStyle(document.body).backgroundColor")
    bright = sum(int(x) for x in background.strip("rgb()").split(",")) > 3 * 128
    assert bright == (theme == "light")
    page.js("localStorage.clear()")


def test_colours_follow_the_system_until_they_are_chosen(page: Page):
    def colours() -> str:
        return page.js("return getComputedStyle(document.body).backgroundColor")

    def system(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    system("light")
    page.open()
    light = colours()
    system("dark")
    dark = colours()
    assert light != dark
    page.one("#theme").click()
    assert colours() == light
    page.driver.refresh()
    assert colours() == light
    assert page.one("#theme").get_attribute("aria-label") == "Colours: light"
    system("")
    page.js("localStorage.clear()")


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core; `make test-browser` installs it")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("state", ["empty", "answers", "steps", "failure", "key"])
def test_axe_finds_nothing(page: Page, state: str, theme: str):
    page.open()
    page.js(f"localStorage.setItem('stet-theme', '{theme}')")
    if state == "key":
        page.server.knobs.key = "secret"
    if state == "failure":
        page.server.knobs.fail_after = 4
    if state in {"empty", "key"}:
        page.open()
        page.until(lambda: page.js("return document.readyState") == "complete")
        page.frames(5)
    else:
        page.answered("specguard" if state == "steps" else "exact", "cospec")
        for fold in page.all(".fold"):
            fold.click()
        page.js("for (const d of document.querySelectorAll('details')) d.open = true")
        page.js("document.querySelector('[data-i=\"1\"]').focus()")
    page.js(AXE.read_text(encoding="utf-8"))
    found = page.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then((r) =>"
        " done(r.violations.map((v) => [v.id, ...v.nodes.map((n) => n.html + n.failureSummary)])))"
    )
    page.js("localStorage.clear()")
    assert found == []
