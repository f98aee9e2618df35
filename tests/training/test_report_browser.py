"""The page of a training in a real browser: nothing in the console, nothing cut off."""

from evaluation import browser
from stet.training.report import write_page
from training.record_example import example

pytestmark = browser.NEEDED


def test_page(tmp_path):
    path = tmp_path / "page.html"
    write_page(example(), path)
    with browser.Page(path) as page:
        assert page.run("document.querySelectorAll('.plot svg').length") == 4
        for width in (1280, 390):
            page.resize(width)
            assert page.run("document.documentElement.scrollWidth - innerWidth") <= 0
        page.resize(1280)
        assert page.run(browser.OUTSIDE) == []
        assert page.errors == []
