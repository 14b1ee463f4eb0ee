"""A system without file descriptors for connections: one line, not a traceback for each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.serving.shortage import QUIET, Shortage
from tests.agents.serving.clients import Connect, TestClient

FULL = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}


def test_connections_that_wait_get_one_line_and_other_errors_are_asyncios() -> None:
    lines, others, now = list[str](), list[Any](), [5.0]
    shortage = Shortage(lines.append, lambda: now[0])
    loop: Any = SimpleNamespace(default_exception_handler=others.append)
    for _ in range(1000):
        shortage(loop, FULL)
    assert lines == ["new connections wait: Too many open files; 'ulimit -n' raises the number"]
    now[0] += QUIET
    shortage(loop, FULL)
    assert len(lines) == 2 and not others
    shortage(loop, {"message": "bug", "exception": KeyError("bug")})
    shortage(loop, {"message": "no exception"})
    assert len(lines) == 2 and len(others) == 2


def test_the_service_handles_errors_of_its_event_loop_so(
    connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    app: Any = connect().app

    async def run() -> None:
        async with app.router.lifespan_context(app):
            for _ in range(3):
                asyncio.get_running_loop().call_exception_handler(FULL)

    asyncio.run(run())
    out, err = capsys.readouterr()
    assert out == "new connections wait: Too many open files; 'ulimit -n' raises the number\n" and not err


def test_a_run_whose_name_is_too_long_is_one_short_line(connect: Connect, shop: Path) -> None:
    client: TestClient = connect(token="secret")
    headers = {"authorization": "Bearer secret"}
    reply = client.post("/reload", json={"run": 200 * "é"}, headers=headers)
    error = reply.json()["error"]
    assert reply.status_code == 409 and error.startswith("the former model stays: ")
    assert "Errno" not in error and len(error) < 200


def test_balancers_check_health_by_head_too(connect: Connect) -> None:
    client = connect(token="secret")
    for path in ("/v2/health/live", "/v2/health/ready", "/"):
        reply = client.head(path)
        assert reply.status_code == 200 and not reply.content
    assert client.head("/model").status_code == 401
    assert client.head("/recommend", headers={"authorization": "Bearer secret"}).status_code == 405
