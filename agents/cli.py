"""The ``refit`` command.

Each command lives in a file of ``agents.commands`` and is imported when it is called, so that ``refit data
list`` does not wait for torch. A command is a frozen dataclass, from whose fields tyro makes the options,
and a ``run`` method that returns the exit code.

Exit codes: 0 done, 1 a bug (with a traceback), 2 a mistake in what was asked (one line that says what
would be right; ``REFIT_DEBUG=1`` shows the traceback as well), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

COMMANDS: dict[str, tuple[str, str]] = {
    "data": ("agents.commands.data", "list, prepare, inspect and synthesize data sets"),
    "pretrain": ("agents.commands.pretrain", "train a diffusion recommender by its own loss (ELBO)"),
    "finetune": ("agents.commands.finetune", "fine-tune a pretrained one by reinforcement learning"),
    "evaluate": ("agents.commands.evaluate", "rank the whole catalogue for every user and measure"),
    "compare": ("agents.commands.compare", "compare algorithms on the same checkpoints and budgets"),
    "recommend": ("agents.commands.recommend", "print one user's list"),
    "demo": ("agents.commands.demo", "pretrain, fine-tune and compare on the embedded data set"),
}
"""Name -> module (whose ``main`` takes the remaining arguments) and what ``refit --help`` says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``refit``.

    Args:
        arguments: what follows ``refit``; None takes the command line.

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
    try:
        return run_command(words[0], words[1:])
    except KeyboardInterrupt:
        print("refit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, for example `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not is_user_error(error) or os.environ.get("REFIT_DEBUG"):
            raise
        print(f"refit: error: {error}", file=sys.stderr)
        return 2


def run_command(name: str, words: Sequence[str]) -> int:
    """Import a command and run it with its own arguments.

    Raises:
        ValueError: if there is no such command; with a did-you-mean.
    """
    if name not in COMMANDS:
        from refit_env.errors import unknown_name

        raise unknown_name("command", name, COMMANDS)
    module, _ = COMMANDS[name]
    try:
        code: int = import_module(module).main(list(words))
    except SystemExit as stop:  # tyro and argparse leave this way after help (0) and wrong options (2)
        return stop.code if isinstance(stop.code, int) else 2
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
            "`refit COMMAND --help` shows a command's options. Real data sets are looked for in",
            "$REFIT_DATA_HOME, then in the user's cache folder.",
        ]
    )


def is_user_error(error: Exception) -> bool:
    """Whether the message of an error is meant for who typed the command.

    The library raises ``ValueError`` (``DataError``, ``CheckpointError`` and ``RunError`` are such) for
    what a caller got wrong, Gymnasium its own ``Error``, the system ``OSError`` for files that cannot be had.
    """
    if isinstance(
        error, ValueError | FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
    ):
        return True
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and isinstance(error, gymnasium.error.Error)


if __name__ == "__main__":
    sys.exit(main())
