"""One Chromium for all tests, and a server for each."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser.fake import Server, serving

SCREENSHOTS = Path(__file__).parents[2] / "docs" / "screenshots.py"


class Page:
    """The page in the browser, with what the tests do to it in one line each."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver = driver
        self.server = server

    def open(self, url: str | None = None) -> None:
        self.driver.get(url or self.server.url)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def module(self, script: str, *arguments: Any) -> Any:
        """What an expression of the page's model gives; arguments are `a`, `b`."""
        text = (
            "const [a, b, done] = arguments.length > 2 ? arguments : "
            "[arguments[0], null, arguments[arguments.length - 1]];"
            "import(new URL('page/model.js', document.baseURI)).then(async (model) => {"
            f"done({{value: {script}}}) }}).catch((e) => done({{error: e.message}}));"
        )
        found = self.driver.execute_async_script(text, *arguments)
        if "error" in found:
            raise ValueError(found["error"])
        return found["value"]

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )

    def until(self, what: Callable[[], Any], seconds: float = 20) -> Any:
        """Wait until something holds, and return it."""
        end = time.monotonic() + seconds
        while not (found := what()):
            if time.monotonic() > end:
                raise AssertionError(f"did not come: {what}")
            time.sleep(0.02)
        return found

    def ready(self) -> None:
        self.until(lambda: self.js("return !document.getElementById('run').disabled"))

    def choose(self, left: str, right: str = "") -> None:
        for side, name in (("left", left), ("right", right)):
            self.js(
                "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
                "s.dispatchEvent(new Event('change'))",
                f"policy-{side}",
                name,
            )

    def ask(self, left: str = "exact", right: str = "", problem: str = "1 + 1?") -> None:
        """Open the page and ask; the answer may go on."""
        self.open()
        self.ready()
        self.choose(left, right)
        self.js("document.getElementById('problem').value = arguments[0]", problem)
        self.one("#run").click()

    def settled(self) -> None:
        """Wait for the end of all answers, and for all of it to be drawn."""
        self.until(lambda: self.js("return document.getElementById('stop').hidden"))
        self.frames()

    def answered(self, left: str = "exact", right: str = "") -> None:
        self.ask(left, right)
        self.settled()

    def frames(self, count: int = 3) -> None:
        self.driver.execute_async_script(
            "let n = arguments[0], done = arguments[1];"
            "(function next() { n-- ? requestAnimationFrame(next) : done() })()",
            count,
        )

    def size(self, width: int, height: int = 800) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def drop(self, text: str, name: str = "run.jsonl") -> None:
        self.js(
            "const data = new DataTransfer();"
            "data.items.add(new File([arguments[0]], arguments[1]));"
            "document.body.dispatchEvent(new DragEvent('drop',"
            " {dataTransfer: data, bubbles: true, cancelable: true}))",
            text,
            name,
        )

    def drop_traces(self, *traces: dict[str, Any]) -> None:
        self.drop("".join(json.dumps(trace) + "\n" for trace in traces))
        count = len(traces[0]["tokens"])
        self.until(lambda: len(self.all_in(0)) == count)

    def all_in(self, side: int) -> list[str]:
        """The texts of a side's tokens."""
        return self.js(
            "return [...document.querySelectorAll('.side')[arguments[0]]"
            ".querySelectorAll('[data-i]')].map(e => e.textContent)",
            side,
        )


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("screenshots", SCREENSHOTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.browser()
    made.set_script_timeout(30)
    yield made
    made.quit()


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    with serving() as server:
        made = Page(driver, server)
        made.size(1200)
        driver.get_log("browser")
        yield made
        logged = [entry["message"] for entry in driver.get_log("browser")]
        driver.get("about:blank")  # whatever still streams, ends
    faults = [m for m in logged if "Uncaught" in m or "Content Security Policy" in m]
    assert faults == []
