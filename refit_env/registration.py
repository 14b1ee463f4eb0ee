"""The table of environment ids, and its registration with Gymnasium.

One row defines an id completely; commands, tests and documentation read it. A new data set is a new row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from refit_env.errors import unknown_name

SINGLE = "refit_env.envs.denoising:DenoisingEnv"
VECTOR = "refit_env.envs.vector:DenoisingVectorEnv"


@dataclass(frozen=True)
class EnvEntry:
    """The definition of an environment id.

    Attributes:
        env_id: the id for ``gym.make``.
        dataset: the name for ``load_dataset``; None where the caller must pass ``data=FOLDER``.
        task: ``"cf"``, ``"sequential"``, ``"social"`` or ``"poi"``.
        backbone: name of the diffusion recommender whose chain is an episode.
        num_steps: T, the default length of an episode.
        relevance: default relevance mode; None depends on the data (``"recent"`` where rows are sorted by
            time, ``"train"`` for sequential sets, else ``"holdout"``). Sets with a random split have
            ``"holdout"`` also where times are known: there the latest train items resemble the test items no
            more than others.
        reward: default reward.
        k: default length of the recommended list.
    """

    env_id: str
    dataset: str | None
    task: str = "cf"
    backbone: str = "diffrec"
    num_steps: int = 4
    relevance: str | None = "holdout"
    reward: str = "racs"
    k: int = 20

    def kwargs(self) -> dict[str, Any]:
        """Return the row as constructor arguments of the environment classes; JSON-plain."""
        out: dict[str, Any] = {
            "data": self.dataset,
            "num_steps": self.num_steps,
            "reward": self.reward,
            "relevance": self.relevance,
            "k": self.k,
            "backbone": self.backbone,
        }
        return {name: value for name, value in out.items() if value is not None}


TABLE: tuple[EnvEntry, ...] = (
    EnvEntry("ReFiT-Synthetic-v0", "synthetic", relevance="recent"),
    EnvEntry("ReFiT-ML100K-v0", "ml-100k"),
    EnvEntry("ReFiT-ML1M-v0", "ml-1m", relevance="recent"),
    EnvEntry("ReFiT-Yelp2018-v0", "yelp2018"),
    EnvEntry("ReFiT-Anime-v0", "anime"),
    EnvEntry("ReFiT-Gowalla-v0", "gowalla", relevance="recent"),
    EnvEntry("ReFiT-YooChoose-v0", "yoochoose", "sequential", "dreamrec", num_steps=10, relevance="train"),
    EnvEntry("ReFiT-KuaiRec-v0", "kuairec", "sequential", "dreamrec", num_steps=10, relevance="train"),
    EnvEntry("ReFiT-Zhihu-v0", "zhihu", "sequential", "dreamrec", num_steps=10, relevance="train"),
    EnvEntry("ReFiT-NYC-v0", "nyc", "poi", "diff-poi", num_steps=10, relevance="train", reward="log_rank"),
    EnvEntry("ReFiT-TKY-v0", "tky", "poi", "diff-poi", num_steps=10, relevance="train", reward="log_rank"),
    EnvEntry("ReFiT-Foursquare-v0", "foursquare", "poi"),
    EnvEntry("ReFiT-Ciao-v0", "ciao", "social", "recdiff", num_steps=10),
    EnvEntry("ReFiT-Epinions-v0", "epinions", "social", "recdiff", num_steps=10),
    EnvEntry("ReFiT-Yelp-v0", "yelp", "social", "recdiff", num_steps=5),
    EnvEntry("ReFiT-Custom-v0", None, relevance=None),
)
"""Every id of this package.

NYC and TKY are next check-ins, each a row, and their reward is the rank of the place: ``racs`` would compare
more than 100,000 histories with each other. Foursquare's published files count visits without their order, so
that set has the places of each user, as in the CF task, and its random split needs ``holdout``.
"""


def env_ids() -> list[str]:
    """Return the registered ids, in the order of the table."""
    return [row.env_id for row in TABLE]


def entry(env_id: str) -> EnvEntry:
    """Return the row of an id.

    Args:
        env_id: for example ``"ReFiT-ML1M-v0"``, with or without the prefix ``refit_env:`` of ``gym.make``.

    Raises:
        ValueError: for an id that is not in the table, with a did-you-mean.

    Example:
        >>> entry("ReFiT-ML1M-v0").dataset
        'ml-1m'
        >>> entry("ReFiT-ML1m-v0")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: unknown environment 'ReFiT-ML1m-v0'. Did you mean 'ReFiT-ML1M-v0'? Known: ...
    """
    wanted = env_id.removeprefix("refit_env:")
    for row in TABLE:
        if row.env_id == wanted:
            return row
    raise unknown_name("environment", wanted, env_ids())


def register_envs() -> None:
    """Register every id of the table with Gymnasium; ids that are registered already do not change."""
    for row in TABLE:
        if row.env_id not in gym.registry:
            gym.register(row.env_id, entry_point=SINGLE, vector_entry_point=VECTOR, kwargs=row.kwargs())
