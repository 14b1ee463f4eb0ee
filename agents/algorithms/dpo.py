"""DPO on the denoising chain: preferences between pairs of chains, against the frozen pretrained policy.

Diffusion-DPO (arXiv 2311.12908) and D3PO (2311.13231) learn from pairs of chains of the same start, w better
than l, by

    L = -log sigmoid(beta [ log pi/pi_ref (w) - log pi/pi_ref (l) ])    at each step of the chain.

Here the reward decides the preference, and the chains are sampled from the current policy in each iteration.
The setting ``credit`` chooses the pairs:

- ``credit="episode"``: the G chains of a user are compared with each other. Only a few of a chain's thousands
  of numbers decide the comparison. Log-ratios are averaged over D, so that beta means the same for every
  catalogue.
- ``credit="coordinate"``: a chain is compared with the same chain whose number i of the last action is
  mirrored about its mean (equally likely, since the Gaussian is symmetric). For a list reward this
  counterfactual reward is exact (``agents.gradients.rank_thresholds``). All other terms of the two chains
  cancel in the log-ratio, so each chain gives D pairs. Most of them are ties.

Ties are left out in both cases, and counted (``train/tie_share``). DPO uses only the sign of the difference
of two rewards; with ``weigh_by_gap`` its size weighs the pair. At pi = pi_ref the expected gradient is then
that of the mean reward, times beta for pairs of independent chains, times 2 beta for mirrored numbers.

Letters: B users in the batch, G episodes of each, N = B * G, P pairs of a user, D size of the diffused vector
(= I items for ``coordinate``), T steps.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from agents.algorithms.configs import DPOConfig
from agents.gradients.counterfactual_advantage import check_credit
from agents.gradients.episodes import Rollout
from agents.gradients.rank_thresholds import Top, crossings, sum_over_parts
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from agents.training.step_subset import trained_steps
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import Reward


class DPO(FineTuner):
    """Direct preference optimisation in which the reward orders each pair.

    Example:
        >>> from agents import DPO
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> DPO(policy, "ReFiT-ML1M-v0").learn("runs/finetuned")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dpo"
    config_class: ClassVar[type[TrainerConfig]] = DPOConfig
    config: DPOConfig

    def check_settings(self) -> None:
        """Refuse rewards and policies that make no pairs.

        Raises:
            ValueError: for a deterministic policy.
            ValueError: for credit ``coordinate`` and a reward that is no list reward.
        """
        check_credit(self.config.credit, self.policy, self.env.problem)
        self.require_noise("log-ratios have no meaning")

    def update(self, users: Tensor) -> dict[str, float]:
        """Roll out, compare pairs by their rewards, and descend their loss."""
        with torch.no_grad():
            rollout = self.roll_out(users)
        compare = self._compare_numbers if self.config.credit == "coordinate" else self._compare_chains
        return rollout.scalars(self.env.problem.num_items) | compare(rollout)

    # ------------------------------------------------------------------ pairs of chains

    def _compare_chains(self, rollout: Rollout) -> dict[str, float]:
        """Compare the chains of each user; ``epochs`` updates."""
        group = rollout.samples_per_user
        winner, loser, gap, ties = chain_pairs(rollout.reward.view(-1, group), self.config.pairs)
        found = {"train/pairs": float(gap.numel()), "train/tie_share": ties}
        if not gap.numel():  # no pair differs, so there is no gradient
            return found | {"train/loss": 0.0, "train/accuracy": 0.0, "train/gradient_norm": 0.0}
        steps = trained_steps(self.config.train_steps, self.policy.num_steps, self.user_generator)
        weight = self._pair_weight(gap) / rollout.users.numel()  # (P,)
        for _ in range(self.config.epochs):
            self.optimizer.zero_grad(set_to_none=True)
            loss, right = 0.0, 0.0
            for t in steps:  # a graph at a time
                ratio = self._log_ratio(rollout, t)  # (N,)
                logit = self.config.beta * (ratio[winner] - ratio[loser])  # (P,)
                part = -(weight * functional.logsigmoid(logit)).sum()
                part.backward()
                loss += float(part.detach())
                right += float((logit > 0).float().mean()) / len(steps)
            norm = self.take_step()
        return found | {"train/loss": loss, "train/accuracy": right, "train/gradient_norm": norm}

    def _log_ratio(self, rollout: Rollout, t: int) -> Tensor:
        """Return (N,) log pi/pi_ref of the actions at step t, averaged over D.

        Of two Gaussians of one deviation it is (mu - mu_ref)(a - (mu + mu_ref) / 2) / std^2, which keeps the
        digits that a difference of two log-densities of thousands of numbers would lose.
        """
        std = float(self.policy.std[t])
        action = rollout.of_each(rollout.means[t]) + std * rollout.noise[t]  # (N, D)
        mean, anchor = (rollout.of_each(m) for m in self._means(rollout, t))  # (N, D)
        return ((mean - anchor) * (action - 0.5 * (mean + anchor))).mean(1) / std**2

    # ------------------------------------------------------------------ pairs of numbers

    def _compare_numbers(self, rollout: Rollout) -> dict[str, float]:
        """Compare each chain with its counterfactuals in one number; ``epochs`` updates."""
        last = self.policy.num_steps - 1
        gap = mirrored_gap(rollout, self.policy, self.env.problem.reward_fn)  # (N, D)
        apart = (2.0 / float(self.policy.std[last])) * rollout.noise[last]  # (N, D) (s - s') / std
        apart = apart * gap.sign()  # winner less loser, and 0 for ties
        weight = self._pair_weight(gap.abs()) / gap.numel()  # (N, D)
        for _ in range(self.config.epochs):
            self.optimizer.zero_grad(set_to_none=True)
            mean, anchor = self._means(rollout, last)
            lead = rollout.of_each(mean - anchor)  # (N, D)
            logit = self.config.beta * lead * apart  # (N, D)
            loss = -(weight * functional.logsigmoid(logit)).sum()
            loss.backward()
            norm = self.take_step()
        pairs = int((gap != 0).sum())
        return {
            "train/pairs": float(pairs),
            "train/tie_share": 1.0 - pairs / gap.numel(),
            "train/loss": float(loss.detach()),
            "train/accuracy": float((logit > 0).sum()) / max(pairs, 1),
            "train/gradient_norm": norm,
        }

    # ------------------------------------------------------------------ shared

    def _pair_weight(self, gap: Tensor) -> Tensor:
        """Return the weight of each pair, in the shape of its ``gap`` >= 0; 0 for ties."""
        return gap if self.config.weigh_by_gap else (gap > 0).float()

    def _means(self, rollout: Rollout, t: int) -> tuple[Tensor, Tensor]:
        """Return the means of the policy, with graph, and of the frozen one at the states of step t."""
        states = rollout.states[t]  # (N, D), or (B, D) where a user's chains share it
        context = self.context_of(rollout, states.shape[0])
        with torch.no_grad():
            anchor = self.reference.mean(states, t, context)
        return self.policy.mean(states, t, context), anchor


def chain_pairs(reward: Tensor, pairs: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return the pairs of a user's chains, the preferred one first.

    Args:
        reward: (B, G).
        pairs: ``all`` or ``best_worst``.

    Returns:
        winners (P,) and losers (P,), places in the flattened (B * G,) episodes; their gaps (P,), above 0; and
        the share of the compared pairs that were ties, which are left out.

    Example:
        >>> winner, loser, gap, ties = chain_pairs(torch.tensor([[0.0, 2.0, 0.0], [1.0, 1.0, 1.0]]), "all")
        >>> winner.tolist(), loser.tolist(), gap.tolist(), round(ties, 2)
        ([1, 1], [0, 2], [2.0, 2.0], 0.67)
    """
    users, group = reward.shape
    first = torch.arange(users, device=reward.device)[:, None] * group  # (B, 1)
    if pairs == "best_worst":
        one, other = reward.argmax(1, keepdim=True), reward.argmin(1, keepdim=True)  # (B, 1)
    else:
        index = torch.combinations(torch.arange(group, device=reward.device))  # (P, 2)
        one, other = index[:, 0].expand(users, -1), index[:, 1].expand(users, -1)  # (B, P)
    gap = reward.gather(1, one) - reward.gather(1, other)  # (B, P)
    winner = first + torch.where(gap > 0, one, other)
    loser = first + torch.where(gap > 0, other, one)
    kept = gap != 0
    return winner[kept], loser[kept], gap[kept].abs(), 1.0 - float(kept.float().mean())


def mirrored_gap(rollout: Rollout, policy: DiffusionPolicy, reward: Reward) -> Tensor:
    """Return the change of the reward if one number is mirrored about its mean, for each number by itself.

    Args:
        rollout: N finished episodes.
        policy: gives the last step's standard deviation.
        reward: a list reward, or a mix of which every part is one.

    Returns:
        (N, D) float32, r(s) - r(s_{-i}, 2 mu_i - s_i): positive where the draw is preferred, 0 for ties and
        for items that no list may hold.

    Raises:
        ValueError: if the reward is no list reward.
    """

    def gap(scores: Tensor, mean: Tensor, gains: Tensor, discount: Tensor, std: float, first: Top) -> Tensor:
        mirrored, out = 2.0 * mean - scores, torch.zeros_like(mean)  # (N, D)
        for threshold, change in crossings(scores, gains, discount, first):
            out += change * ((scores > threshold).float() - (mirrored > threshold).float())  # -1, 0 or 1
        return out

    return sum_over_parts(rollout, policy, reward, gap)
