"""Constraints of fine-tuning: a Lagrangian whose multipliers a PID controller adapts.

The objective is (r + sum_c lambda_c r_c) / (1 + sum_c lambda_c), with r the reward and r_c the reward that
raises the constrained metric (lowers it for ``<=``). After each validation, with e_c the violation of the
constraint as a share of its limit, positive where it is violated, smoothed over validations,

    I_c <- max(0, I_c + k_I e_c),    lambda_c = max(0, k_P e_c + I_c + k_D max(0, e_c - e_c of before)),

as in Stooke, Achiam and Abbeel, "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods" (ICML
2020, arXiv 2007.03964). Violations are measured on validation, where the rule that selects is measured, too.

Letters: C constraints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agents.training.config import TrainerConfig
from refit_env.envs.problem import DenoisingProblem
from refit_env.errors import SettingError, did_you_mean
from refit_env.evaluation.ranking import list_lengths
from refit_env.evaluation.selection import LESS_IS_BETTER, Condition, fitted_metric, parse_condition
from refit_env.rewards import Reward
from refit_env.rewards.mix import Mix
from refit_env.rewards.registry import reward_class

REWARD_OF = {
    "ndcg": "ndcg",
    "recall": "recall",
    "coverage": "coverage",
    "gini": "coverage",
    "entropy": "coverage",
    "personalization": "coverage",
    "novelty": "novelty",
    "arp": "novelty",
    "aplt": "long_tail",
    "pop_rsp": "long_tail",
    "ild": "marginal_diversity",
    "calibration": "marginal_calibration",
}
"""Metric -> the reward that makes it better."""
SMOOTHING = 0.5
"""Weight of the earlier violations in the smoothed one."""


@dataclass(frozen=True)
class Gains:
    """k_P, k_I and k_D."""

    proportional: float
    """Gain of the violation."""
    integral: float
    """Gain of the violation's sum over validations."""
    derivative: float
    """Gain of the violation's growth."""


class Lagrangian:
    """The constraints of a training, and their multipliers.

    Attributes:
        conditions: the constraints.
        rewards: of each, the name of its reward.
        values: (C, 4) float64: the integral I, the smoothed violation, the one before it, and lambda.
    """

    def __init__(
        self, conditions: Sequence[Condition], rewards: Sequence[str], start: float, gains: Gains
    ) -> None:
        """Set the multipliers to ``start``."""
        self.conditions, self.rewards, self.gains = tuple(conditions), tuple(rewards), gains
        self.values = torch.zeros(len(self.conditions), 4, dtype=torch.float64)
        self.values[:, 0] = self.values[:, 3] = start
        self._fresh = True

    @classmethod
    def of(cls, config: TrainerConfig, problem: DenoisingProblem) -> Lagrangian:
        """Return the Lagrangian of settings.

        Raises:
            SettingError: naming ``constraint``, for a condition on a metric that no reward raises, or of the
                wrong direction.
        """
        lengths, conditions, names = list_lengths(problem.dataset), [], []
        for text in config.constraint:
            found = parse_condition(text)
            metric = fitted_metric(found.metric, "constraint", lengths, problem.num_items)
            kind = metric.partition("@")[0]
            if kind not in REWARD_OF:
                raise SettingError(
                    "constraint",
                    f"must be on one of {', '.join(REWARD_OF)}, which rewards can raise; found "
                    f"{kind!r}.{did_you_mean(kind, REWARD_OF)}",
                )
            sign = "<=" if kind in LESS_IS_BETTER else ">="
            if found.sign != sign:
                raise SettingError(
                    "constraint", f"{found} limits what is better: write {metric} {sign} ..., or leave it out"
                )
            conditions.append(replace(found, metric=metric))
            names.append(REWARD_OF[kind])
        gains = Gains(
            config.multiplier_proportional, config.multiplier_integral, config.multiplier_derivative
        )
        return cls(conditions, names, config.multiplier, gains)

    @property
    def names(self) -> tuple[str, ...]:
        """The constrained metrics."""
        return tuple(condition.metric for condition in self.conditions)

    @property
    def multipliers(self) -> list[float]:
        """Lambda of each constraint."""
        found: list[float] = self.values[:, 3].tolist()
        return found

    def update(self, means: Mapping[str, float], start: Mapping[str, float]) -> None:
        """Adapt the multipliers to a validation.

        Args:
            means: its metrics.
            start: those of the model that training began with.
        """
        for row, condition in zip(self.values, self.conditions, strict=True):
            scale = max(abs(condition.limit(start)), 1e-12)
            error = condition.violation(means, start) / scale
            before = float(row[1])
            smooth = error if self._fresh else SMOOTHING * before + (1 - SMOOTHING) * error
            growth = 0.0 if self._fresh else max(0.0, smooth - before)
            integral = max(0.0, float(row[0]) + self.gains.integral * smooth)
            value = self.gains.proportional * smooth + integral + self.gains.derivative * growth
            row.copy_(torch.tensor([integral, smooth, before, max(0.0, value)], dtype=row.dtype))
        self._fresh = False

    def restore(self, values: Tensor) -> None:
        """Set the multipliers of a saved state."""
        self.values.copy_(values)
        self._fresh = False

    def scalars(self) -> dict[str, float]:
        """Return what a validation logs: lambda and the smoothed violation of each constraint."""
        out: dict[str, float] = {}
        for row, metric in zip(self.values.tolist(), self.names, strict=True):
            out |= {f"multiplier/{metric}": row[3], f"violation/{metric}": row[1]}
        return out

    def weights(self, own: Mapping[str, float]) -> dict[str, float]:
        """Return the weights of the mix, from those of the reward ``own``.

        Example:
            >>> gains = Gains(0.0, 0.0, 0.0)
            >>> found = Lagrangian([parse_condition("ndcg@20 >= start")], ["ndcg"], 1.0, gains)
            >>> found.weights({"coverage": 1.0})
            {'coverage': 0.5, 'ndcg': 0.5}
        """
        out, total = dict(own), 1 + sum(self.multipliers)
        for name, value in zip(self.rewards, self.multipliers, strict=True):
            out[name] = out.get(name, 0.0) + value
        return {name: weight / total for name, weight in out.items()}


class Constrained:
    """The reward of one environment, mixed with the rewards of the constraints.

    Attributes:
        mix: the reward that the environment pays.
    """

    def __init__(self, problem: DenoisingProblem, lagrangian: Lagrangian) -> None:
        """Make the mix; a part that both have is one part."""
        reward = problem.reward_fn
        parts: dict[str, tuple[Reward, float]]
        if isinstance(reward, Mix):
            parts = dict(reward.rewards)
        else:
            spec = problem.config.reward
            parts = {spec if isinstance(spec, str) else type(reward).__name__: (reward, 1.0)}
        self._own = {name: weight for name, (_, weight) in parts.items()}
        for name in lagrangian.rewards:
            if name not in parts:
                parts[name] = reward_class(name)(reward.context), 0.0
        self.mix = Mix(reward.context, parts)
        self.weigh(lagrangian)

    def weigh(self, lagrangian: Lagrangian) -> None:
        """Set the weights to those of the multipliers."""
        weights = lagrangian.weights(self._own)
        self.mix.rewards = {name: (part, weights[name]) for name, (part, _) in self.mix.rewards.items()}
