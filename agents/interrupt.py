"""Ctrl-C between iterations: a loop ends where its state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C within the block into a flag; a second one raises at once.

    An interrupt in the middle of an update leaves random generators ahead of weights, from where no
    resumed run repeats an unbroken one. Outside the main thread, where Python sets no signal handlers,
    the block changes nothing.

    Yields:
        A function that says whether Ctrl-C was pressed.

    Example:
        >>> import signal
        >>> with deferred_interrupt() as interrupted:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interrupted()
        True
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
