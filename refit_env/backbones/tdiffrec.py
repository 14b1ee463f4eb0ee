"""T-DiffRec (Wang et al., SIGIR 2023, arXiv 2304.04971, 3.4): DiffRec on rows weighted by recency.

Letters: U users, I items, n_u train items of a user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import scipy.sparse as sp
from msgspec import Meta
from torch import Tensor

from refit_env.backbones.diffrec import PUBLISHED as DIFFREC
from refit_env.backbones.diffrec import DiffRec, DiffRecConfig
from refit_env.backbones.row_weights import history_rows, rising, rising_weights
from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError


@dataclass(frozen=True)
class TDiffRecConfig(DiffRecConfig):
    """T-DiffRec's settings; the defaults are DiffRec's for ML-1M, without published weights."""

    w_min: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Weight of a user's oldest item in u_T."""
    w_max: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Weight of a user's newest item in u_T."""

    def check_together(self) -> None:
        """Raise an error if ``w_min`` > ``w_max``."""
        if self.w_min > self.w_max:
            raise SettingError("w_min", f"must be <= w_max={self.w_max:g}, found {self.w_min:g}")


class TDiffRec(DiffRec):
    """DiffRec whose rows hold ``linspace(w_min, w_max, n_u)`` in the user's order of time instead of ones.

    The network is trained to reconstruct the weighted row, and chains start from it. Masks and rewards stay
    binary. The only item of a user has the weight ``w_min``, as in the reference code; a repeated item has
    the weight of its latest visit.
    """

    name: ClassVar[str] = "t-diffrec"
    config_class: ClassVar[type] = TDiffRecConfig
    config: TDiffRecConfig

    def __init__(self, num_items: int, config: TDiffRecConfig | None = None) -> None:
        """Build an untrained network.

        Args:
            num_items: I.
            config: settings; None uses those for ML-1M.
        """
        config = config if config is not None else TDiffRecConfig()
        super().__init__(num_items, config)

    @classmethod
    def rows(cls, dataset: Dataset, config: Any) -> sp.csr_matrix:
        """Return the weights (U, I) of the train items, by their position in the user's order of time.

        Raises:
            ValueError: if the data set's rows are not sorted by time.
        """
        if not dataset.time_ordered:
            raise ValueError(
                f"backbone 't-diffrec' weights items by their time; the rows of {dataset.name!r} are not "
                "sorted by time. Use 'diffrec'"
            )
        return rising_weights(dataset.train, config.w_min, config.w_max)

    def show(self, histories: Tensor) -> Tensor:
        """Return weighted rows (B, I) of histories."""
        low, high = self.config.w_min, self.config.w_max
        return history_rows(histories, self.num_items, lambda place, count: rising(place, count, low, high))


def _published(
    like: str, num_steps: int, scale: float, low: float, high: float, w_min: float
) -> TDiffRecConfig:
    return TDiffRecConfig(
        hidden=DIFFREC[like].hidden,
        num_steps=num_steps,
        noise_scale=scale,
        noise_min=low,
        noise_max=high,
        w_min=w_min,
    )


PUBLISHED: dict[str, TDiffRecConfig] = {
    "ml-1m": TDiffRecConfig(),
    "amazon": _published("amazon", 10, 5e-4, 0.001, 0.005, 0.1),
    "yelp": _published("yelp", 5, 0.005, 0.001, 0.01, 0.5),
}
"""The configurations of the authors' checkpoints, by data set; ``ml-1m`` is DiffRec's with the weights of
``yelp``, not tuned."""
