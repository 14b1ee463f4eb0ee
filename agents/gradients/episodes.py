"""Finished episodes, as the estimators and the algorithms read them.

Letters: B users in the batch, G episodes of each, N = B * G episodes, D size of the diffused vector, K list
length, T denoising steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agents.gradients import advantages
from refit_env.evaluation.metrics import coverage_at_k, gini

Slopes = list[tuple[Tensor, Tensor]]
"""Tensors with graphs, each with the derivative of the objective in it, for ``torch.autograd.backward``."""


@dataclass
class Rollout:
    """N finished episodes.

    Attributes:
        users: (B,) int64; episode n belongs to ``users[n // G]``.
        means: T means with their graphs, (N, D) each; the first is (B, D) where a user's episodes share it.
        noise: T standard-normal draws (N, D); the action at t is ``means[t] + std[t] * noise[t]``.
        states: T vectors (N, D) that the actions were taken in, the first (B, D) where shared; without graph,
            but where the chain is a function of the weights (``pathwise``).
        u0: (N, D) the last action, without graph.
        reward: (N,) terminal rewards.
        terms: the reward's terms by name, (N,) each.
        lists: (N, K) int64 the rewarded lists.
        steps: the steps whose gradient is wanted; the others' means carry no graph.
        seconds: wall-clock time that it took.
    """

    users: Tensor
    means: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    u0: Tensor = field(default_factory=lambda: torch.empty(0))
    reward: Tensor = field(default_factory=lambda: torch.empty(0))
    terms: dict[str, Tensor] = field(default_factory=dict)
    lists: Tensor = field(default_factory=lambda: torch.empty(0))
    steps: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def samples_per_user(self) -> int:
        """G."""
        return self.reward.numel() // self.users.numel()

    def advantage(self, baseline: str) -> Tensor:
        """Return (B, G) the rewards less a baseline of ``agents.gradients.advantages``."""
        return advantages.advantage(baseline, self.reward.view(self.users.numel(), -1))

    def outcome(self) -> Rollout:
        """Return the users, the rewards and the lists, without the chains."""
        return Rollout(
            self.users,
            reward=self.reward,
            terms=self.terms,
            lists=self.lists,
            steps=self.steps,
            seconds=self.seconds,
        )

    def of_each(self, value: Tensor) -> Tensor:
        """(N, ...) the rows of ``value``: (N, ...) itself, or (B, ...) repeated for a user's episodes."""
        rows = self.reward.numel()
        return value if value.shape[0] == rows else value.repeat_interleave(rows // value.shape[0], 0)

    def of_shared(self, derivative: Tensor, t: int) -> Tensor:
        """The derivative in ``means[t]`` from that in each episode's mean (N, D): summed where shared."""
        rows = self.means[t].shape[0]
        if rows == derivative.shape[0]:
            return derivative
        return derivative.view(rows, -1, derivative.shape[1]).sum(1)

    def scalars(self, num_items: int) -> dict[str, float]:
        """What an iteration logs about its episodes: rewards by term, their spread, what is recommended."""
        out = {"reward/mean": float(self.reward.mean()), "seconds/rollout": self.seconds}
        out |= {f"reward/{name}": float(value.float().mean()) for name, value in self.terms.items()}
        if self.samples_per_user > 1:
            spread = self.reward.view(self.users.numel(), -1).std(1)  # (B,)
            out["reward/within_user_std"] = float(spread.mean())
            out["reward/zero_variance_share"] = float((spread < advantages.EPSILON).float().mean())
        return out | {
            "lists/coverage": coverage_at_k(self.lists, num_items),
            "lists/gini": gini(self.lists, num_items),
        }


def together(outcomes: Sequence[Rollout], gather: Callable[[Tensor], Tensor]) -> Rollout:
    """Return the outcomes of a batch's parts as one.

    Args:
        outcomes: those of this process.
        gather: returns the rows of all processes.
    """
    first = outcomes[0]
    return Rollout(
        gather(torch.cat([one.users for one in outcomes])),
        reward=gather(torch.cat([one.reward for one in outcomes])),
        terms={name: gather(torch.cat([one.terms[name] for one in outcomes])) for name in first.terms},
        lists=gather(torch.cat([one.lists for one in outcomes])),
        steps=first.steps,
        seconds=sum(one.seconds for one in outcomes),
    )
