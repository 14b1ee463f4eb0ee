"""One line in place of a traceback for every connection that the system has no file descriptor for."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from typing import Any

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of a system that has no means for a connection."""
QUIET = 10.0
"""Seconds between two lines."""


class Shortage:
    """Handles the errors of an event loop: connections that wait get one line in ``QUIET`` seconds."""

    def __init__(self, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin.

        Args:
            note: called with the line.
            clock: returns the time in seconds.
        """
        self._note, self._clock = note, clock
        self._next = clock()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error; asyncio tries to accept the connection again after a second."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in SHORT):
            loop.default_exception_handler(context)
            return
        if self._clock() >= self._next:
            self._next = self._clock() + QUIET
            helps = "; 'ulimit -n' raises the number" if error.errno == errno.EMFILE else ""
            self._note(f"new connections wait: {error.strerror}{helps}")
