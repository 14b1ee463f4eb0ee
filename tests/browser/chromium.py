"""A headless Chromium, driven by its DevTools protocol over a web socket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120.0
"""Seconds that a page may take to load; a busy machine is slow."""


def find_chromium() -> str | None:
    """The path of a Chromium: that of ``CHROMIUM``, else the first on the path; None if there is none."""
    return os.environ.get("CHROMIUM") or next((p for p in map(shutil.which, NAMES) if p is not None), None)


class Browser:
    """One tab of a Chromium of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        """Start it with a profile folder of its own."""
        import websocket

        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        words += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([program, *words], stdout=quiet, stderr=quiet)
        try:
            port = self._port(profile / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as reply:
                tab = next(entry for entry in json.load(reply) if entry["type"] == "page")
            address = tab["webSocketDebuggerUrl"]
            self.socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        except BaseException:
            self.process.kill()
            raise
        self.number, self.errors, self.loaded = 0, list[str](), False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _port(self, file: Path) -> str:
        """The port that Chromium writes down once it listens."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if file.exists() and (lines := file.read_text().splitlines()):
                return lines[0]
            if self.process.poll() is not None:
                raise RuntimeError(f"Chromium ended with code {self.process.returncode}")
            time.sleep(0.05)
        raise TimeoutError("Chromium does not listen")

    def close(self) -> None:
        """End it."""
        self.socket.close()
        self.process.terminate()
        self.process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; events that come before it are noted."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message: dict[str, Any] = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what went wrong on the page, and that it was loaded."""
        method, what = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(what["exceptionDetails"].get("exception", what["exceptionDetails"])))
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert"):
            self.errors.append(str([part.get("value", part.get("description")) for part in what["args"]]))
        elif method == "Network.responseReceived" and what["response"]["status"] >= 400:
            self.errors.append(f"{what['response']['status']} {what['response']['url']}")
        elif method == "Network.loadingFailed" and not what.get("canceled"):
            self.errors.append(f"{what['errorText']} of a {what['type']}")

    def open(self, address: str, width: int, height: int = 900) -> list[str]:
        """Open an address in a window of a size; returns what went wrong on the page."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.errors, self.loaded = [], False
        self.call("Page.navigate", url=address)
        end = time.monotonic() + PATIENCE
        while not self.loaded:
            assert time.monotonic() < end, f"{address} does not load"
            self._note(json.loads(self.socket.recv()))
        self.evaluate("new Promise(done => setTimeout(done, 50))")  # scripts that run after loading
        return self.errors

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, a promise's once it is there."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, f"{script}: {done['exceptionDetails']}"
        return done["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
