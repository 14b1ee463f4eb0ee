"""The page of ``refit report`` in a headless Chromium: wide, narrow and dark (``make test-browser``)."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.cli import main
from refit_env.data import save_dataset, synthesize
from tests.browser.chromium import PATIENCE, Browser, find_chromium

EVIL = "</script><img src=x onerror=\"document.title='taken'\">"
WIDTHS = (1280, 360)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path, nor named by CHROMIUM"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the report of a small run, whose ids and names hold HTML."""
    folder = tmp_path_factory.mktemp("report")
    data = synthesize(num_users=80, num_items=60)
    users = np.array([f"{EVIL}{n}" for n in range(80)], dtype=object)
    names = np.array([f"{EVIL} a rather long name of an item, number {n}" for n in range(60)], dtype=object)
    save_dataset(replace(data, user_ids=users, item_features={"title": names}), folder / "shop")
    quiet = ["--quiet", "--device", "cpu"]
    start = ["pretrain", "--data", str(folder / "shop"), "--out", str(folder / "elbo"), "--epochs", "2"]
    assert main([*start, *quiet, "--backbone-options", "hidden=[16]", "num_steps=5"]) == 0
    tuned = ["finetune", "--init", str(folder / "elbo"), "--out", str(folder / "rl"), "--iterations", "4"]
    assert main([*tuned, *quiet, "--eval-every", "2", "--reward", "racs", "--learning-rate", "1e-2"]) == 0
    assert main(["report", str(folder / "rl"), "--out", str(folder / "page"), "--device", "cpu"]) == 0
    return (folder / "page" / "report.html").as_uri()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_errors_and_fits(browser: Browser, page: str, width: int, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.call("Emulation.setEmulatedMedia", features=[feature])
    assert browser.open(page, width) == []
    assert (
        browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    )
    assert browser.evaluate("document.title") != "taken" and browser.evaluate("document.images.length") == 0
    outside = """[...document.querySelectorAll('.chart svg')].filter(svg =>
        svg.getBoundingClientRect().width < 250 || svg.getBoundingClientRect().height < 100).length"""
    assert browser.evaluate(outside) == 0
    dark, light = luminance(browser, "color"), luminance(browser, "backgroundColor")
    assert (dark < light) == (scheme == "light") and abs(dark - light) > 0.5


def luminance(browser: Browser, what: str) -> float:
    """How light the text or the background of the page is, 0 to 1."""
    found = browser.evaluate(f"getComputedStyle(document.body).{what}.match(/[0-9]+/g).map(Number)")
    return sum(found[:3]) / 3 / 255


def test_the_explorer_reacts_to_users_steps_and_ids(browser: Browser, page: str) -> None:
    assert browser.open(page, WIDTHS[0]) == []
    first = shown(browser)
    assert first["lists"] == 2 and first["rows"] == 40 and first["state"].endswith("u0")
    browser.evaluate(change(".step", "0", "input"))
    start = shown(browser)
    assert start["state"] != first["state"] and start["text"] != first["text"]
    browser.evaluate(change(".user", "5", "change"))
    other = shown(browser)
    assert other["status"] != start["status"]
    wanted = browser.evaluate("JSON.parse(document.querySelector('.data').textContent).users[2].id")
    assert wanted.startswith(EVIL)
    browser.evaluate(change(".find", wanted, "change"))
    assert browser.evaluate("document.querySelector('.user').value") == "2"
    assert f"User {wanted}" in shown(browser)["status"]
    browser.evaluate(change(".find", "nobody", "change"))
    assert "nobody is not among" in shown(browser)["status"]
    assert browser.errors == [] and browser.evaluate("document.images.length") == 0


def test_it_is_used_by_keyboard(browser: Browser, page: str) -> None:
    assert browser.open(page, WIDTHS[0]) == []
    browser.evaluate("document.querySelector('.step').focus()")
    before = shown(browser)["state"]
    press(browser, "ArrowLeft", 37)
    assert shown(browser)["state"] != before
    reached = set()
    browser.evaluate("document.activeElement.blur()")
    for _ in range(60):
        press(browser, "Tab", 9)
        reached.add(browser.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert {"skip", "user", "find", "step", "play", "scroll", "SUMMARY"} <= reached


def test_play_runs_through_the_chain_and_stops(browser: Browser, page: str) -> None:
    assert browser.open(page, WIDTHS[0]) == []
    browser.evaluate("document.querySelector('.play').click()")
    assert browser.evaluate("document.querySelector('.step').value") == "0"
    end = time.monotonic() + PATIENCE
    while browser.evaluate("document.querySelector('.play').textContent") != "Play":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert shown(browser)["state"].endswith("u0") and browser.errors == []


def shown(browser: Browser) -> dict[str, Any]:
    """What the explorer shows."""
    found: dict[str, Any] = browser.evaluate("""({
        lists: document.querySelectorAll('.pair ol').length,
        rows: document.querySelectorAll('.pair ol li').length,
        text: document.querySelector('.pair').textContent,
        state: document.querySelector('.strips .now').textContent,
        status: document.querySelector('.status').textContent,
    })""")
    return found


def change(what: str, value: str, event: str) -> str:
    """A script that gives a control a value, as a person would."""
    return f"""(() => {{ const control = document.querySelector({json.dumps(what)});
        control.value = {json.dumps(value)}; control.dispatchEvent(new Event({json.dumps(event)})); }})()"""


def press(browser: Browser, key: str, code: int) -> None:
    """Press a key."""
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
