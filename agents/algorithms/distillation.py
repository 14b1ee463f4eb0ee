"""Distillation: the supervised baseline of a reward that scores every item.

Such a reward (``ease``, ``gf_cf``, a target) gives each item a gain, so exploration is not needed: the scores
s of the noise-free chain can be fitted to the gains g directly, by the cross-entropy of ListNet (Cao et al.,
ICML 2007, top one; the teacher's gains in place of graded labels),

    L = - mean_n sum_i p_ni log softmax(s_n / temperature)_i,    p_n = g_n / sum_i g_ni,

with the same visible rows, batches, optimiser and selection as the agents have. The difference between an
agent and this baseline is the contribution of reinforcement learning where the teacher is known.

Letters: B users in the batch, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from agents.algorithms.configs import DistillConfig
from agents.gradients.linear_scores import linear_parts
from agents.gradients.listwise import listwise
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.evaluation.metrics import coverage_at_k, gini

TEMPERATURES = tuple(2.0**power for power in range(-10, 7))
"""Candidates where the temperature is fitted."""


class Distill(FineTuner):
    """Fits the scores of the noise-free chain to the gains that a reward gives to every item.

    Example:
        >>> from agents import Distill
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> kwargs = {"reward": "ease", "relevance": "holdout"}
        >>> Distill(policy, "ReFiT-Anime-v0", env_kwargs=kwargs).learn("runs/distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "distill"
    supports_ranges: ClassVar[bool] = False  # it reads the rows of the environments that it began with
    config_class: ClassVar[type[TrainerConfig]] = DistillConfig
    config: DistillConfig

    def check_settings(self) -> None:
        """Refuse a reward that gives no gain to each item.

        Raises:
            ValueError: if the reward has a part without gains.
        """
        linear_parts(self.env.problem.reward_fn, self._train_users[:1].to(self.device))

    def prepare(self) -> None:
        """Train the item embeddings if the settings say so, and fit the temperature."""
        if self.config.scores_learning_rate:
            self.train_scores(self.config.scores_learning_rate)
        backbone = self.policy.backbone
        self._shown = {env: backbone.shown(env.problem.seen, self.device) for env in self.envs}
        self.temperature = self.config.temperature or self._fitted()

    def update(self, users: Tensor) -> dict[str, float]:
        """One step down the cross-entropy of ``users`` (B,)."""
        scores = self._scores(self.env, users)  # (B, I)
        loss = listwise(scores / self.temperature, self._gains(users))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.take_step()
        reward_fn = self.env.problem.reward_fn
        lists = reward_fn.top_k(scores.detach(), users)  # (B, K)
        reward = reward_fn(scores.detach(), users, lists).value
        return {
            "reward/mean": float(reward.mean()),
            "train/loss": float(loss.detach()),
            "train/gradient_norm": norm,
            "lists/coverage": coverage_at_k(lists, self.env.problem.num_items),
            "lists/gini": gini(lists, self.env.problem.num_items),
        }

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the temperature, which was fitted to the pretrained model."""
        return {"temperature": torch.tensor(self.temperature, dtype=torch.float64)}

    def take_own_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the temperature back."""
        self.temperature = float(tensors["temperature"])

    def _scores(self, env: DenoisingVectorEnv, users: Tensor) -> Tensor:
        """(B, I) of the noise-free chain, with the graph of all that is trained; hidden items at -inf."""
        scores = self.policy.scores(users, self._shown[env](users))  # (B, I)
        hidden = env.problem.reward_fn.hidden(users)
        return scores if hidden is None else scores.masked_fill(hidden, -torch.inf)

    def _gains(self, users: Tensor) -> Tensor:
        """Return (B, I) the reward's gains of the items, at least 0; 0 for hidden ones."""
        reward_fn = self.env.problem.reward_fn
        total = torch.stack([gains for gains, _ in linear_parts(reward_fn, users)]).sum(0)  # (B, I)
        hidden, total = reward_fn.hidden(users), total.clamp(min=0.0)
        return total if hidden is None else total.masked_fill(hidden, 0.0)

    @torch.no_grad()
    def _fitted(self) -> float:
        """Return the temperature with the least loss of the model as it is."""
        users = self._train_users[: max(self.config.users_per_batch, 1)].to(self.device)
        scores, gains = self._scores(self.env, users), self._gains(users)
        return min(TEMPERATURES, key=lambda t: float(listwise(scores / t, gains)))
