"""Runs the service on a socket: one process, one event loop, the model in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agents.serving.app import create_app
from agents.serving.service import Service

LATE = b'{"error": "the request did not come in time"}'
KEEP_ALIVE = 75
"""Seconds that a connection may be open between two requests: longer than a usual balancer keeps it."""
GRACE = 30
"""Seconds that requests in progress have when the service ends."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes connections whose request line and headers come too slowly.

    Uvicorn itself waits for them without end, so that clients that send a byte now and then would hold all
    connections.
    """

    seconds = 10.0
    """Longest time from the first byte, or the connection, to the end of the headers."""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._late = self.loop.call_later(self.seconds, self._close_late)

    def data_received(self, data: bytes) -> None:
        """Stop the clock where the headers are complete."""
        super().data_received(data)
        waits = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None
        if not waits:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.seconds, self._close_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close_late(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            head = "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(LATE)}\r\n\r\n".encode() + LATE)
            self.transport.close()


def is_local(host: str) -> bool:
    """Return whether an address is of this machine alone.

    Example:
        >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: name or address.
        port: 0 for a free one.

    Raises:
        ValueError: if the port is in use or not allowed, or the host unknown; the message names the option.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"--host {host} is no name or address of this machine: {error}") from None
    # With the protocol stated, asyncio turns off Nagle's algorithm for each connection; with it, a body would
    # wait 40 ms for the acknowledgement of its headers.
    made = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(1024)
    except OSError as error:
        made.close()
        raise ValueError(_why(host, port, error)) from None
    return made


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port} is in use on {host}: choose another one, or --port 0 for a free one"
    if error.errno == errno.EACCES:
        return f"--port {port} is not allowed for this user: choose one above 1023"
    reason = error.strerror or str(error)
    return f"--host {host} --port {port}: {reason}"


def serve(service: Service, bound: socket.socket, note: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; requests in progress are answered first.

    Args:
        service: the service.
        bound: a socket that listens.
        note: called with the address, which answers from then on.
    """
    server = make_server(service)
    note(address_of(bound))
    server.run(sockets=[bound])


def make_server(service: Service) -> uvicorn.Server:
    """Return the server of a service; ``run(sockets=[...])`` runs it until ``should_exit`` is true."""
    protocol = type("Protocol", (PatientProtocol,), {"seconds": service.limits.seconds})
    config = uvicorn.Config(
        create_app(service),
        http=protocol,
        ws="none",
        access_log=False,
        log_level=logging.ERROR,
        server_header=False,
        limit_concurrency=service.limits.connections,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(config)


def address_of(bound: socket.socket) -> str:
    """Return the address of a socket as a browser reads it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def token_in(path: str | os.PathLike[str] | None, variable: str) -> str:
    """Return the token that a file holds, else that of an environment variable; empty if there is none.

    Raises:
        ValueError: if the file cannot be read or holds no token.
    """
    if path is None:
        return os.environ.get(variable, "").strip()
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(4097).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise ValueError(f"--token-file {path}: {reason}") from None
    if not text or len(text) > 4096 or any(not 33 <= ord(letter) <= 126 for letter in text):
        raise ValueError(f"--token-file {path}: expected one line of ASCII letters, without spaces")
    return text
