"""The environments that a fine-tuning agent rolls out on: made to fit its policy, or checked that they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import gymnasium as gym
import torch
from gymnasium.envs.registration import load_env_creator

from refit_env.data.identity import check_same_data
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.errors import SettingError
from refit_env.policy import DiffusionPolicy


class BatchSettings(Protocol):
    """The settings of an agent that decide how many episodes are run at a time."""

    @property
    def users_per_batch(self) -> int:
        """Users in a batch."""

    @property
    def samples_per_user(self) -> int:
        """Episodes of each user."""

    @property
    def relevance_draws(self) -> int:
        """Hold-outs that iterations take in turns."""


def check_id(env_id: str) -> None:
    """Refuse an environment of another suite; a user's own id of a denoising environment passes.

    Raises:
        SettingError: naming it.
    """
    place = gym.spec(env_id).vector_entry_point
    made = load_env_creator(place) if isinstance(place, str) else place
    if made is None or (isinstance(made, type) and not issubclass(made, DenoisingVectorEnv)):
        raise SettingError(
            "env", f"must be a denoising environment, such as 'ReFiT-ML1M-v0'; found {env_id!r}"
        )


def make_training_envs(
    env_id: str,
    policy: DiffusionPolicy,
    config: BatchSettings,
    device: torch.device,
    env_kwargs: Mapping[str, Any] | None = None,
    parts: int = 1,
) -> tuple[int, list[DenoisingVectorEnv]]:
    """Make the torch-backend environments that fit a policy, one for each of ``relevance_draws``.

    Args:
        env_id: a registered id.
        policy: gives T.
        config: gives the batch.
        device: where batches live.
        env_kwargs: further keywords of ``gym.make_vec``.
        parts: equal parts of a batch, of which the environments run one at a time.

    Returns:
        Users in a batch (at most those of the data), and the environments.

    Raises:
        ValueError: for several ``relevance_draws`` under a relevance that draws none.
    """
    check_id(env_id)
    kwargs = dict(env_kwargs or {})
    if not policy.backbone.embedding:  # u_T depends on its settings
        kwargs.setdefault("backbone", policy.backbone.name)
        kwargs.setdefault("backbone_options", policy.backbone.config_dict())
    kwargs |= {"backend": "torch", "device": str(device), "num_steps": policy.num_steps}
    kwargs |= {"vectorization_mode": "vector_entry_point", "autoreset_mode": "Disabled"}
    probe = cast("DenoisingVectorEnv", gym.make_vec(env_id, num_envs=1, **kwargs))
    mode, batch = probe.problem.relevance.mode, min(config.users_per_batch, len(probe.problem.users))
    share, draws = share_of(batch, parts), config.relevance_draws
    if draws > 1 and mode != "holdout":
        raise SettingError(
            "relevance_draws",
            f"must be 1 for relevance {mode!r}, found {draws}: only 'holdout' can be drawn again",
        )
    chosen = dict(kwargs.pop("relevance_kwargs", None) or {})
    first = chosen.pop("seed", 0)
    envs = [
        cast(
            "DenoisingVectorEnv",
            gym.make_vec(
                env_id,
                num_envs=share * config.samples_per_user,
                relevance_kwargs=chosen | ({"seed": first + n} if mode == "holdout" else {}),
                **kwargs,
            ),
        )
        for n in range(draws)
    ]
    return batch, envs


def share_of(batch: int, parts: int) -> int:
    """Return the users of each of ``parts`` equal parts of a batch.

    Raises:
        SettingError: naming ``users_per_batch``, if it cannot be divided.

    Example:
        >>> share_of(128, 2)
        64
    """
    if batch % parts:
        raise SettingError(
            "users_per_batch",
            f"must be a multiple of {parts}, the processes times the chunks that divide a batch, "
            f"found {batch}",
        )
    return batch // parts


def check_training_env(
    env: DenoisingVectorEnv, policy: DiffusionPolicy, config: BatchSettings, parts: int = 1
) -> None:
    """Refuse an environment that does not fit, before any work is done.

    Args:
        env: the environment.
        policy: the policy that acts in it.
        config: gives the batch.
        parts: equal parts of a batch, of which the environment runs one at a time.

    Raises:
        ValueError: naming what differs.
        DataError: if the policy was trained on another data set.
    """
    expected = share_of(config.users_per_batch, parts) * config.samples_per_user
    if env.num_envs != expected:
        raise ValueError(
            f"the environment has {env.num_envs} sub-environments; "
            f"users_per_batch * samples_per_user{f' / {parts}' if parts > 1 else ''} is {expected}"
        )
    problem = env.problem
    check_same_data(policy.backbone.trained_on, problem.dataset, "the policy")
    policy.backbone.check_can_learn(problem.dataset)
    if problem.num_steps != policy.num_steps:
        raise ValueError(f"the environment's T is {problem.num_steps}, the policy's {policy.num_steps}")
    if problem.dim != policy.backbone.dim:
        raise ValueError(f"the environment diffuses {problem.dim} numbers, the policy {policy.backbone.dim}")
