"""The page of ``refit serve`` in a headless Chromium: keyboard, phone, dark mode.

Screenshots are written to the folder that ``REFIT_SCREENSHOTS`` names, else to a temporary one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.cli import main
from refit_env.data import save_dataset, synthesize_checkins
from tests.browser.chromium import PATIENCE, Browser, find_chromium
from tests.shops import write_shop

WIDE, NARROW = 1200, 390

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path, nor named by CHROMIUM"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was fine-tuned from another one, on data whose items have names with markup."""
    folder = tmp_path_factory.mktemp("shop")
    return write_shop(folder, 60, 120, "<i>Film</i> No. {} & more", hidden=16, steps=6) / "tuned"


@pytest.fixture(scope="module")
def serve(run: Path) -> Iterator[Callable[..., str]]:
    """A factory of services: starts ``refit serve``, returns its address."""
    pytest.importorskip("fastapi", reason="the extra serve: pip install -e '.[serve]'")
    started = []

    def start(*words: str, folder: Path = run) -> str:
        where = ["--run", str(folder), "--port", "0", "--device", "cpu"]
        command = [sys.executable, "-m", "agents", "serve", *where]
        process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        return found[0]

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def address(serve: Callable[..., str]) -> str:
    return serve()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("REFIT_SCREENSHOTS")
    return Path(named) if named else tmp_path_factory.mktemp("screenshots")


def wait_for(browser: Browser, script: str) -> Any:
    """The value of a JavaScript expression, once it is true."""
    end = time.monotonic() + PATIENCE
    while not (value := browser.evaluate(script)):
        assert time.monotonic() < end, f"{script} stays {value!r}"
        time.sleep(0.05)
    return value


def press(browser: Browser, key: str, text: str = "") -> None:
    """Press and release a key."""
    codes = {"Enter": 13, "Tab": 9, "ArrowDown": 40, "ArrowLeft": 37, "Backspace": 8, "Escape": 27}
    extra = {"windowsVirtualKeyCode": codes.get(key, 0)}
    kind = "keyDown" if text or key == "Enter" else "rawKeyDown"
    text = "\r" if key == "Enter" else text
    browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text, **extra)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, **extra)


def write(browser: Browser, text: str) -> None:
    """Type a text into the field that has the focus."""
    browser.call("Input.insertText", text=text)


def rows(browser: Browser, name: str) -> list[str]:
    found: list[str] = browser.evaluate(
        f"[...document.querySelectorAll('#{name} .item')].map(n => n.firstChild.data)"
    )
    return found


def opened(browser: Browser, address: str, width: int = WIDE, dark: bool = False) -> None:
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.call("Emulation.setEmulatedMedia", features=scheme)
    assert browser.open(address, width) == []
    wait_for(browser, "document.querySelectorAll('#examples button').length == 3")


def picture(browser: Browser, path: Path) -> None:
    """Write the whole page as a PNG."""
    size = browser.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
    )
    browser.evaluate("new Promise(done => setTimeout(done, 100))")
    browser.screenshot(path)


def test_a_users_list_before_and_after_and_step_by_step(
    browser: Browser, address: str, pictures: Path
) -> None:
    opened(browser, address)
    about = browser.evaluate("document.getElementById('about').textContent")
    assert about.startswith("tuned: diffrec on shop, 60 users, 120 items, 6 steps")
    browser.evaluate("document.getElementById('user').focus()")
    write(browser, "user-07")
    press(browser, "Enter")
    wait_for(browser, "!document.getElementById('result').hidden")
    before, after = rows(browser, "before"), rows(browser, "after")
    assert len(before) == len(after) == 10 and before != after
    assert all(re.fullmatch(r"<i>Film</i> No\. \d+ & more \(sku-\d{3}\)", row) for row in before + after)
    moves = browser.evaluate("document.querySelectorAll('#after .move').length")
    assert moves == sum(row not in before or before.index(row) != place for place, row in enumerate(after))
    assert rows(browser, "step-list") == after
    assert browser.evaluate("document.querySelectorAll('#picture polyline').length") == 10
    browser.evaluate("document.getElementById('step').focus()")
    press(browser, "ArrowLeft")
    assert browser.evaluate("document.getElementById('step-label').textContent") == "List after step 5 of 6"
    assert browser.errors == []
    picture(browser, pictures / "serving-wide.png")


def test_items_are_picked_and_a_list_shown_by_the_keyboard_alone(browser: Browser, address: str) -> None:
    opened(browser, address)
    for _ in range(20):
        press(browser, "Tab")
        if browser.evaluate("document.activeElement.id") == "search":
            break
    assert browser.evaluate("document.activeElement.id") == "search"
    write(browser, "sku-01")
    wait_for(browser, "document.querySelectorAll('#found [role=option]').length == 10")
    press(browser, "ArrowDown")
    press(browser, "Enter")
    write(browser, "no. 42 ")
    wait_for(browser, "document.querySelectorAll('#found [role=option]').length == 1")
    press(browser, "Enter")
    chips = browser.evaluate("[...document.querySelectorAll('#picked button')].map(n => n.ariaLabel)")
    assert chips == [f"Remove <i>Film</i> No. {n} & more (sku-{n:03d})" for n in (11, 42)]
    press(browser, "Backspace")
    assert browser.evaluate("document.querySelectorAll('#picked button').length") == 1
    press(browser, "Tab")
    press(browser, "Tab")
    assert browser.evaluate("document.activeElement.id") == "history-show"
    press(browser, "Enter")
    wait_for(browser, "!document.getElementById('result').hidden")
    assert browser.evaluate("document.getElementById('whose').textContent") == "A new person with 1 item"
    assert browser.evaluate("document.activeElement.id") == "whose"
    assert len(rows(browser, "after")) == 10 and browser.errors == []


def test_a_box_allows_lists_that_repeat_where_the_data_does(
    browser: Browser, address: str, serve: Callable[..., str], tmp_path: Path, pictures: Path
) -> None:
    opened(browser, address)
    assert browser.evaluate("document.getElementById('repeats-part').hidden")
    save_dataset(synthesize_checkins(seed=0), tmp_path / "visits")
    settings = ["--backbone", "linear", "--backbone-options", "recency=reciprocal", "repeat=3.0"]
    data = ["--data", str(tmp_path / "visits"), "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["pretrain", *data, *settings]) == 0
    opened(browser, serve(folder=tmp_path / "run"))
    browser.evaluate("document.querySelector('#examples button').click()")
    wait_for(browser, "!document.getElementById('result').hidden")
    once, known = rows(browser, "after"), "document.getElementById('known').textContent"
    assert "left out of the lists" in browser.evaluate(known)
    browser.evaluate("document.getElementById('repeats').focus()")
    press(browser, " ", " ")
    wait_for(browser, f"{known}.includes('which the lists may hold')")
    again = rows(browser, "after")
    assert again != once and len(again) == len(once) == 10
    assert any(row in browser.evaluate(known) for row in again) and browser.errors == []
    picture(browser, pictures / "serving-repeats.png")


def test_an_unknown_user_is_named_and_the_page_goes_on(browser: Browser, address: str) -> None:
    opened(browser, address)
    browser.evaluate("document.getElementById('user').focus()")
    write(browser, "nobody")
    press(browser, "Enter")
    wait_for(browser, "document.getElementById('error').textContent")
    words = browser.evaluate("document.getElementById('error').textContent")
    assert words == "unknown user 'nobody': 'shop' has 60 users, from 'user-00' to 'user-59'"
    browser.evaluate("document.querySelector('#examples button').click()")
    wait_for(browser, "!document.getElementById('result').hidden")
    assert browser.evaluate("document.getElementById('error').textContent") == ""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW], ids=["wide", "phone"])
def test_nothing_scrolls_sideways_and_text_has_contrast(
    browser: Browser, address: str, pictures: Path, width: int, dark: bool
) -> None:
    opened(browser, address, width, dark)
    browser.evaluate("document.querySelector('#examples button').click()")
    wait_for(browser, "!document.getElementById('result').hidden")
    assert (
        browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    )
    for selector in (
        "#about",
        "#known",
        "#after .item",
        "#after .score",
        "button.main",
        ".move",
        "#before h2, h2",
    ):
        ratio = browser.evaluate(CONTRAST % json.dumps(selector))
        assert ratio is None or ratio >= 4.5, (selector, ratio)
    picture(browser, pictures / f"serving-{width}-{'dark' if dark else 'light'}.png")


def test_a_token_is_requested_once(browser: Browser, serve: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    address = serve("--token-file", str(tmp_path / "token"))
    browser.open(address, WIDE)
    wait_for(browser, "!document.getElementById('token-form').hidden")
    assert browser.evaluate("document.activeElement.id") == "token"
    write(browser, "secret")
    press(browser, "Enter")
    wait_for(browser, "document.querySelectorAll('#examples button').length == 3")
    assert browser.evaluate("document.getElementById('token-form').hidden")
    assert browser.evaluate("document.getElementById('error').textContent") == ""


CONTRAST = """(selector => {
    const node = document.querySelector(selector);
    if (!node) return null;
    const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
    let back = node;
    while (back && (numbers(getComputedStyle(back).backgroundColor)[3] === 0)) back = back.parentElement;
    const light = text => numbers(text).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
    const one = light(getComputedStyle(node).color), other = light(getComputedStyle(back).backgroundColor);
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
})(%s)"""
"""The contrast of a node's text with its background, as WCAG defines it."""
