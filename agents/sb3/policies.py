"""A diffusion recommender as the actor of Stable-Baselines3's on-policy algorithms: PPO, A2C, TRPO.

Letters: B rows in a batch, D size of the diffused vector, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.sb3.actor import make_actor
from agents.sb3.critic import ChainValue
from agents.sb3.distribution import FixedStdGaussian
from agents.sb3.optimizer import SCALE, scale_groups
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy, Reduction

Observations = Tensor | dict[str, Tensor]
"""(B, 1 + D), t before u, or a mapping of ``t`` (B, 1) and ``u`` (B, D)."""


class DiffusionActorCriticPolicy(ActorCriticPolicy):
    """``policy=`` for PPO, A2C and sb3-contrib's TRPO: the actor is a pretrained diffusion recommender.

    The action is N(mean(u, t), std_t^2 I), the posterior step of ``refit_env.policy.DiffusionPolicy``, and
    ``predict(deterministic=True)`` along an episode is its noise-free chain. The std is not learnt, so the
    entropy is constant and ``ent_coef`` without effect. Dropout stays off, in training too: log-probabilities
    must be those of the network that acted. The critic is ``agents.sb3.critic.ChainValue``.

    Observations are the environments' ``Dict(t, u)``, or those after ``FlattenObservation``.

    A saved file holds the weights once and needs no run folder to be loaded: see ``agents.sb3.actor``.

    Example:
        >>> from stable_baselines3 import PPO
        >>> from agents.sb3 import DiffusionActorCriticPolicy, to_sb3_vec_env
        >>> import gymnasium as gym
        >>> import refit_env
        >>> envs = to_sb3_vec_env(gym.make_vec("ReFiT-Synthetic-v0", num_envs=8))
        >>> model = PPO(  # doctest: +SKIP
        ...     DiffusionActorCriticPolicy, envs, n_steps=4, batch_size=32, gamma=1.0, gae_lambda=1.0,
        ...     learning_rate=1e-5, policy_kwargs={"actor": {"run": "runs/elbo"}},
        ... ).learn(1000)
    """

    actor: DiffusionPolicy
    value_net: ChainValue  # type: ignore[assignment]  # a whole network here; TRPO tells it by its name

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        *,
        actor: dict[str, Any],
        logprob_reduction: Reduction = "mean",
        value_width: int = 64,
        value_activation: type[torch.nn.Module] = torch.nn.Tanh,
        value_learning_rate: float = 1e-2,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        use_sde: bool = False,
    ) -> None:
        """Build actor and critic; what does not fit each other or the spaces is refused here.

        Args:
            observation_space: ``Dict(t, u)``, or it flattened.
            action_space: ``Box`` of the next vector, with the bounds of u.
            lr_schedule: the actor's learning rate by remaining progress.
            actor: ``{"run": FOLDER}``, see ``agents.sb3.actor.make_actor``; completed in place.
            logprob_reduction: ``"mean"`` divides log-probabilities by D, ``"sum"`` does not: see
                ``agents.sb3.distribution``. Ratio-based algorithms need ``"mean"`` beyond a few dozen items.
            value_width: width of the critic.
            value_activation: its nonlinearity.
            value_learning_rate: the critic's learning rate at the beginning; SB3's ``learning_rate``, the
                actor's, may be a schedule, which the critic's then follows.
            optimizer_class: Adam. A2C puts its RMSprop here unless it is made with ``use_rms_prop=False``,
                which it should be: that RMSprop is for gradients of size one, and those of a mean
                log-probability are a thousand times smaller, so that nothing moves.
            optimizer_kwargs: further arguments of the optimiser.
            use_sde: must be False: the diffusion policy has its own noise.

        Raises:
            CheckpointError: if the run folder holds no policy, or another backbone than named.
            ValueError: if the spaces are another item count's, another T's, or not those of a chain.
        """
        if use_sde:
            raise ValueError("use_sde=True: a diffusion policy has its own noise, pass use_sde=False")
        if logprob_reduction not in ("mean", "sum"):
            raise ValueError(f"logprob_reduction={logprob_reduction!r} must be 'mean' or 'sum'")
        self.actor_settings, self.logprob_reduction = actor, logprob_reduction
        self.value_width, self.value_activation = value_width, value_activation
        self.value_learning_rate = value_learning_rate
        self._weights_missing: str | None = None
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            optimizer_class=optimizer_class,
            optimizer_kwargs=dict(optimizer_kwargs or {}),
        )

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        """Make the networks and the optimiser; called by SB3's constructor."""
        self.actor, self._weights_missing = make_actor(self.actor_settings)
        self.actor.eval()
        check_spaces(self.observation_space, self.action_space, self.actor)
        dim, steps = self.actor.backbone.dim, self.actor.num_steps
        self.value_net = ChainValue(dim, steps, self.value_width, self.value_activation)
        self.action_dist = FixedStdGaussian(dim, self.logprob_reduction)
        trained = [p for p in self.actor.parameters() if p.requires_grad]
        rate = lr_schedule(1.0)
        scale = self.value_learning_rate / rate if rate > 0 else 1.0  # a policy loaded by itself has no rate
        groups = [
            {"params": trained, SCALE: 1.0},
            {"params": list(self.value_net.parameters()), SCALE: scale},
        ]
        options: dict[str, Any] = {"lr": rate} | self.optimizer_kwargs
        self.optimizer = self.optimizer_class(groups, **options)
        scale_groups(self.optimizer)

    # ------------------------------------------------------------------ what SB3 calls

    def forward(self, obs: Observations, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B, D), values (B, 1) and log-probabilities (B,) in the states observed."""
        u, t = self.state(obs)
        distribution = self._distribution(u, t)
        actions = distribution.get_actions(deterministic=deterministic)  # (B, D)
        return actions, self.value_net(u, t), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Observations, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (B, 1), log-probabilities (B,) of ``actions`` (B, D), and entropies (B,)."""
        u, t = self.state(obs)
        distribution = self._distribution(u, t)
        return self.value_net(u, t), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Observations) -> FixedStdGaussian:
        """The distribution of the next vectors."""
        return self._distribution(*self.state(obs))

    def predict_values(self, obs: Observations) -> Tensor:
        """Values (B, 1) of the states observed."""
        values: Tensor = self.value_net(*self.state(obs))  # (B, 1)
        return values

    def train(self, mode: bool = True) -> DiffusionActorCriticPolicy:
        """Switch the critic; the actor's dropout stays off, or PPO's ratios would not begin at one."""
        super().train(mode)
        self.actor.eval()
        return self

    # ------------------------------------------------------------------ states and distributions

    def state(self, obs: Observations) -> tuple[Tensor, Tensor]:
        """The vectors u (B, D) and steps t (B,) int64 that the observations tell."""
        if isinstance(obs, dict):
            return obs["u"], obs["t"].squeeze(-1).round().long()
        return obs[:, 1:], obs[:, 0].round().long()

    def _distribution(self, u: Tensor, t: Tensor) -> FixedStdGaussian:
        """N(mean(u, t), std_t^2 I) for u (B, D) and t (B,)."""
        if self._weights_missing is not None:
            raise CheckpointError(
                f"this policy has no weights: {self._weights_missing}, and none were loaded since. "
                "Pass a fresh policy_kwargs={'actor': {'run': FOLDER}}"
            )
        first, last = int(t.min()), int(t.max())
        if not 0 <= first <= last < self.actor.num_steps:
            raise ValueError(
                f"t must lie in 0..{self.actor.num_steps - 1}, got {first}..{last}: an ended chain has no "
                "next vector"
            )
        # A chain's rows share their step in a rollout, never in a minibatch: one number is the faster way,
        # and that of DiffusionPolicy.denoise, to the bit.
        step = first if first == last else t
        mean = self.actor.mean(u, step)  # (B, D)
        distribution: FixedStdGaussian = self.action_dist  # type: ignore[assignment]
        return distribution.proba_distribution(mean, self.actor.step_std(step))

    # ------------------------------------------------------------------ saving

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Put weights in place; from then on it does not matter whether the run folder is there."""
        loaded = super().load_state_dict(state_dict, *args, **kwargs)
        self._weights_missing = None
        return loaded

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What ``policy.save`` writes beside the weights: plain values, spaces and classes."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "actor": self.actor_settings,
            "logprob_reduction": self.logprob_reduction,
            "value_width": self.value_width,
            "value_activation": self.value_activation,
            "value_learning_rate": self.value_learning_rate,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


def check_spaces(observation: spaces.Space[Any], action: spaces.Space[Any], actor: DiffusionPolicy) -> None:
    """Refuse spaces that are not those of the actor's chain.

    Raises:
        ValueError: naming the item count, T or action space that differs, and what to use there.
    """
    dim, steps = actor.backbone.dim, actor.num_steps
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise ValueError(f"action space {action} is not that of a denoising chain: Box of the next vector")
    if isinstance(observation, spaces.Dict) and set(observation) == {"t", "u"}:
        t, u = observation["t"], observation["u"]
    elif isinstance(observation, spaces.Box) and len(observation.shape) == 1 and observation.shape[0] > 1:
        low, high = observation.low, observation.high
        t, u = spaces.Box(low[:1], high[:1]), spaces.Box(low[1:], high[1:])
    else:
        raise ValueError(
            f"observation space {observation} is not Dict(t, u) or that flattened: the actor must see the "
            "whole vector. Behind TopKObservation or FactorObservation use SB3's own policies"
        )
    assert isinstance(t, spaces.Box) and isinstance(u, spaces.Box)
    if u.shape != (dim,) and action.shape == u.shape:
        raise ValueError(
            f"the environment has vectors of {u.shape[0]} numbers, the actor was made for {dim} items: "
            "another data set's run"
        )
    if action.shape != u.shape or not np.array_equal(action.high, u.high):
        raise ValueError(
            f"the action space {_short(action)} is not that of the vector {_short(u)}: behind ResidualAction "
            "and LowRankAction an action is no next vector. Use SB3's own policies there (SAC, TD3, TQC)"
        )
    if u.shape != (dim,):
        raise ValueError(f"observed vectors have {u.shape[0]} numbers, the actor's {dim}")
    if float(t.high[0]) != steps:
        raise ValueError(
            f"the environment's T is {t.high[0]:g}, the actor's {steps}: make the environment with "
            f"num_steps={steps}, or the actor with policy_kwargs={{'actor': {{'num_steps': {t.high[0]:g}}}}}"
        )


def _short(space: spaces.Box) -> str:
    """A box without its thousands of bounds."""
    return f"Box({space.low.min():g}, {space.high.max():g}, {space.shape})"
