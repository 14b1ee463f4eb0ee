"""What a reward prefers: its correlation with held-out NDCG, and its distance to known rewards.

Two rewards that differ by a function of the user and a positive factor have the same optimal policies. The
distance ignores both, as EPIC does for Markov rewards (Gleave et al., ICLR 2021, arXiv 2006.13900): values
are centred within each user, and the Pearson distance sqrt((1 - rho) / 2) of what is left is 0 for the same
preferences, 0.71 for unrelated and 1 for opposite ones.

Letters: B users, P episodes of each, N = B * P.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from agents.reward_checks.episodes import Episodes
from refit_env.data import RowDataset
from refit_env.evaluation.intervals import ends_in_words
from refit_env.rewards import reward_class, reward_names
from refit_env.rewards.linear_models import ModelReward

RESAMPLES = 1000
"""Bootstrap samples of users."""


def centred(rows: Tensor) -> npt.NDArray[np.float64]:
    """(B, P) float64, each user's values less their mean."""
    out = rows.double().cpu().numpy()
    return np.asarray(out - out.mean(1, keepdims=True))


def correlation(
    one: Tensor, other: Tensor, seed: int = 0, independent: int | None = None
) -> dict[str, float | None] | None:
    """Return the correlation of two values within users, with a bootstrap interval over users.

    Args:
        one: (B, P) values of each user's episodes.
        other: (B, P) other values of them.
        seed: of the bootstrap.
        independent: number of independent users among the B; None for all.

    Returns:
        ``value``, ``low`` and ``high`` (95 %; None with fewer than two independent users); None where one of
        the two never differs within a user.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[0.0, 1.0], [5.0, 7.0]])
        >>> round(correlation(rows, 2 * rows + 1)["value"], 6)
        1.0
    """
    a, b = centred(one), centred(other)
    sums = np.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)])  # (3, B)
    whole = _rho(sums.sum(1))
    if whole is None:
        return None
    if (a.shape[0] if independent is None else independent) < 2:
        return {"value": whole, "low": None, "high": None}
    draws = np.random.default_rng(seed).integers(a.shape[0], size=(RESAMPLES, a.shape[0]))
    found = [rho for n in range(RESAMPLES) if (rho := _rho(sums[:, draws[n]].sum(1))) is not None]
    low, high = np.quantile(found, [0.025, 0.975])
    return {"value": whole, "low": float(low), "high": float(high)}


def _rho(sums: npt.NDArray[np.float64]) -> float | None:
    """Pearson's correlation from the sums of products and of squares; None where one does not vary."""
    product, one, other = (float(v) for v in sums)
    if one <= 1e-18 or other <= 1e-18:
        return None
    return max(-1.0, min(1.0, product / math.sqrt(one * other)))


def correlation_in_words(found: Mapping[str, float | None], digits: int = 3) -> str:
    """Format a correlation and its interval.

    Example:
        >>> correlation_in_words({"value": 0.5, "low": 0.25, "high": 0.75}, 2)
        '+0.50 [+0.25, +0.75]'
        >>> correlation_in_words({"value": 0.5, "low": None, "high": None})
        '+0.500 [-]'
    """
    return f"{found['value']:+.{digits}f} [{ends_in_words(found['low'], found['high'], ', ', digits)}]"


def with_held_out(value: Tensor, episodes: Episodes) -> dict[str, float | None] | None:
    """Return the correlation of a reward (N,) with NDCG@K on validation items; None where there are none."""
    found = episodes.held_out_ndcg
    if found is None:
        return None
    ndcg, there = found
    rows = episodes.by_user(there).all(1)  # (B,)
    users = episodes.by_user(episodes.users)[rows, 0]  # (B,)
    independent = np.unique(episodes.problem.dataset.groups_of(users.cpu().numpy())).size
    return correlation(episodes.by_user(value)[rows], episodes.by_user(ndcg)[rows], independent=independent)


def distance(rho: float) -> float:
    """Return the Pearson distance of a correlation.

    Example:
        >>> distance(1.0), distance(-1.0)
        (0.0, 1.0)
    """
    return math.sqrt((1.0 - rho) / 2.0)


def known_rewards(episodes: Episodes) -> list[str]:
    """Return the registered rewards that the problem allows and that need no model."""
    problem = episodes.problem
    names = reward_names(
        problem.relevance.mode,
        rows=isinstance(problem.dataset, RowDataset),
        dislikes=problem.dataset.dislikes is not None,
        outside=False,
    )
    return [name for name in names if not issubclass(reward_class(name), ModelReward)]


def distances(
    value: Tensor, episodes: Episodes, against: Iterable[str], own: Mapping[str, Tensor] | None = None
) -> dict[str, float | None]:
    """Return the distance of a reward to others, the nearest first.

    Args:
        value: (N,) its values.
        episodes: of them.
        against: names of rewards.
        own: values (N,) of rewards that are known already.

    Returns:
        By name; None where one of the two does not vary within users, at the end.
    """
    out: dict[str, float | None] = {}
    for name in against:
        known = (own or {}).get(name)
        other = episodes.with_reward(name)(episodes.scores, episodes.users).value if known is None else known
        a, b = centred(episodes.by_user(value)), centred(episodes.by_user(other))
        rho = _rho(np.array([(a * b).sum(), (a * a).sum(), (b * b).sum()]))
        out[name] = None if rho is None else distance(rho)
    return dict(sorted(out.items(), key=lambda item: (item[1] is None, item[1] or 0.0)))
