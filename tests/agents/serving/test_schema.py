"""Requests that Schemathesis makes from the service's OpenAPI: ``make test-api``."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="the extra api: make test-api installs and runs this")
pytest.importorskip("uvicorn", reason="the extra serve: pip install -e '.[serve]'")

from agents.commands.serve import Serve
from agents.commands.serve_run import load
from agents.serving.server import address_of, listen, make_server
from agents.serving.service import Service

EXAMPLES = 25
"""Requests of each kind for each route."""
ACCEPTED = "positive_data_acceptance"
"""The check that is left out: a schema cannot say that ids must exist and shapes fit their data."""


@pytest.mark.slow
def test_every_answer_is_one_that_the_schema_describes(shop: Path) -> None:
    model = lambda folder: load(Serve(run_dir=folder, device="cpu"))  # noqa: E731
    service = Service(model, shop / "tuned", token="secret")
    bound, server = listen("127.0.0.1", 0), make_server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    program = Path(sys.executable).with_name("schemathesis")
    words = [f"--max-examples={EXAMPLES}", "--seed=1", "--no-color", f"--exclude-checks={ACCEPTED}"]
    command = [
        str(program),
        "run",
        f"{address_of(bound)}/openapi.json",
        *words,
        "-H",
        "Authorization: Bearer secret",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=shop, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-4000:]
        assert "12 selected / 12 total" in done.stdout
        assert service.batcher.waiting == 0
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()
