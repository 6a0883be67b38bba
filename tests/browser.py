"""A headless browser: screenshots of a page, its requests, and the messages of its console."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path


def missing():
    """Why there is no browser to test with, None if there is one."""
    if shutil.which("chromium") is None and shutil.which("google-chrome") is None:
        return "no Chromium: apt-get install chromium chromium-driver"
    if shutil.which("chromedriver") is None:
        return "no chromedriver: apt-get install chromium-driver"
    return None


@contextmanager
def browser(*, width=1280, height=1000, dark=False):
    """A Selenium driver that logs all messages of the console and all requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # Not by --window-size: the window of a headless browser has a minimum width.
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def requested(driver):
    """All addresses that were requested since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]


def requests(driver, page):
    """Addresses that were requested since the last call, except the page itself and its data URLs."""
    own = Path(page).resolve().as_uri()
    return [url for url in requested(driver) if url.partition("#")[0] != own and not url.startswith("data:")]


def screenshot(driver, path, *, whole=True):
    """Write the page as a picture, from its top to its end."""
    import base64

    options = {"format": "png", "captureBeyondViewport": whole}
    if whole:
        size = driver.execute_script(
            "return [document.documentElement.clientWidth, document.documentElement.scrollHeight]"
        )
        options["clip"] = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
    Path(path).write_bytes(base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))
