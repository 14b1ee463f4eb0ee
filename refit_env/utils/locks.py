"""Locks of a module that a forked process can acquire."""

from __future__ import annotations

import os
import threading


def fork_lock() -> threading.Lock:
    """Return a lock that is free in a forked process, whichever thread held it in its parent.

    A fork copies the lock but not the thread that would release it, so that a fork waits for that thread. The
    lock is never freed: it is for a module, not for single objects.
    """
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
