"""Who is similar to a user: by the visible rows, by factors of them, or by a model's own vectors.

Letters: U users, I items, r rank, D size of the diffused vector, M neighbours.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from refit_env.checkpoint import load_checkpoint, weights_digest
from refit_env.errors import SettingError
from refit_env.item_factors import item_factors
from refit_env.neighbors import nearest_vectors
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.context import RewardContext
from refit_env.utils.content_cache import CACHE

SIMILAR_BY = ("rows", "index", "factors", "model")
"""Names for ``neighbors_by``."""
RANK = 64
"""r of ``factors``, less in a smaller data set."""
_BATCH = 512


class SimilarIds:
    """Each user's most similar users, found at the first use: in large data sets that takes minutes.

    Attributes:
        count: M.
    """

    def __init__(
        self, context: RewardContext, count: int, by: str = "rows", checkpoint: str | Path | None = None
    ) -> None:
        """Set the attributes, and check the model.

        Args:
            context: gives the visible rows; users of one group are not each other's neighbours.
            count: M.
            by: ``"rows"``: the cosine of the visible rows. ``"index"``: the same by an approximate search,
                nearly linear in the users (the extra ``neighbors``). ``"factors"``: that of their projections
                on the rows' 64 leading factors. ``"model"``: that of the vectors u_0 of a pretrained model's
                noise-free chain.
            checkpoint: folder of that model; None uses the environment's.

        Raises:
            SettingError: for ``"model"`` without a model.
        """
        self.context, self.count, self.by = context, count, by
        self._folder, self._key = "", None
        if by == "model":
            folder = context.model if checkpoint is None else checkpoint
            if folder is None:
                raise SettingError(
                    "neighbors_by",
                    "'model' needs a pretrained model: pass checkpoint, a run folder of refit pretrain",
                )
            self._folder, self._key = str(folder), weights_digest(load_checkpoint(folder)[0])

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """(U, M) the users, -1 where there are fewer; read-only, and shared by all rewards."""
        if self.by in ("rows", "index"):
            return self.context.neighbors(self.count, "exact" if self.by == "rows" else "approximate")
        visible, groups = self.context.relevance.visible, self.context.relevance.groups
        return CACHE.get("similar users", (visible, self.count, self.by, self._key, groups), self._find)

    def _find(self) -> npt.NDArray[np.int64]:
        """See ``ids``, for vectors."""
        visible, groups = self.context.relevance.visible, self.context.relevance.groups
        vectors = _factors(self.context) if self.by == "factors" else _u0(self.context, self._folder)
        vectors[np.diff(visible.indptr) == 0] = 0.0  # nobody without a visible item is a neighbour
        return nearest_vectors(vectors, self.count, groups)


def _factors(context: RewardContext) -> npt.NDArray[np.float32]:
    """(U, r) the visible rows, projected on their leading factors."""
    visible = context.relevance.visible
    rank = min(RANK, *(size - 1 for size in visible.shape))
    return np.asarray(visible @ item_factors(visible, rank), dtype=np.float32)


@torch.no_grad()
def _u0(context: RewardContext, folder: str) -> npt.NDArray[np.float32]:
    """(U, D) the vectors at the end of a model's noise-free chains, from the visible rows."""
    policy = DiffusionPolicy.load(folder, context.device, other_data=context.other_data).eval()
    shown = policy.backbone.shown(context.dataset.showing(context.relevance.visible), context.device)
    found = []
    for users in torch.split(torch.arange(context.num_users, device=context.device), _BATCH):
        start = policy.backbone.initial_state(users, shown(users))  # (B, D)
        found.append(policy.denoise(start, policy.backbone.context(users, shown(users))).cpu())
    return torch.cat(found).float().numpy()
