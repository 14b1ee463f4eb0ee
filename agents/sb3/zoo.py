"""Policies for rl-zoo3's configuration files: one class for each environment, with its pretrained run.

The zoo's hyper-parameter search replaces ``policy_kwargs``, so the run folder is an attribute of a class.
Create the runs first: ``refit pretrain --env ReFiT-ML1M-v0 --out runs/zoo/ReFiT-ML1M-v0``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from gymnasium import spaces
from torch import nn

from agents.sb3.policies import DiffusionActorCriticPolicy

RUNS = Path("runs") / "zoo"
"""The zoo's pretrained runs, one folder per environment id, relative to the working directory."""


class ZooPolicy(DiffusionActorCriticPolicy):
    """A diffusion policy that accepts the zoo's settings, and starts from the run of its environment.

    Attributes:
        env_id: the environment of the run; subclasses set it.
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
        """Build the policy.

        Args:
            observation_space: see ``DiffusionActorCriticPolicy``.
            action_space: see ``DiffusionActorCriticPolicy``.
            lr_schedule: see ``DiffusionActorCriticPolicy``.
            actor: see ``DiffusionActorCriticPolicy``; None uses the run of ``env_id`` in ``RUNS``.
            net_arch: the zoo's ``{"pi": [...], "vf": [...]}``: the first number of ``vf`` is the critic's
                width; ``pi`` has no effect, because the actor is pretrained.
            activation_fn: activation of the critic.
            ortho_init: no effect: the critic's last layer is initialised with zeros.
            **settings: other arguments of ``DiffusionActorCriticPolicy``.
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
    """The policy for ``ReFiT-Synthetic-v0``."""

    env_id: ClassVar[str] = "ReFiT-Synthetic-v0"


class ML100KPolicy(ZooPolicy):
    """The policy for ``ReFiT-ML100K-v0``."""

    env_id: ClassVar[str] = "ReFiT-ML100K-v0"


class ML1MPolicy(ZooPolicy):
    """The policy for ``ReFiT-ML1M-v0``."""

    env_id: ClassVar[str] = "ReFiT-ML1M-v0"
