"""What every validation logs besides metrics, so that over-optimisation of a reward can be seen in the log.

===========================  ==============================================================================
scalar                       is
===========================  ==============================================================================
``policy/kl_to_pretrained``  KL to the start, divided by D, along the noise-free chains of 128 users
``policy/kl_speed``          its growth an iteration since the last validation
``monitor/reward``           the reward of those chains: what training maximises, without exploration
``monitor/popularity``       mean share of the users who have a recommended item among their train items
``monitor/alarms``           number of rules of ``agents.runs.alarms`` that have fired so far
``choice/gain``              gain over the start by the metric that selects, mean over users
``choice/standard_error``    its standard error over users; a gain below two of them is within noise
===========================  ==============================================================================

Coverage and Gini of the lists are among the metrics (``valid/coverage@20``, ``valid/gini@20``), and the share
of users whose episodes all have the same reward is logged with each batch (``reward/zero_variance_share``).

Letters: n users, I items, K list length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from agents.runs.alarms import KL, POPULARITY, REWARD, SPEED, alarms
from agents.training.kl import compared_chains
from refit_env.data import Dataset
from refit_env.envs.problem import DenoisingProblem
from refit_env.policy import DiffusionPolicy

ALARMS = "monitor/alarms"
"""Scalar with the number of alarms so far."""


def monitored(
    policy: DiffusionPolicy,
    reference: DiffusionPolicy,
    problem: DenoisingProblem,
    users: Tensor,
    lists: npt.NDArray[np.int64],
) -> dict[str, float]:
    """Return the scalars of the policy as it is now.

    Args:
        policy: the trained one.
        reference: the start.
        problem: of the first hold-out, so that all validations measure the same.
        users: (n,) int64 users of training, of whom the first 128 are used.
        lists: (m, K) the lists that validation made; -1 is an empty place.
    """
    divergence, u0, chosen = compared_chains(policy, reference, problem, users)
    reward = problem.score(u0, chosen).value  # (B,)
    return {
        KL: divergence,
        REWARD: float(reward.mean()),
        POPULARITY: mean_popularity(lists, problem.dataset),
    }


def trends(history: Sequence[Mapping[str, float]], row: Mapping[str, float]) -> dict[str, float]:
    """Return the scalars that compare a validation with the earlier ones.

    Args:
        history: rows of all earlier iterations.
        row: of this one, ``iteration`` and the scalars of ``monitored`` among them.
    """
    out = {}
    last = next((old for old in reversed(history) if KL in old), None)
    if last is not None and row["iteration"] > last["iteration"]:
        out[SPEED] = (row[KL] - last[KL]) / (row["iteration"] - last["iteration"])
    return out | {ALARMS: float(len(alarms([*history, row])))}


def mean_popularity(lists: npt.NDArray[np.int64], dataset: Dataset) -> float:
    """Return the mean over recommended items of the share of users who have the item in training.

    Args:
        lists: (m, K) item numbers; -1 is an empty place.
        dataset: the data set; for rows, the share of histories that hold the item.
    """
    rows = dataset.episodes
    counts = np.bincount(rows.train.items, minlength=rows.num_items)  # (I,)
    return float(counts[lists[lists >= 0]].mean() / rows.num_users)
