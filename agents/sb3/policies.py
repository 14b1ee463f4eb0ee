"""A diffusion recommender as the actor of Stable-Baselines3's on-policy algorithms: PPO, A2C, TRPO.

Letters: B rows in a batch, C size of a context, D size of the diffused vector, H size of an encoded context,
T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from agents.sb3.actor import check_actor, make_actor
from agents.sb3.critic import ChainValue
from agents.sb3.distribution import FixedStdGaussian
from agents.sb3.lr_scale import SCALE, scale_groups
from agents.sb3.spaces import Observations, check_context, check_spaces, read_state
from agents.sb3.stack import check_stack
from refit_env.backbones import Condition
from refit_env.errors import CheckpointError
from refit_env.gaussian_chain import Reduction
from refit_env.policy import DiffusionPolicy
from refit_env.utils.callers import running_objects


class DiffusionActorCriticPolicy(ActorCriticPolicy):
    """``policy=`` for PPO, A2C and sb3-contrib's TRPO: the actor is a pretrained diffusion recommender.

    The action is N(mean(u, t), std_t^2 I), the posterior step of ``refit_env.policy.DiffusionPolicy``, and
    ``predict(deterministic=True)`` along an episode is its noise-free chain. The std is not learned, so the
    entropy is constant and ``ent_coef`` has no effect. Dropout is always off, because log-probabilities must
    be those of the network that drew the actions. The critic is ``agents.sb3.critic.ChainValue``.

    Observations are the environments' ``Dict(t, u)``, with ``history`` where the backbone is conditioned on
    more than u, also after ``FlattenObservation``. The weights with which the environment scores u_0 and
    computes contexts are frozen (``Backbone.freeze_scores``).

    A saved file holds the weights once and is loaded without a run folder: see ``agents.sb3.actor``.

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
    value_net: ChainValue  # type: ignore[assignment]  # a whole network; TRPO finds it by its name

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        *,
        actor: dict[str, Any] | None = None,
        logprob_reduction: Reduction = "mean",
        value_width: int = 64,
        value_activation: type[torch.nn.Module] = torch.nn.Tanh,
        value_learning_rate: float = 1e-2,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        use_sde: bool = False,
        n_critics: int | None = None,
    ) -> None:
        """Build actor and critic, and check them against each other and the spaces.

        Args:
            observation_space: ``Dict(t, u)`` or ``Dict(history, t, u)``, or either flattened.
            action_space: ``Box`` of the next vector, with the bounds of u.
            lr_schedule: the actor's learning rate by remaining progress.
            actor: ``{"run": FOLDER}``, see ``agents.sb3.actor.make_actor``; changed in place. It is required:
                the default only serves an error that states what to pass.
            logprob_reduction: ``"mean"`` divides log-probabilities by D, ``"sum"`` does not: see
                ``agents.sb3.distribution``. Ratio-based algorithms need ``"mean"`` beyond a few dozen items.
            value_width: width of the critic.
            value_activation: activation of the critic.
            value_learning_rate: the critic's initial learning rate. SB3's ``learning_rate`` is the actor's;
                if it is a schedule, the critic's rate follows it. If the schedule begins at 0, this is the
                critic's rate where the actor's is highest.
            optimizer_class: Adam. A2C passes its RMSprop unless it is created with ``use_rms_prop=False``,
                which is recommended: that RMSprop is for gradients of size one, and those of a mean
                log-probability are a thousand times smaller, so that the weights would not change.
            optimizer_kwargs: further arguments of the optimiser.
            use_sde: must be False: the diffusion policy has its own noise.
            n_critics: unused: DDPG passes it, which is refused as other off-policy algorithms are.

        Raises:
            CheckpointError: if the run folder holds no policy, or another backbone than named.
            ValueError: if no actor is named, or the spaces have another number of items or another T, or are
                not those of a chain, or the algorithm is off-policy (SAC, TD3, TQC).
        """
        if use_sde:
            raise ValueError("use_sde=True: a diffusion policy has its own noise, pass use_sde=False")
        if logprob_reduction not in ("mean", "sum"):
            raise ValueError(f"logprob_reduction={logprob_reduction!r} must be 'mean' or 'sum'")
        self.actor_settings, self.logprob_reduction = check_actor(actor), logprob_reduction
        self.value_width, self.value_activation = value_width, value_activation
        self.value_learning_rate = value_learning_rate
        self._weights_missing: str | None = None
        self._frozen: frozenset[str] = frozenset()
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            optimizer_class=optimizer_class,
            optimizer_kwargs=dict(optimizer_kwargs or {}),
        )

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        """Build the networks and the optimiser; called by SB3's constructor."""
        for algorithm in running_objects(OffPolicyAlgorithm, "_setup_model")[:1]:
            raise ValueError(
                f"{type(self).__name__} has no critic of actions, which {type(algorithm).__name__} needs: it "
                "is for PPO, A2C and TRPO. Use SB3's own policy ('MultiInputPolicy') with low-rank residual "
                "actions: see docs/howto/stable-baselines3.md"
            )
        self._check_stack("_setup_model")
        self.actor, self._weights_missing = make_actor(self.actor_settings)
        self.actor.eval()
        check_spaces(self.observation_space, self.action_space, self.actor)
        if self._weights_missing is None:  # otherwise the weights are loaded later
            check_context(self.observation_space, self.actor)
        dim, steps = self.actor.backbone.dim, self.actor.num_steps
        self.value_net = ChainValue(
            dim, steps, self.value_width, self.value_activation, context=self.actor.backbone.condition_size
        )
        self.action_dist = FixedStdGaussian(dim, self.logprob_reduction)
        own = dict(self.actor.named_parameters())
        self._frozen = frozenset(f"actor.{name}" for name, p in own.items() if not p.requires_grad)
        trained = [p for p in own.values() if p.requires_grad]
        rate = lr_schedule(1.0)
        # A warm-up schedule begins at 0.
        full = rate or max(lr_schedule(progress / 100) for progress in range(101))
        # 0 for a policy loaded without algorithm
        scale = self.value_learning_rate / full if full > 0 else 1.0
        groups = [
            {"params": trained, SCALE: 1.0},
            {"params": list(self.value_net.parameters()), SCALE: scale},
        ]
        options: dict[str, Any] = {"lr": rate} | self.optimizer_kwargs
        self.optimizer = self.optimizer_class(groups, **options)
        scale_groups(self.optimizer)

    # ------------------------------------------------------------------ called by SB3

    def forward(self, obs: Observations, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions (B, D), values (B, 1) and log-probabilities (B,) for observations."""
        u, t, condition = self.state(obs)
        distribution = self._distribution(u, t, condition)
        actions = distribution.get_actions(deterministic=deterministic)  # (B, D)
        return actions, self._values(u, t, condition), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Observations, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values (B, 1), log-probabilities (B,) of ``actions`` (B, D), and entropies (B,)."""
        u, t, condition = self.state(obs)
        distribution = self._distribution(u, t, condition)
        return self._values(u, t, condition), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Observations) -> FixedStdGaussian:
        """Return the distribution of the next vectors.

        With gradients enabled it can be differentiated twice, as TRPO needs; torch's fused attention cannot.
        """
        with sdpa_kernel(SDPBackend.MATH) if torch.is_grad_enabled() else nullcontext():
            return self._distribution(*self.state(obs))

    def predict_values(self, obs: Observations) -> Tensor:
        """Return values (B, 1) for observations."""
        with torch.no_grad():  # the critic does not train the encoder
            u, t, condition = self.state(obs)
        return self._values(u, t, condition)

    def set_training_mode(self, mode: bool) -> None:
        """Call ``train(mode)``; before a rollout, check the wrappers of the algorithm's environments.

        Raises:
            ValueError: if they change vectors or actions, see ``agents.sb3.stack``.
        """
        if not mode:
            self._check_stack("collect_rollouts")
        super().set_training_mode(mode)

    def _check_stack(self, method: str) -> None:
        """Check the environments of the algorithm whose ``method`` is running: SB3 does not pass them."""
        for algorithm in running_objects(OnPolicyAlgorithm, method)[:1]:
            if algorithm.env is not None:
                check_stack(algorithm.env)

    def train(self, mode: bool = True) -> DiffusionActorCriticPolicy:
        """Set the critic's mode; the actor's dropout stays off, so that PPO's first ratios are one."""
        super().train(mode)
        self.actor.eval()
        return self

    # ------------------------------------------------------------------ states and distributions

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that are not frozen, with names by which TRPO separates actor and critic.

        TRPO assigns parameters with "value" in their name to the critic, and differentiates by all others.
        But the actor's attention has a projection of that name, and frozen weights have no derivative.
        """
        dot = f"{prefix}." if prefix else ""
        for name, parameter in super().named_parameters("", recurse, remove_duplicate):
            if name not in self._frozen:
                critic = name.startswith("value_net.")
                yield dot + (name if critic else name.replace("value", "content")), parameter

    def state(self, obs: Observations) -> tuple[Tensor, Tensor, Condition | None]:
        """Split observations into vectors u (B, D), steps t (B,) and encoded contexts (B, H) or None."""
        u, t, context = read_state(obs, self.actor.backbone.context_size)
        return u, t, self.actor.encode(context)

    def _values(self, u: Tensor, t: Tensor, condition: Condition | None) -> Tensor:
        """Return the critic's values (B, 1); their gradient does not reach the actor's encoder."""
        values: Tensor = self.value_net(u, t, None if condition is None else condition.value.detach())
        return values

    def _distribution(self, u: Tensor, t: Tensor, condition: Condition | None) -> FixedStdGaussian:
        """Return N(mean(u, t), std_t^2 I) for u (B, D), t (B,) and encoded contexts (B, H) or None."""
        if self._weights_missing is not None:
            raise CheckpointError(
                f"this policy has no weights: {self._weights_missing}, and no weights were loaded. "
                "Pass a new policy_kwargs={'actor': {'run': FOLDER}}"
            )
        first, last = int(t.min()), int(t.max())
        if not 0 <= first <= last < self.actor.num_steps:
            raise ValueError(
                f"t must lie in 0..{self.actor.num_steps - 1}, found {first}..{last}: a finished chain has "
                "no next vector"
            )
        # In a rollout all rows have the same step. One number is faster than a column of steps, and gives
        # bit-identical results to DiffusionPolicy.denoise.
        step = first if first == last else t
        mean = self.actor.mean(u, step, condition)  # (B, D)
        distribution: FixedStdGaussian = self.action_dist  # type: ignore[assignment]
        return distribution.proba_distribution(mean, self.actor.step_std(step))

    # ------------------------------------------------------------------ saving

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights; the run folder is not needed afterwards."""
        loaded = super().load_state_dict(state_dict, *args, **kwargs)
        self._weights_missing = None
        return loaded

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what ``policy.save`` stores with the weights: plain values, spaces and classes."""
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
