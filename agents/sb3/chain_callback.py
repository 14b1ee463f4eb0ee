"""Logs quantities of a denoising chain that SB3 does not log: clipping, noise, the reward's terms.

Letters: N environments, D size of the diffused vector, n steps of a rollout.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.sb3.callbacks import denoising_problem
from agents.sb3.policies import DiffusionActorCriticPolicy


class ChainLogCallback(BaseCallback):
    """Logs diagnostics of a diffusion policy once per rollout.

    * ``rollout/clipped_share``: share of the action's numbers that SB3 clipped to the box. SB3 stores the
      unclipped actions with their log-probabilities, so with a share far from 0 it learns from actions that
      were not executed.
    * ``policy/std_min``, ``policy/std_max``: the chain's standard deviations, which are not learned.
    * ``rollout/logprob_sum``: the mean log-density of the actions, summed over D for either reduction.
    * ``reward/<term>``: means of the reward's terms over the finished episodes.

    For on-policy algorithms only; the ``policy/`` values need a ``DiffusionActorCriticPolicy``.
    """

    def __init__(self, verbose: int = 0) -> None:
        """Create a callback; pass it to ``learn(callback=...)``, in a list with others."""
        super().__init__(verbose)
        self._clipped: list[float] = []
        self._terms: dict[str, list[float]] = defaultdict(list)

    def _on_training_start(self) -> None:
        """Read the names of the reward's terms.

        Raises:
            ValueError: for an off-policy algorithm, or an environment that is not a denoising environment.
        """
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise ValueError(
                f"ChainLogCallback reads rollouts of PPO, A2C and TRPO; {type(self.model).__name__} has none"
            )
        self._names = denoising_problem(self.training_env).term_names

    def _on_step(self) -> bool:
        """Record the clipped share and the reward's terms of this step."""
        drawn, executed = self.locals["actions"], self.locals["clipped_actions"]  # (N, D), (N, D)
        self._clipped.append(np.count_nonzero(drawn != executed) / drawn.size)
        if self.locals["dones"].any():
            for info in self.locals["infos"]:
                for name in self._names:
                    if name in info:
                        self._terms[name].append(info[name])
        return True

    def _on_rollout_end(self) -> None:
        """Log the means and reset the records."""
        self.logger.record("rollout/clipped_share", float(np.mean(self._clipped)))
        for name, values in self._terms.items():
            self.logger.record(f"reward/{name}", float(np.mean(values)))
        self._clipped, self._terms = [], defaultdict(list)
        policy = self.model.policy
        if isinstance(policy, DiffusionActorCriticPolicy):
            self.logger.record("policy/std_min", float(policy.actor.std.min()))
            self.logger.record("policy/std_max", float(policy.actor.std.max()))
            dim = policy.actor.backbone.dim if policy.logprob_reduction == "mean" else 1
            log_probs = self.locals["rollout_buffer"].log_probs  # (n, N)
            self.logger.record("rollout/logprob_sum", float(log_probs.mean()) * dim)
