"""``refit serve``: a run's recommender over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from msgspec import Meta

from agents.commands.options import Command, EnvOption, FileOption, Flag, FolderOption, parse
from agents.serving.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Serve(Command):
    """Answer requests for lists over HTTP, by the noise-free chain of a run.

    ``POST /recommend`` accepts users or histories by the source's own ids; ``/v2`` is the Open Inference
    Protocol; ``/metrics`` is for Prometheus, ``/openapi.json`` describes all routes, and ``/`` is a page to
    try it. A model sees every interaction of a user, and its list leaves all of them out.
    """

    work: ClassVar[str] = "agents.commands.serve_run:run"

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """The run folder that holds the model; a symbolic link may point to another run later."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """The port; 0 for a free one, which is printed."""
    host: str = "127.0.0.1"
    """The address to listen on; ``0.0.0.0`` for other machines, which then needs a token."""
    token_file: FileOption = None
    """A file with the token that requests must present (``Authorization: Bearer ...``); if left out, the
    variable ``REFIT_TOKEN``. ``POST /reload`` needs one."""
    watch: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Seconds between two checks of the run folder for a new finished model, which then answers; 0: none."""
    name: str = "recommender"
    """Name of the model in ``/v2/models/NAME``."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads of a call of the model; 0: as many as torch chooses."""
    limits: Limits = field(default_factory=Limits)
    """Limits of requests."""
    env: EnvOption = None
    """Environment id; if left out, that of the run."""
    data: FolderOption = None
    """Own data instead of ``--env``: a folder in canonical form, or its name in ``refit data list``."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ..."""
    other_data: Flag = False
    """Allow a data set other than the one that the model was trained on."""
    other_weights: Flag = False
    """Allow weights other than those that the run in the folder ended with."""


def main(words: Sequence[str]) -> int:
    """Run the command with the words that follow its name."""
    command: Serve = parse(Serve, words, "refit serve")
    return command.run()
