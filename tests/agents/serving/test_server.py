"""The service on a socket: slow clients, many connections, a port in use, the command from start to end."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve: pip install -e '.[serve]'")
pytest.importorskip("prometheus_client", reason="the extra serve: pip install -e '.[serve]'")
pytest.importorskip("uvicorn", reason="the extra serve: pip install -e '.[serve]'")

from agents.cli import main
from agents.commands.serve import Serve
from agents.commands.serve_run import load
from agents.serving import server as server_module
from agents.serving.limits import Limits
from agents.serving.server import listen, make_server, token_in
from agents.serving.service import Service

Start = Callable[..., int]


@pytest.fixture
def start(shop: Path) -> Iterator[Start]:
    """A factory of services on free ports; returns the port."""
    running = []

    def make(**limits: Any) -> int:
        service = Service(lambda folder: load(Serve(run_dir=folder, device="cpu")), shop / "tuned")
        service.limits = service.batcher.limits = Limits(**limits)
        bound, server = listen("127.0.0.1", 0), make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        running.append((server, thread, bound))
        port: int = bound.getsockname()[1]
        wait_until(lambda: server.started)
        return port

    yield make
    for server, thread, bound in running:
        server.should_exit = True
        thread.join(300)
        bound.close()
        assert not thread.is_alive()


def wait_until(done: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def post(port: int, body: Any, path: str = "/recommend") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def works(port: int) -> bool:
    status, body = post(port, {"users": ["user-07"], "top": 3})
    return status == 200 and len(body["lists"][0]["items"]) == 3


def received(client: socket.socket) -> bytes:
    """Everything until the other side closes."""
    client.settimeout(300)
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


HEAD = b"POST /recommend HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "drips"),
    [
        (b"", b""),  # a connection that says nothing
        (b"POST /recom", b""),  # headers that stop
        (b"POST /recommend HTTP/1.1\r\nx: ", b"a"),  # headers that never end
        (HEAD + b"content-length: 100\r\n\r\n{", b""),  # a body that stops
        (HEAD + b"content-length: 100\r\n\r\n{", b" "),  # a body that comes a byte at a time
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
def test_a_slow_client_gets_408_and_others_are_answered_meanwhile(
    start: Start, sent: bytes, drips: bytes
) -> None:
    port = start(seconds=1.0)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(sent)
        ended = threading.Event()

        def drip() -> None:
            while drips and not ended.wait(0.1):
                try:
                    slow.sendall(drips)
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        wait_until(lambda: works(port))  # a busy machine may need more than the second that the limit is
        try:
            reply = received(slow)
        except ConnectionResetError:  # bytes that came after the answer
            reply = b"HTTP/1.1 408 "
        ended.set()
        thread.join()
    assert reply.startswith(b"HTTP/1.1 408 ")
    wait_until(lambda: works(port))


def test_a_second_request_on_a_connection_may_be_slow_only_as_long(start: Start) -> None:
    port = start(seconds=5.0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for _ in range(3):
        connection.request(
            "POST", "/recommend", b'{"users": ["user-07"]}', {"content-type": "application/json"}
        )
        reply = connection.getresponse()
        assert reply.status == 200 and reply.read()
    client = connection.sock
    client.sendall(b"GET /mod")
    assert received(client).startswith(b"HTTP/1.1 408 ")
    connection.close()


def test_a_client_that_leaves_and_one_that_sends_no_http(start: Start) -> None:
    port = start()
    for content in (HEAD + b"content-length: 100\r\n\r\n{", HEAD, b""):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(content)
        client.close()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")  # TLS
        assert received(client).startswith(b"HTTP/1.1 400 ")
    assert works(port)


def test_more_connections_than_allowed_get_503(start: Start) -> None:
    port = start(connections=4)
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    wait_until(lambda: post_status(port) == 503)
    for client in idle:
        client.close()
    wait_until(lambda: post_status(port) == 200)


def post_status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(
            "POST", "/recommend", b'{"users": ["user-07"]}', {"content-type": "application/json"}
        )
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_million_ids_do_not_grow_the_memory(start: Start) -> None:
    port = start()
    million = b'{"users": [' + b"1234567," * 1_000_000 + b"1]}"  # 8 MB, 1 MiB is allowed

    def resident() -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1])

    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    works(port)
    before = resident()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as client:
            try:
                client.sendall(HEAD + f"content-length: {len(million)}\r\n\r\n".encode() + million)
                assert received(client).startswith(b"HTTP/1.1 413 ")
            except (BrokenPipeError, ConnectionResetError):  # it does not read the rest
                pass
        assert works(port)
    assert resident() - before < 40_000  # kB; the bodies have 160 MB together


def test_a_run_folder_that_vanishes_under_the_service(start: Start, shop: Path) -> None:
    port = start()
    shutil.rmtree(shop)
    assert works(port)


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 answers other machines: pass --token-file FILE"),
        (["--port", "70000"], "--port must be"),
        (["--name", "a/b"], "--name must be letters, digits"),
        (["--token-file", "/no/such/file"], "--token-file /no/such/file: No such file or directory"),
        (["--limits.batch", "0"], "--limits.batch must be >= 1"),
        (["--run", "/no/such/run"], "no run folder '/no/such/run'"),
    ],
)
def test_mistakes_of_the_command(
    shop: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REFIT_TOKEN", raising=False)
    assert main(["serve", "--run", str(shop / "tuned"), "--port", "0", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"--host no\.such\.host\.invalid is no name or address of this machine"
    ):
        listen("no.such.host.invalid", 0)


def test_answers_do_not_wait_for_an_acknowledgement(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = list[int]()
    made = server_module.PatientProtocol.connection_made

    def connected(self: Any, transport: Any) -> None:
        accepted.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        made(self, transport)

    monkeypatch.setattr(server_module.PatientProtocol, "connection_made", connected)
    port = start()
    wait_until(lambda: works(port))
    assert accepted and all(accepted)


def test_a_port_in_use_is_named(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--run", str(shop / "tuned"), "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"--port {port} is in use on 127.0.0.1: choose another one, or --port 0" in err


def test_a_port_that_is_not_allowed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ValueError, match="--port 80 is not allowed for this user"):
        listen("127.0.0.1", 80)


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", b"a" * 5000, "gr\u00fcn".encode()])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="--token-file"):
        token_in(path, "REFIT_TOKEN")
    path.write_text("secret\n")
    assert token_in(path, "REFIT_TOKEN") == "secret"


def test_a_missing_package_names_its_extra(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--run", str(shop / "tuned"), "--port", "0"]) == 2
    assert (
        "refit serve needs uvicorn, which is not installed: pip install 'refit-env[serve]'"
        in capsys.readouterr().err
    )


def test_the_command_serves_until_it_is_interrupted(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    command = [sys.executable, "-m", "agents", "serve", "--run", str(shop / "tuned"), "--port", "0"]
    command += ["--token-file", str(tmp_path / "token"), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"serving (\S+) \(diffrec on shop\) on http://127\.0\.0\.1:(\d+)\n", line)
        assert found is not None and found[1] == str(shop / "tuned"), line
        port = int(found[2])
        assert post(port, {"users": ["user-07"]}) == (
            401,
            {"error": "the token is missing or wrong: send 'Authorization: Bearer TOKEN'"},
        )
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 143 and "Traceback" not in err
