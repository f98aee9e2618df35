"""The page against the real server and the bundled pair: what one sends, the other reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.conftest import Page
from served import Served, serving
from stet import load_pair
from stet.core import trace
from stet.pair import Pair
from stet.serve.server import hosts_of
from stet.serve.settings import ServeSettings

pytestmark = pytest.mark.browser

PROBLEM = "Sam has 34 pens. Kai has 12 more pens than Sam. How many pens do they have in all?"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with load_pair(max_batch=4, max_rows=20, profile=False) as pair:
        yield pair


@pytest.fixture(scope="module")
def served(pair: Pair) -> Iterator[Served]:
    with serving(pair, ServeSettings(allow=("all",), hosts=hosts_of("127.0.0.1", ()))) as served:
        yield served


def ask(page: Page, served: Served, left: str, right: str = "") -> None:
    page.open(served.url)
    page.ready()
    page.choose(left, right)
    page.js("document.getElementById('problem').value = arguments[0]", PROBLEM)
    page.one("#run").click()


def test_two_policies_answer(page: Page, served: Served, tmp_path: Path):
    page.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    ask(page, served, "exact", "target")
    page.settled()
    assert page.texts(".status") == ["finished", "finished"]
    assert page.all_in(0) == page.all_in(1)
    assert "Both texts are the same." in page.text("#verdict")
    assert page.all(".side .failure:not([hidden])") == []
    page.all(".save")[0].click()
    path = tmp_path / "stet-traces.jsonl"
    page.until(path.exists)
    exact, target = trace.read(path)
    assert exact.text == target.text
    assert page.texts(".numbers dd")[0] == str(exact.counters.emitted_tokens)


@pytest.mark.parametrize("policy", ["cospec", "specguard", "cascade", "draft"])
def test_other_kinds_of_policies_answer(page: Page, served: Served, policy: str):
    ask(page, served, policy)
    page.settled()
    assert page.text(".status") == "finished"
    assert page.all_in(0)[-1] == "<|end|>"
    for fold in page.all(".fold"):
        fold.click()
    assert page.all(".side .failure:not([hidden])") == []


def test_every_parameter_on_offer_can_be_sent(page: Page, served: Served):
    """With its default, typed as it is shown."""
    page.open(served.url)
    page.ready()
    for policy in ("specguard", "top-k", "cascade", "ensemble"):
        page.choose(policy)
        page.js(
            "for (const f of document.querySelectorAll('.choice input'))"
            " if (f.placeholder !== 'none') f.value = f.placeholder;"
            "document.getElementById('problem').value = '1 + 1?';"
            "document.getElementById('max-tokens').value = '4'"
        )
        page.one("#run").click()
        page.settled()
        assert page.texts(".side .failure")[0] == "", policy


def test_a_value_that_is_refused_is_told_of(page: Page, served: Served):
    page.open(served.url)
    page.ready()
    page.choose("top-k")
    page.js("document.querySelector('.choice details').open = true")
    page.one(".choice input").send_keys("0")
    page.one("#problem").send_keys("x")
    page.one("#run").click()
    page.settled()
    assert page.one(".side .failure").text.startswith("k is 0")


def test_stopping_frees_the_rows(page: Page, served: Served):
    ask(page, served, "target", "exact")
    page.js("document.getElementById('stop').click()")  # long before their ends
    page.settled()
    assert page.texts(".status") == ["stopped", "stopped"]
    assert served.idle()


def test_the_key_is_sent(page: Page, pair: Pair):
    settings = ServeSettings(allow=("all",), api_key="secret", hosts=hosts_of("127.0.0.1", ()))
    with serving(pair, settings) as served:
        page.open(served.url)
        page.until(lambda: page.one("#key-form").is_displayed())
        page.one("#key").send_keys("secret\n")
        page.ready()
        page.one("#problem").send_keys(PROBLEM)
        page.one("#run").click()
        page.settled()
        assert set(page.texts(".side:not([hidden]) .status")) <= {
            "finished",
            "at its limit of tokens",
        }
        page.js("sessionStorage.clear()")
