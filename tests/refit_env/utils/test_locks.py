"""A fork while another thread holds a module's lock."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORKS = """
import os, signal, threading
import torch
from refit_env.backbones.latest import hold, release
from refit_env.utils.content_cache import ContentCache
from refit_env.utils.memory import LARGEST_KEPT, arrays_kept

cache, weight = ContentCache(), torch.nn.Parameter(torch.zeros(1))

def use():
    with arrays_kept(LARGEST_KEPT + 1):
        hold([weight])
        release([weight])
        cache.get("kind", [0], int)

def repeat():
    while not done.is_set():
        use()

done = threading.Event()
thread = threading.Thread(target=repeat)
thread.start()
codes = []
for _ in range(4):
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends a child that waits for a lock
        use()
        os._exit(0)
    codes.append(os.waitpid(child, 0)[1])
    if codes[-1]:
        break
done.set()
thread.join()
print(set(codes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{0}"
