"""The processes that train together, as their launcher describes them; and the launcher of one machine.

``torchrun`` sets the variables that this module reads. Nothing here imports torch before a launch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("a training in several processes", "Accelerate", "distributed")
"""What connects them: what needs it, the package, its extra."""


def processes() -> int:
    """Return the number of processes that the launcher of this one started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this is the process that validates, writes and prints."""
    return processes() == 1 or int(os.environ.get("RANK", "0")) == 0


def restarts() -> int:
    """Return how often the launcher started these processes again after one of them ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launch(words: Sequence[str], count: int) -> int:
    """Run ``refit`` in several processes of this machine, as ``torchrun`` does.

    Args:
        words: the command's words.
        count: number of processes.

    Returns:
        The exit code of the first process that failed; 0 if none did.

    Raises:
        MissingExtraError: if what connects them is not installed.
        ValueError: if one of them was killed.
    """
    if find_spec("accelerate") is None:
        from refit_env.errors import MissingExtraError  # it imports Gymnasium

        raise MissingExtraError(*NEEDED)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    logging.disable(logging.ERROR)  # this process only launches: it says below, in a line, what went wrong
    try:
        elastic_launch(config, sys.executable)("-m", "agents", *words)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        for rank, code in sorted(codes.items()):
            if code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT):
                raise ValueError(
                    f"process {rank} of {count} was killed ({signal.Signals(-code).name}), and the others "
                    "ended with it. The run folder holds the state of the last validation: the same command "
                    "with --resume continues it"
                ) from None
        return next((code for code in codes.values() if code > 0), 1)
    return 0
