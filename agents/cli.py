"""The ``refit`` command.

Each command lives in a file of ``agents.commands`` and is imported when it is called, so that ``refit data
list`` does not wait for torch. A command is a frozen dataclass, from whose fields tyro makes the options,
and a ``run`` method that returns the exit code.

Exit codes:

- 0: done.
- 1: a bug (with a traceback), a cell of a comparison that failed, or a reward that is not well formed.
- 2: a mistake in the command, a wrong file, an error in a user's own code, or a disk that is full or cannot
  be written; one line says what would be right, and the files from before are unchanged (``REFIT_DEBUG=1``
  shows the traceback).
- 130, 143, 129: ended by Ctrl-C, by SIGTERM or by a terminal that was closed (128 and the signal's number);
  training is saved first.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module, metadata
from itertools import pairwise

from agents.runs.processes import is_first, processes
from agents.training.interrupt import INTERRUPTED, signals_interrupt

COMMANDS: dict[str, tuple[str, str]] = {
    "data": ("agents.commands.data", "list, prepare, inspect and generate data sets"),
    "pretrain": ("agents.commands.pretrain", "train a diffusion recommender by its own loss (ELBO)"),
    "finetune": ("agents.commands.finetune", "fine-tune a pretrained recommender by reinforcement learning"),
    "import": ("agents.commands.importing", "make a run folder of a model that was trained elsewhere"),
    "evaluate": ("agents.commands.evaluate", "rank all items for every user, and measure the lists"),
    "refit": ("agents.commands.refit", "fit a run's model again, to the validation items, too"),
    "baseline": ("agents.commands.baseline", "fit and measure recommenders that are no diffusion models"),
    "tune": ("agents.commands.tune", "find the best recommender for a data set within given minutes"),
    "reward": ("agents.commands.reward", "list the rewards; measure one before any training"),
    "compare": ("agents.commands.compare", "run a study: models and algorithms on the same data and budgets"),
    "report": ("agents.commands.report", "write one HTML page that shows what runs or a study did"),
    "recommend": ("agents.commands.recommend", "print the list of one user, or write those of all"),
    "export": ("agents.commands.export", "write a run's recommender as one file: ONNX, torch, Triton"),
    "serve": ("agents.commands.serve", "answer requests for lists over HTTP, with a page to try it"),
    "bench": (
        "agents.commands.bench",
        "measure this project's ratios beside their targets",
    ),
    "demo": ("agents.commands.demo", "pretrain, fine-tune and compare on the embedded data set: start here"),
}
"""Name -> module (its ``main`` gets the remaining arguments) and the line in ``refit --help``."""
DIVIDED = ("pretrain", "finetune")
"""Commands that torchrun may start in several processes."""

REMEDIES = {
    errno.ENOENT: "choose a path that is there, or where a folder can be made",
    errno.ENOSPC: "free some space",
    errno.EACCES: "choose a place that you may read and write",
    errno.EPERM: "choose a place that you may read and write",
    errno.EROFS: "choose a place that you may write",
}
"""What helps where the system refuses a file, by the number of its error."""


PLACES = ("--data", "--init", "--out", "--run", "--settings", "--source")
"""Options of files and folders."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``refit``.

    Args:
        arguments: what follows ``refit``; None: the command line.

    Returns:
        The exit code; see the module's text.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"refit-env {metadata.version('refit-env')}")
        return 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold letters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    threading.excepthook = _failed_thread
    if not is_first():  # of several processes one prints; the others print what is a bug
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    with signals_interrupt() as exit_code:
        code = _reported(words)
    return exit_code() if code == INTERRUPTED else code


def _failed_thread(failure: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread that failed; not of a disk that is full, which the writer reports."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def refuse_empty(words: Sequence[str]) -> None:
    """Refuse an empty path or name: as a path it would be the current folder.

    Raises:
        ValueError: naming the option.

    Example:
        >>> refuse_empty(["--out", "", "--seed", "1"])
        Traceback (most recent call last):
            ...
        ValueError: --out is empty: name a file or a folder (a variable of the shell may not be set)
    """
    empty = [option for option, value in pairwise(words) if value == ""]
    for option in empty + [word[:-1] for word in words if word.endswith("=")]:
        if option in PLACES:
            raise ValueError(
                f"{option} is empty: name a file or a folder (a variable of the shell may not be set)"
            )


def _reported(words: Sequence[str]) -> int:
    """Run a command and print what went wrong; the exit code."""
    try:
        refuse_empty(words[1:])
        return run_command(words[0], words[1:])
    except KeyboardInterrupt as stop:
        from agents.console import say  # slow to import, as the next

        say(": ".join(["refit: interrupted", *map(str, stop.args)]), stderr=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, for example `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        text = _in_one_line(error)
        if text is None or os.environ.get("REFIT_DEBUG"):
            sys.stderr = sys.__stderr__
            raise
        from agents.console import complain

        complain(text)
        return 2


def _in_one_line(error: Exception) -> str | None:
    """What to print of an error instead of its traceback; None for a bug of this project."""
    from refit_env.utils.user_code import users_line

    place = users_line(error, raised=is_user_error(error))
    if place is None and is_user_error(error):
        return _of_system(error) if isinstance(error, OSError) else str(error)
    if place is None or not is_first():  # of the other processes only tracebacks are printed
        return None
    words = " ".join(str(error).split())[:300]
    return f"{place}: {type(error).__name__}: {words}; REFIT_DEBUG=1 shows the traceback"


def _of_system(error: OSError) -> str:
    """Return what the system refused: the file, the reason, and what helps.

    Example:
        >>> _of_system(OSError(28, "No space left on device", "runs/rl/log.csv"))
        'runs/rl/log.csv: No space left on device; free some space'
    """
    if error.errno is None or error.filename is None:
        return str(error)
    helps = REMEDIES.get(error.errno)
    return f"{error.filename}: {error.strerror}" + (f"; {helps}" if helps else "")


def run_command(name: str, words: Sequence[str]) -> int:
    """Import a command and run it with its own arguments.

    Raises:
        ValueError: if there is no such command; with a did-you-mean. For a setting out of its bounds, naming
            the option as it was typed.
    """
    from refit_env.errors import SettingError, unknown_name

    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    if processes() > 1 and name not in DIVIDED:
        raise ValueError(
            f"refit {name} is not divided among processes, {', '.join(DIVIDED)} are: run it without torchrun "
            f"(WORLD_SIZE is {processes()})"
        )
    module, _ = COMMANDS[name]
    try:
        code: int = import_module(module).main(list(words))
    except SystemExit as stop:  # tyro and argparse leave this way after help (0) and wrong options (2)
        from refit_env.utils.user_code import users_line

        if (place := users_line(stop)) is not None:
            raise ValueError(f"{place}: SystemExit: {stop.code}; this code may not end the program") from stop
        return stop.code if isinstance(stop.code, int) else 2
    except SettingError as error:
        from agents.commands.options import as_typed

        raise as_typed(error, words) from error
    return code


def usage() -> str:
    """What ``refit --help`` prints."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: refit COMMAND [options]",
            "",
            "Fine-tune diffusion recommenders by reinforcement learning.",
            "",
            *lines,
            "",
            "`refit COMMAND --help` shows a command's options. Real data sets are read from",
            "$REFIT_DATA_HOME, then from the user's cache folder.",
        ]
    )


def is_user_error(error: Exception) -> bool:
    """Whether an error is a mistake of the caller, so that its message is enough.

    The library raises ``ValueError`` (``DataError``, ``CheckpointError`` and ``RunError`` are such) for
    what a caller got wrong, Gymnasium its own ``Error``, the system ``OSError`` for files that cannot be read
    or written.
    """
    if isinstance(error, ValueError | OSError):
        return True
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and isinstance(error, gymnasium.error.Error)


if __name__ == "__main__":
    sys.exit(main())
