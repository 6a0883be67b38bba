"""The site as it is built: links, what a browser says to it, and the search."""

from __future__ import annotations

import functools
import html
import http.server
import os
import re
import subprocess
import sys
import threading
from urllib.parse import unquote, urlsplit

import pytest
from browser import browser, missing, requested
from pages import ROOT

needs_browser = pytest.mark.skipif(missing() is not None, reason=str(missing()))
SHOWN = ["index.html", "theory/objective.html", "reference/config.html", "howto/reports.html", "results/blueprint.html"]
ENVIRONMENT = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
SEARCHES = {"tau_cql": "reference/config", "cql_residual": "reference/metrics", "runs off": "trouble"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The site's address on a server of this machine: browsers start no search on pages from the disk."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Page:
    """The links, pictures and anchors of a page. By patterns: Python's own parser takes longer than the build."""

    TAG = re.compile(r"<(\w+)\s([^<>]*\b(?:id|name|href|src)=[^<>]*)>")
    ATTRIBUTE = re.compile(r"""([\w-]+)=(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")

    def __init__(self, text):
        self.targets, self.anchors, self.without_text, self.foreign = [], set(), [], []
        self.is_report = "md-container" not in text  # of scripts/report.py: it links to its runs' folders
        for tag, written in self.TAG.findall(text):
            self._add(tag, {name: html.unescape("".join(value)) for name, *value in self.ATTRIBUTE.findall(written)})

    def _add(self, tag, found):
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        target = found.get("href") if tag in ("a", "link") else found.get("src")
        if target:
            self.targets.append(target)
            if tag != "a" and urlsplit(target).netloc:  # what a browser loads by itself
                self.foreign.append(target)
        if tag == "img" and not found.get("alt"):
            self.without_text.append(found.get("src"))


@functools.cache
def parsed(path):
    return Page(path.read_text(encoding="utf-8"))


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    assert sum(len(parsed(path).targets) for path in site.rglob("*.html")) > 10_000  # menus have hundreds on each page
    for path in site.rglob("*.html"):
        page = parsed(path)
        assert not page.foreign, f"{path.relative_to(site)} loads {page.foreign}"
        assert not page.without_text, f"{path.relative_to(site)}: pictures without a text: {page.without_text}"
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or path.name == "404.html" or page.is_report:
                continue
            linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert linked.exists(), f"{path.relative_to(site)} links to {target}"
            if parts.fragment and linked.suffix == ".html":
                anchors = parsed(linked).anchors
                assert unquote(parts.fragment) in anchors or parts.fragment.startswith("__"), (
                    f"{path.relative_to(site)} links to {target}"
                )


def is_own(path):
    """Whether a page is no copy of a file of the repository."""
    return "repository" not in path.parts and path.name != "404.html"


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (420, False), (420, True)])
def test_a_browser_shows_the_pages_without_a_complaint(site, address, tmp_path, width, dark):
    names, place = SHOWN, address
    if (width, dark) == (
        420,
        False,
    ):  # all pages, from the disk, where no time goes into a search, which needs a server
        names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if is_own(path))
        place = site.as_uri()
        assert len(names) > 40
    with browser(width=width, dark=dark) as driver:
        for name in names:
            driver.get(f"{place}/{name}")
            expected = ("favicon", f"{site.as_uri()}/search/")
            complaints = [
                line for line in driver.get_log("browser") if not any(part in line["message"] for part in expected)
            ]
            assert not complaints, complaints
            scheme = driver.execute_script("return document.body.getAttribute('data-md-color-scheme')")
            assert scheme == ("slate" if dark else "default")
            overflow = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, f"{name} is {overflow} pixels wider than a window of {width}"
        loaded = requested(driver)
        assert loaded, "the log of the browser is empty"
        assert all(url.startswith((place, "data:", "blob:")) for url in loaded), loaded


@needs_browser
def test_the_search_finds_a_key_a_metric_and_a_finding(address):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with browser() as driver:
        for words, wanted in SEARCHES.items():
            driver.get(f"{address}/index.html?q={words}")
            WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".md-search-result__link"))
            found = driver.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
            links = [link.get_attribute("href") for link in found]
            assert any(wanted in link for link in links), (words, links)


@needs_browser
def test_formulas_are_drawn_and_code_stands_beside_them(address):
    with browser() as driver:
        driver.get(f"{address}/theory/objective.html")
        heights = driver.execute_script(
            "return [...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)"
        )
        assert len(heights) > 5
        assert min(heights) > 5
        loaded = "[...document.fonts].filter(font => font.status == 'loaded').map(font => font.family).join()"
        assert "STIX Two Math" in driver.execute_script(f"return {loaded}")
        assert not driver.execute_script("return document.body.innerText.includes('\\\\frac')")
