"""The built site in a headless Chromium, wide and narrow: ``make test-browser``.

Screenshots of some pages are written to the site's folder ``_screenshots``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from tests.browser.chromium import PATIENCE, Browser, find_chromium

SITE = Path(os.environ.get("REFIT_SITE", ""))
WIDE, NARROW = 1400, 400
SHOWN = ("index", "start/rl-researcher", "concepts/estimators", "environments/ReFiT-ML1M-v0", "results")
"""Pages of which screenshots are taken."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("REFIT_SITE" not in os.environ, reason="make test-browser builds the site"),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path, nor named by CHROMIUM"),
]

FACTS = """({
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    links: [...document.querySelectorAll('a[href]')].map(link => link.href),
    images: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
    title: document.title,
})"""


@dataclass(frozen=True)
class Seen:
    """A page as the browser shows it."""

    errors: list[str]
    overflow: int
    links: list[str]
    images: list[str]
    title: str


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Write no log."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pages() -> list[str]:
    """Every page of the site, without its suffix."""
    found = [path.relative_to(SITE).with_suffix("").as_posix() for path in sorted(SITE.rglob("*.html"))]
    return [name for name in found if not name.startswith("_")]


@pytest.fixture(scope="module", params=[WIDE, NARROW], ids=["wide", "narrow"])
def seen(request: pytest.FixtureRequest, browser: Browser, address: str) -> dict[str, Seen]:
    """Every page in a window of one width."""
    out = {}
    for name in pages():
        errors = browser.open(f"{address}/{name}.html", request.param)
        out[name] = Seen(list(errors), **browser.evaluate(FACTS))
        if name in SHOWN:
            browser.screenshot(SITE / "_screenshots" / f"{name.replace('/', '-')}-{request.param}.png")
    return out


def test_no_page_has_an_error_and_every_picture_is_there(seen: dict[str, Seen]) -> None:
    assert len(seen) > 50 and set(SHOWN) <= set(seen)
    assert {name: page.errors for name, page in seen.items() if page.errors} == {}
    assert {name: page.images for name, page in seen.items() if page.images} == {}
    assert [name for name, page in seen.items() if not page.title] == []


def test_no_page_scrolls_sideways(seen: dict[str, Seen]) -> None:
    assert {name: page.overflow for name, page in seen.items() if page.overflow > 0} == {}


def test_links_inside_the_site_lead_to_a_page_and_its_heading(seen: dict[str, Seen], address: str) -> None:
    broken = []
    for name, page in seen.items():
        for link in page.links:
            if not link.startswith(address):
                continue
            place, anchor = urldefrag(link)
            file = SITE / unquote(urlsplit(place).path).lstrip("/")
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file() or (anchor and file.suffix == ".html" and anchor not in anchors(file)):
                broken.append(f"{name}: {link}")
    assert not broken


@cache
def anchors(file: Path) -> frozenset[str]:
    """The places of a page that a link can name."""
    return frozenset({"", *re.findall(r'\bid="([^"]+)"', file.read_text(encoding="utf-8"))})


@pytest.mark.parametrize(("words", "page"), [("racs", "concepts/racs"), ("respacing ddim", "")])
def test_search_finds_pages(browser: Browser, address: str, words: str, page: str) -> None:
    assert browser.open(f"{address}/search.html?q={words.replace(' ', '+')}", WIDE) == []
    end, links = time.monotonic() + PATIENCE, list[str]()
    script = "[...document.querySelectorAll('#search-results li a')].map(link => link.href)"
    while not (links := browser.evaluate(script)) and time.monotonic() < end:
        time.sleep(0.1)
    assert any(page in link for link in links), links
