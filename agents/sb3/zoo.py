"""What rl-zoo3's configuration files name: a policy for each environment, which knows its pretrained run.

The zoo's hyper-parameter search replaces ``policy_kwargs`` by what it samples, so the run folder cannot stand
there alone; a class can carry it. Make the runs first:
``refit pretrain --env ReFiT-ML1M-v0 --out runs/zoo/ReFiT-ML1M-v0``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from gymnasium import spaces
from torch import nn

from agents.sb3.policies import DiffusionActorCriticPolicy

RUNS = Path("runs") / "zoo"
"""The zoo's pretrained runs, one folder an environment id, relative to where the zoo is started."""


class ZooPolicy(DiffusionActorCriticPolicy):
    """A diffusion policy that takes what the zoo samples, and starts from the run of its environment.

    Attributes:
        env_id: the environment that the run is of; subclasses set it.
    """

    env_id: ClassVar[str]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        actor: dict[str, Any] | None = None,
        net_arch: dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = False,
        **settings: Any,
    ) -> None:
        """Build it.

        Args:
            observation_space: see ``DiffusionActorCriticPolicy``.
            action_space: see there.
            lr_schedule: see there.
            actor: see there; the run of ``env_id`` in ``RUNS`` if None.
            net_arch: the zoo's ``{"pi": [...], "vf": [...]}``: the first number of ``vf`` is the critic's
                width, while ``pi`` is without effect, since the actor is pretrained.
            activation_fn: of the critic.
            ortho_init: without effect: the critic's last layer starts at zero.
            **settings: the others of ``DiffusionActorCriticPolicy``.
        """
        if net_arch is not None:
            settings = {"value_width": net_arch["vf"][0]} | settings
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            actor={"run": str(RUNS / self.env_id)} if actor is None else actor,
            value_activation=activation_fn,
            **settings,
        )


class SyntheticPolicy(ZooPolicy):
    """Of ``ReFiT-Synthetic-v0``."""

    env_id: ClassVar[str] = "ReFiT-Synthetic-v0"


class ML100KPolicy(ZooPolicy):
    """Of ``ReFiT-ML100K-v0``."""

    env_id: ClassVar[str] = "ReFiT-ML100K-v0"


class ML1MPolicy(ZooPolicy):
    """Of ``ReFiT-ML1M-v0``."""

    env_id: ClassVar[str] = "ReFiT-ML1M-v0"
