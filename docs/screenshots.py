"""Take pictures of the server's page: light, dark, and as narrow as a phone.

    python docs/screenshots.py http://127.0.0.1:8000 FOLDER [--left cospec] [--right specguard]

It needs a running server, Chromium with its driver, and selenium.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
PICTURES = {
    "light": (1280, 940, "light"),
    "dark": (1280, 940, "dark"),
    "phone": (390, 844, "light"),
    "phone-dark": (390, 844, "dark"),
}


def browser() -> webdriver.Chrome:
    """Chromium with an empty profile, which keeps what scripts log."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in [*FLAGS, f"--user-data-dir={tempfile.mkdtemp(prefix='stet-pictures-')}"]:
        options.add_argument(flag)
    # The driver's path is given, so that selenium looks for none and downloads none.
    service = webdriver.ChromeService(shutil.which("chromedriver") or "chromedriver")
    return webdriver.Chrome(options=options, service=service)


def resize(driver: webdriver.Chrome, width: int, height: int) -> None:
    """The size of the page itself: a window has frames and a least width."""
    size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def picture(driver: webdriver.Chrome, path: Path, *, whole: bool = False) -> None:
    time.sleep(0.4)  # the last frame, and the end of animations
    if whole:
        script = "return [innerWidth, document.documentElement.scrollHeight]"
        resize(driver, *driver.execute_script(script))
        time.sleep(0.2)
    driver.get_screenshot_as_file(str(path))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--left", default="cospec")
    parser.add_argument("--right", default="specguard")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    driver = browser()
    wait = WebDriverWait(driver, 120)
    try:
        for name, (width, height, theme) in PICTURES.items():
            resize(driver, width, height)
            driver.get(arguments.url)
            driver.execute_script(f"localStorage.setItem('stet-theme', '{theme}')")
            driver.refresh()
            wait.until(lambda d: d.find_element(By.ID, "run").is_enabled())
            picture(driver, arguments.folder / f"empty-{name}.png")
            driver.find_elements(By.CSS_SELECTOR, "#examples button")[1].click()
            for side in ("left", "right"):
                choice = driver.find_element(By.ID, f"policy-{side}")
                choice.send_keys(getattr(arguments, side))
            driver.find_element(By.ID, "run").click()
            wait.until(lambda d: not d.find_elements(By.CSS_SELECTOR, ".side[aria-busy=true]"))
            for fold in driver.find_elements(By.CSS_SELECTOR, ".fold")[:1]:
                fold.click()
            marked = driver.find_elements(By.CSS_SELECTOR, "[data-i].stet, [data-i].put")
            if marked:
                driver.execute_script("arguments[0].focus({preventScroll: true})", marked[0])
            picture(driver, arguments.folder / f"answers-{name}.png", whole=True)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
