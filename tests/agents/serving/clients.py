"""Clients of the service, in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve: pip install -e '.[serve]'")
pytest.importorskip("prometheus_client", reason="the extra serve: pip install -e '.[serve]'")
pytest.importorskip("httpx", reason="the extra test: pip install -e '.[test]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions prefer httpx2 to httpx
    from fastapi.testclient import TestClient

from agents.commands.serve import Serve
from agents.commands.serve_run import load
from agents.serving.app import create_app
from agents.serving.limits import Limits
from agents.serving.service import Service

LIMITS = Limits(batch=4, history=10, top=20, body=4096, queue=8, seconds=120.0)
Connect = Callable[..., TestClient]


@contextmanager
def clients(shop: Path) -> Iterator[Connect]:
    """A factory of clients of a service on the fine-tuned run."""
    with ExitStack() as stack:

        def make(**settings: Any) -> TestClient:
            make_model = lambda folder: load(Serve(run_dir=folder, device="cpu"))  # noqa: E731
            service = Service(
                make_model, settings.pop("run", shop / "tuned"), **{"limits": LIMITS} | settings
            )
            return stack.enter_context(TestClient(create_app(service), raise_server_exceptions=False))

        yield make


def service_of(client: TestClient) -> Service:
    found: Service = client.app.state.service  # type: ignore[attr-defined]
    return found
