"""What every request passes before its route: token, size and time limits, counting.

It is a plain ASGI application around another one, so that a body that is too large or too slow is never
parsed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from agents.serving.service import Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready")
"""Routes without a token."""
UNTIMED = "/reload"
"""The route whose answer may take longer than the limit, because it loads a run."""


class Refused(Exception):
    """A request is not passed on."""

    def __init__(self, status: int, error: str) -> None:
        """Store the answer's status and its line."""
        super().__init__(error)
        self.status = status


class Guard:
    """Checks requests and counts answers."""

    def __init__(self, app: App, service: Service) -> None:
        """Wrap an application.

        Args:
            app: the application.
            service: its limits, token and metrics.
        """
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # balancers send it; the server leaves the body out
            scope = {**scope, "method": "GET"}
        began, status = self.service.clock(), 0

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, counted, lambda: status)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.service.gauges.requests.labels(route, str(status)).inc()
            self.service.gauges.seconds.labels(route).observe(self.service.clock() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, status: Callable[[], int]) -> None:
        """Pass the request on, or refuse it."""
        seconds = self.service.limits.seconds
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            given = headers.get(b"authorization")
            if scope["path"] not in OPEN and not self.service.allows(given and given.decode("latin-1")):
                raise Refused(401, "the token is missing or wrong: send 'Authorization: Bearer TOKEN'")
            body = await self._body(headers, receive)
            try:
                async with asyncio.timeout(None if scope["path"] == UNTIMED else seconds):
                    await self.app(scope, replay(body, receive), send)
            except TimeoutError:
                if status():  # the client does not read the answer
                    return
                raise Refused(503, f"no answer within {seconds:g} seconds: try again later") from None
        except Refused as refused:
            await refuse(send, refused)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Receive the body within the limits.

        Raises:
            Refused: if it is too large or too slow.
        """
        limits = self.service.limits
        length = headers.get(b"content-length", b"")
        large = Refused(413, f"the body has more than {limits.body} bytes")
        if length.isdigit() and int(length) > limits.body:
            raise large
        if not length and b"transfer-encoding" not in headers:
            return b""
        parts, size = list[bytes](), 0
        try:
            async with asyncio.timeout(limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refused(400, "the connection was closed before the whole body came")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limits.body:
                        raise large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"the body did not come within {limits.seconds:g} seconds") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that returns a whole body once, then what comes."""
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(send: Send, refused: Refused) -> None:
    """Send an error, and close the connection: the rest of the body is not read."""
    body = json.dumps({"error": str(refused)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    headers += [(b"www-authenticate", b"Bearer")] if refused.status == 401 else []
    headers += [(b"retry-after", b"1")] if refused.status == 503 else []
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
