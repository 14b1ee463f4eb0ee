"""What ``--env``, ``--data`` and ``--reward`` name: the environment, its data set, and the reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.commands.options import RewardText, absolute_places, parse_reward
from agents.console import say
from refit_env.data import Dataset, load_dataset
from refit_env.data.catalog import CATALOG
from refit_env.data.coverage import differs
from refit_env.data.home import find_dataset, list_datasets, named_folder
from refit_env.errors import did_you_mean
from refit_env.policy import DiffusionPolicy
from refit_env.registration import TABLE, EnvEntry, entry
from refit_env.rewards import reward_class

CUSTOM_ENV = "ReFiT-Custom-v0"
TRIED = 8
"""Users whose lists a user's own reward scores before a run begins."""


@dataclass(frozen=True)
class Target:
    """The environment that a command works on."""

    env_id: str
    """A registered id."""
    data: str | None
    """Folder of one's own data set, or None for the id's own."""

    @property
    def spec(self) -> EnvEntry:
        """The id's row in the registration table."""
        return entry(self.env_id)

    @property
    def dataset(self) -> str:
        """The argument of ``load_dataset``."""
        name = self.data if self.data is not None else self.spec.dataset
        if name is None:
            raise ValueError(f"{self.env_id} needs a data set of yours: --data FOLDER")
        return name

    def env_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of ``gym.make_vec`` that name the data."""
        return {} if self.data is None else {"data": self.data}


def scorer_kwargs(policy: DiffusionPolicy, run: Path | None, target: Target) -> dict[str, Any]:
    """Keyword arguments with which an environment scores u_0 by the model of a run.

    The backbone's name, where it is not the id's own, and the run's folder, where only a trained model scores
    u_0.
    """
    own = policy.backbone.name
    out: dict[str, Any] = {} if own == target.spec.backbone else {"backbone": own}
    return out | ({"checkpoint": str(run.resolve())} if policy.backbone.embedding and run else {})


def choose_target(env: str | None, data: Path | None, fallback: Mapping[str, Any] | None = None) -> Target:
    """Decide which environment is meant.

    Args:
        env: what ``--env`` said.
        data: what ``--data`` said: a folder, or the name of a set in a data home; it needs
            ``ReFiT-Custom-v0``.
        fallback: the ``config.json`` of an earlier run, which decides where neither is given.

    Raises:
        ValueError: if nothing decides, or the two contradict each other, or there is no such id or folder.
    """
    if data is not None:
        if env not in (None, CUSTOM_ENV):
            raise ValueError(f"--data {data} needs {CUSTOM_ENV}, not --env {env}; leave one of them out")
        folder = named_folder(str(data))
        if folder is None:
            ids = [row.env_id for row in TABLE if row.dataset == str(data)]
            hint = f"; --env {ids[0]} has the data set of that name" if ids else ""
            here = [name for name, at in list_datasets().items() if at is not None]
            close = did_you_mean(data, here)
            hint += f".{close}" if close else ""
            if Path(data).is_file():
                raise ValueError(
                    f"--data {data} is a file: `refit data prepare NAME --source {data}` makes a set of it, "
                    "for --data NAME"
                )
            raise ValueError(
                f"--data {data}: there is no such folder, nor such a set in the data homes{hint}"
            )
        return Target(CUSTOM_ENV, str(folder.resolve()))
    if env is None and fallback is not None:
        try:
            known = entry(str(fallback["env"]))
        except ValueError as error:
            raise ValueError(f"the run's config.json: env: {error}") from error
        return Target(known.env_id, fallback.get("data"))
    if env is None:
        raise ValueError("say which environment: --env ID (for example ReFiT-Synthetic-v0) or --data FOLDER")
    target = Target(entry(env).env_id, None)
    _ = target.dataset  # refuses an id that needs --data before any work is done
    return target


def reward_named(text: str) -> RewardText:
    """The reward that ``--reward`` names, files by their absolute paths; a user's file is run.

    Raises:
        ValueError: for a name that no reward has, or a place without one, as it was typed.
    """
    spec = parse_reward(text)
    for name in [spec] if isinstance(spec, str) else spec:
        reward_class(name)
    return absolute_places(spec)


def note_other_data(dataset: Dataset) -> None:
    """Print, to the error stream, that published tables were measured on another data set of this name."""
    line = differs(dataset)
    if line is not None:
        say(line, stderr=True)


def note_other_sets(envs: Sequence[str]) -> None:
    """``note_other_data`` for the data sets of environments, as far as they are here."""
    for name in dict.fromkeys(entry(env).dataset for env in envs):
        if name is not None and (name not in CATALOG or find_dataset(name) is not None):
            note_other_data(load_dataset(name))
