"""EASE and GF-CF: the linear models of the rewards with these names, as recommenders.

Letters: B users in a batch, I items.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, cast

import torch
from msgspec import Meta

from agents.baselines.base import ROWS, SETS, Baseline, BaselineConfig, Scorer
from refit_env.data.dataset import Dataset
from refit_env.rewards import ModelReward, make_relevance, make_reward
from refit_env.settings import Nonnegative, Size


class RewardModel(Baseline):
    """A reward's model, with all train items of a user as input."""

    reward: ClassVar[str]
    """The name of the reward."""

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Fit the reward's model."""
        shown = make_relevance("train", data)
        k = min(20, data.num_items)
        made = make_reward(self.reward, data, shown, k=k, device=device, **asdict(self.config))
        return Scorer(cast(ModelReward, made).predict)


@dataclass(frozen=True)
class EaseConfig(BaselineConfig):
    """EASE's settings."""

    l2: Annotated[float, Meta(gt=0)] = 200.0
    """Factor of the squared weights."""


class EaseBaseline(RewardModel):
    """EASE: the ridge regression of each item on all others (Steck, WWW 2019, arXiv 1905.03375).

    Of rows in order: of the next item on the history, the item b places back weighted 1 / b (SLIST's
    transition model; Choi et al., WWW 2021, arXiv 2103.16104). It is the model of the reward ``ease``.
    """

    name: ClassVar[str] = "ease"
    reward: ClassVar[str] = "ease"
    forms: ClassVar[tuple[str, ...]] = (SETS, ROWS)
    config_class: ClassVar[type[BaselineConfig]] = EaseConfig


@dataclass(frozen=True)
class GraphFilterConfig(BaselineConfig):
    """GF-CF's settings."""

    rank: Size = 256
    """Leading singular vectors of the low-pass filter."""
    alpha: Nonnegative = 0.3
    """Weight of the low-pass filter beside the linear one."""


class GraphFilterBaseline(RewardModel):
    """GF-CF: a linear and an ideal low-pass filter (Shen et al., CIKM 2021, arXiv 2108.07567).

    It is the model of the reward ``gf_cf``, with the rank of the authors' code.
    """

    name: ClassVar[str] = "gf-cf"
    reward: ClassVar[str] = "gf_cf"
    config_class: ClassVar[type[BaselineConfig]] = GraphFilterConfig
