"""The page in a real browser: nothing in the console, answers open, the filter filters."""

import pytest

from evaluation import browser
from evaluation.report_example import example
from stet.evaluation.report import write_report

pytestmark = browser.NEEDED

SHOWN = "[...document.querySelectorAll('details.change')].filter(c => c.checkVisibility()).length"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    results, summary = example(tmp_path_factory.mktemp("run"))
    folder = tmp_path_factory.mktemp("report")
    write_report(results, summary, folder)
    return folder / "report.html", summary


def choose(page: browser.Page, control: str, value: str) -> None:
    page.run(
        f"(() => {{ const c = document.getElementById('{control}'); c.value = '{value}';"
        "c.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_page(report):
    path, summary = report
    steps = next(p for p in summary.policies if p.label == "steps")
    with browser.Page(path) as page:
        every = page.run(SHOWN)
        assert page.run("document.getElementById('shown-count').textContent") == (
            f"{every} of {every} shown"
        )
        choose(page, "by-policy", "steps")
        assert page.run(SHOWN) == len(steps.changes)
        choose(page, "by-kind", "gained")
        assert page.run(SHOWN) == sum(change.gained for change in steps.changes)
        choose(page, "by-words", "no such words")
        assert page.run(SHOWN) == 0
        choose(page, "by-policy", "")
        choose(page, "by-kind", "")
        choose(page, "by-words", "BOXES-000")
        assert 0 < page.run(SHOWN) < every

        # With the keyboard alone.
        first = "[...document.querySelectorAll('details.change')].find(c => !c.hidden)"
        page.run(f"{first}.querySelector('summary').focus()")
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", code="Enter")
        assert page.run(f"{first}.open")
        assert page.run(f"{first}.querySelectorAll('.sides .text').length") == 2
        assert page.run(f"{first}.querySelector('.x').offsetWidth") > 0
        page.run("document.getElementById('open-all').click()")
        assert page.run("document.querySelectorAll('details.change[open]').length") == page.run(
            SHOWN
        )
        page.run("document.getElementById('close-all').click()")
        assert page.run("document.querySelectorAll('details.change[open]').length") == 0
        assert page.run("document.scripts.length") == 1
        assert page.errors == []


def test_layout(report):
    path, _ = report
    overflow = "document.documentElement.scrollWidth - innerWidth"
    with browser.Page(path) as page:
        # The whole main table fits; on a narrow screen it scrolls by itself, not the page.
        assert (
            page.run("(t => t.scrollWidth - t.clientWidth)(document.querySelector('.wide'))") <= 0
        )
        for width in (1280, 390):
            page.resize(width)
            assert page.run(overflow) <= 0
        light = page.run("getComputedStyle(document.body).backgroundColor")
        page.media(scheme="dark")
        dark = page.run("getComputedStyle(document.body).backgroundColor")
        assert light == "rgb(255, 255, 255)" != dark
        plot = "getComputedStyle(document.querySelector('.plot')).backgroundColor"
        assert page.run(plot) == "rgb(255, 255, 255)"
        page.media("print")
        assert page.run("document.querySelector('nav').checkVisibility()") is False
        assert page.errors == []


def test_without_scripts(report):
    path, _ = report
    with browser.Page(path, scripts=False) as page:
        tree = page.call("DOM.getDocument", depth=1)["root"]["nodeId"]

        def height(selector: str) -> float:
            node = page.call("DOM.querySelector", nodeId=tree, selector=selector)["nodeId"]
            try:
                return page.call("DOM.getBoxModel", nodeId=node)["model"]["height"]
            except AssertionError:  # no box: not shown
                return 0.0

        assert height("#controls") == 0
        assert height("details.change") > 0
        assert height("#main-table") > 100
        assert page.errors == []
