"""The page of a calibration in a real browser: nothing in the console, nothing cut off."""

from calibration.report_example import example
from evaluation import browser
from stet.calibration.report import write_page

pytestmark = browser.NEEDED


def test_page(tmp_path):
    path = tmp_path / "page.html"
    write_page(example(), path)
    with browser.Page(path) as page:
        assert page.run("document.querySelectorAll('.plot svg').length") == 5
        assert page.run("document.scripts.length") == 0
        for width in (1280, 390):
            page.resize(width)
            assert page.run("document.documentElement.scrollWidth - innerWidth") <= 0
        page.resize(1280)
        # Every text of every plot lies inside its picture.
        assert page.run(browser.OUTSIDE) == []
        page.run("document.querySelectorAll('details.data:not([open]) summary')[0].click()")
        assert page.run("document.querySelectorAll('details.data:not([open])').length") == 0
        light = page.run("getComputedStyle(document.body).backgroundColor")
        page.media(scheme="dark")
        dark = page.run("getComputedStyle(document.body).backgroundColor")
        assert light == "rgb(255, 255, 255)" != dark
        plot = "getComputedStyle(document.querySelector('.plot')).backgroundColor"
        assert page.run(plot) == "rgb(255, 255, 255)"
        assert page.errors == []
