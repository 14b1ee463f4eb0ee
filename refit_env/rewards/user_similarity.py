"""Who is similar to a user: by the visible rows, by factors of them, or by a model's own vectors.

Letters: U users, I items, r rank, D size of the diffused vector, M neighbours, R rows, S users
of their source.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from refit_env.checkpoint import load_checkpoint, weights_digest
from refit_env.errors import SettingError
from refit_env.item_factors import item_factors
from refit_env.neighbors import cached_neighbors, nearest_vectors
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.context import RewardContext
from refit_env.utils.content_cache import CACHE

SIMILAR_BY = ("rows", "index", "factors", "model")
"""Names for ``neighbors_by``."""
AMONG = ("episodes", "users")
"""Names for ``neighbors_among``."""
RANK = 64
"""r of ``factors``, less in a smaller data set."""
_BATCH = 512


class SimilarIds:
    """Each user's most similar users, found at the first use: in large data sets that takes minutes.

    Attributes:
        count: M.
        among: ``"episodes"``, or ``"users"``: the users of the source of rows.
    """

    def __init__(
        self,
        context: RewardContext,
        count: int,
        by: str = "rows",
        checkpoint: str | Path | None = None,
        among: str = "episodes",
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
            among: ``"users"``: the neighbours of a row are users of the source, by the cosine of the sets of
                items that their rows show.

        Raises:
            SettingError: for ``"model"`` without a model; for ``"users"`` of data without rows, or with
                ``"factors"`` or ``"model"``.
        """
        self.context, self.count, self.by, self.among = context, count, by, among
        if among == "users":
            _check_sources(context, by)
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
        search = "exact" if self.by == "rows" else "approximate"
        if self.among == "users":
            groups = self.context.relevance.groups
            assert groups is not None  # _check_sources
            profiles = by_source(self.context.relevance.visible, groups)
            return cached_neighbors(profiles, self.count, None, search)[groups]  # (R, M) of 0..S-1
        if self.by in ("rows", "index"):
            return self.context.neighbors(self.count, search)
        visible, groups = self.context.relevance.visible, self.context.relevance.groups
        return CACHE.get("similar users", (visible, self.count, self.by, self._key, groups), self._find)

    def _find(self) -> npt.NDArray[np.int64]:
        """See ``ids``, for vectors."""
        visible, groups = self.context.relevance.visible, self.context.relevance.groups
        vectors = _factors(self.context) if self.by == "factors" else _u0(self.context, self._folder)
        vectors[np.diff(visible.indptr) == 0] = 0.0  # nobody without a visible item is a neighbour
        return nearest_vectors(vectors, self.count, groups)


def by_source(rows: sp.csr_matrix, groups: npt.NDArray[np.int64]) -> sp.csr_matrix:
    """Return the union of the items of each user's rows.

    Args:
        rows: (R, I).
        groups: (R,) the user of the source of each row, in 0..S-1.

    Returns:
        (S, I) float32 of ones.

    Example:
        >>> rows = sp.csr_matrix([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])
        >>> by_source(rows, np.array([0, 0, 1])).toarray().tolist()
        [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    ones = np.ones(len(groups), np.float32)
    members = sp.csr_matrix((ones, (groups, np.arange(len(groups)))))  # (S, R)
    out = sp.csr_matrix(members @ rows)
    out.data = np.ones_like(out.data, dtype=np.float32)
    return out


def _check_sources(context: RewardContext, by: str) -> None:
    """Refuse neighbours among the users of the source, where there are no rows or no items to compare."""
    if context.relevance.groups is None:
        raise SettingError(
            "neighbors_among",
            f"must be episodes for {context.dataset.name!r}, whose episodes are users and not rows of users, "
            "found 'users'",
        )
    if by in ("factors", "model"):
        raise SettingError(
            "neighbors_by",
            f"must be rows or index for neighbors_among 'users', which has no vectors, found {by!r}",
        )


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
