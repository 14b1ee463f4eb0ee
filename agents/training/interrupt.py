"""Ctrl-C and the other signals that end a process: a loop ends between iterations, its state whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, the end of a process (``kill``, batch systems), and a terminal that is closed."""
INTERRUPTED = 130
"""What a command returns that was ended by one of them; ``refit`` exits with 128 and the signal's number."""

_received: list[int] = []


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first signal within the block into a flag; a second one raises ``KeyboardInterrupt`` at once.

    An interrupt in the middle of an update leaves random generators ahead of weights, from where no
    resumed run repeats an unbroken one. Outside the main thread, where Python sets no signal handlers,
    the block changes nothing. A signal that the process ignores stays ignored.

    Yields:
        A function that returns whether one of ``SIGNALS`` came.

    Example:
        >>> import signal
        >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
        >>> with deferred_interrupt() as interrupted:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interrupted()
        True
        >>> _ = signal.signal(signal.SIGINT, before)
    """
    pressed = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    with _handled_by(note):
        yield pressed.is_set


@contextmanager
def signals_interrupt() -> Iterator[Callable[[], int]]:
    """Within the block, every one of ``SIGNALS`` raises ``KeyboardInterrupt``, as Ctrl-C does.

    Yields:
        A function that gives the exit code of an interrupted process: 128 and the last signal's number.
    """
    _received.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        raise KeyboardInterrupt

    with _handled_by(stop):
        yield lambda: 128 + (_received[-1] if _received else signal.SIGINT)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block, a function handles those of ``SIGNALS`` that are not ignored."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
