"""T-DiffRec (Wang et al., SIGIR 2023, arXiv 2304.04971, 3.4): DiffRec on rows that weigh recent items more.

Letters: U users, I items, n_u train items of a user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import scipy.sparse as sp
from msgspec import Meta

from refit_env.backbones.diffrec import PUBLISHED as DIFFREC
from refit_env.backbones.diffrec import DiffRec, DiffRecConfig
from refit_env.backbones.row_weights import rising_weights
from refit_env.data.dataset import Dataset
from refit_env.errors import SettingError


@dataclass(frozen=True)
class TDiffRecConfig(DiffRecConfig):
    """T-DiffRec's settings; the defaults are DiffRec's for ML-1M, which its authors did not weigh."""

    w_min: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """What u_T holds of a user's oldest item."""
    w_max: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """What it holds of the newest."""

    def check_together(self) -> None:
        """Refuse weights that fall."""
        if self.w_min > self.w_max:
            raise SettingError("w_min", f"must be <= w_max={self.w_max:g}, found {self.w_min:g}")


class TDiffRec(DiffRec):
    """DiffRec whose rows hold ``linspace(w_min, w_max, n_u)`` in the user's order of time instead of ones.

    The network learns to reproduce the weighted row, and chains start from it. What is masked and what is
    rewarded stays binary. A user with one item has ``w_min`` there, as in the reference code; of an item that
    is repeated the latest visit counts.
    """

    name: ClassVar[str] = "t-diffrec"
    config_class: ClassVar[type] = TDiffRecConfig

    def __init__(self, num_items: int, config: TDiffRecConfig | None = None) -> None:
        """Build an untrained network.

        Args:
            num_items: I.
            config: settings; those of ML-1M if None.

        """
        config = config if config is not None else TDiffRecConfig()
        super().__init__(num_items, config)

    @classmethod
    def rows(cls, dataset: Dataset, config: Any) -> sp.csr_matrix:
        """(U, I) the weights of the train items, by their place in the user's order of time.

        Raises:
            ValueError: if the data set's rows do not stand in order of time.
        """
        if not dataset.time_ordered:
            raise ValueError(
                f"backbone 't-diffrec' weighs items by their time; the rows of {dataset.name!r} do not stand "
                "in order of time. Take 'diffrec'"
            )
        return rising_weights(dataset.train, config.w_min, config.w_max)


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
"""The configurations of T-DiffRec's own checkpoints, by data set; ``ml-1m`` is DiffRec's with the weights of
``yelp``, which nobody has tuned."""
