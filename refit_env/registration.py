"""The table of environment ids, and its registration with Gymnasium.

One row says everything that an id stands for; commands, tests and documentation read it. A new data set
or backbone is a new row.
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
    """What an environment id stands for.

    Attributes:
        env_id: the id that ``gym.make`` takes.
        dataset: what ``load_dataset`` is given; None where the maker must pass ``data=FOLDER``.
        task: ``"cf"``, ``"sequential"``, ``"social"`` or ``"poi"``.
        backbone: name of the diffusion recommender whose chains the episodes are.
        num_steps: T, the default length of an episode.
        relevance: default relevance mode; None lets the data decide (``"recent"`` where rows stand in
            order of time, ``"train"`` for sequential sets, else ``"holdout"``). Sets that were split at
            random keep ``"holdout"`` even where time is known: there the latest train items are no better a
            picture of the test items.
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
        """The row as constructor arguments of the environment classes; JSON-plain."""
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
    EnvEntry("ReFiT-Gowalla-v0", "gowalla"),
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

NYC and TKY are next check-ins, each a row, and pay the rank of the place: ``racs`` would compare 100,000 and
more histories with each other. Foursquare's published files count visits without their order, so that set is
one of places that users go to, as in the CF task, and its split by chance calls for ``holdout``.
"""


def env_ids() -> list[str]:
    """The registered ids, in the order of the table."""
    return [row.env_id for row in TABLE]


def entry(env_id: str) -> EnvEntry:
    """Look an id up.

    Args:
        env_id: for example ``"ReFiT-ML1M-v0"``; ``gym.make``'s prefix ``refit_env:`` may stand before it.

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
    """Tell Gymnasium about every id of the table; ids that it knows already are left as they are."""
    for row in TABLE:
        if row.env_id not in gym.registry:
            gym.register(row.env_id, entry_point=SINGLE, vector_entry_point=VECTOR, kwargs=row.kwargs())
