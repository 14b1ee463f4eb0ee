"""Scorers: item scores of denoised vectors, which are the vectors themselves or come from a pretrained model.

The starting states of chains and the contexts of policies depend on the scorer, too.

Letters: B episodes, C size of a context, D size of the diffused vector, I items, U users.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.backbones import Backbone, backbone_class, backbone_config
from refit_env.backbones.latest import freeze
from refit_env.data import Dataset
from refit_env.data.identity import check_same_data
from refit_env.data.rows import SparseRows
from refit_env.diffusion import Diffusion
from refit_env.envs.config import ProblemConfig
from refit_env.policy import DiffusionPolicy
from refit_env.registration import TABLE

BOUND = 6.0
"""Default limit of the spaces where u holds scores: 1, the largest number in the data, plus five standard
deviations of N(0, 1). Where u is an embedding, the largest number of the item embeddings replaces the 1."""


class Scorer(ABC):
    """Computes the starting states of chains, and item scores of their ends.

    Attributes:
        backbone: name of the backbone.
        dim: D.
        bound: default limit of the spaces.
        diffusion: the backbone's own schedule.
        keeps_finite: whether the scores of finite vectors are always finite.
    """

    keeps_finite: ClassVar[bool] = False
    backbone: str
    dim: int
    bound: float
    diffusion: Diffusion

    @abstractmethod
    def write_start(self, users: Tensor, out: Tensor) -> None:
        """Write the noise-free u_T of ``users`` (B,) to ``out`` (B, D)."""

    @abstractmethod
    def context(self, users: Tensor) -> Tensor | None:
        """Return the condition of policies besides u, (B, C) float32; None where u_T identifies the user."""

    @abstractmethod
    def context_box(self) -> tuple[float, float, int] | None:
        """Lowest and highest value and size C of a context; None if there is none."""

    @abstractmethod
    def scores(self, u0: Tensor, users: Tensor) -> Tensor:
        """(B, I) item scores of vectors ``u0`` (B, D)."""

    @property
    def score_table(self) -> Tensor | None:
        """The slope (I, D) float32 of scores that are affine in an embedding u_0; None elsewhere."""
        return None

    def with_own_weights(self) -> Scorer:
        """Return a scorer with a copy of the weights, which ``set_weights`` can replace.

        Raises:
            ValueError: if this scorer has no weights.
        """
        raise ValueError(f"backbone {self.backbone!r} has no weights that score u_0")

    def set_weights(self, backbone: Backbone) -> None:
        """Replace the weights by those of ``backbone``; only after ``with_own_weights``.

        Raises:
            ValueError: if this scorer has no weights, or other environments share them.
        """
        self.with_own_weights()
        raise ValueError("other environments share these weights: call problem.with_own_scores() first")

    def copied(self) -> Scorer:
        """Return the scorer for a copied environment: this one, unless its weights can be replaced."""
        return self


class IdentityScorer(Scorer):
    """The vector u_0 holds the scores: D = I, and chains start from the visible rows."""

    keeps_finite: ClassVar[bool] = True

    def __init__(self, backbone: type[Backbone], seen: Dataset, settings: Any, device: torch.device) -> None:
        """Read the visible rows.

        Args:
            backbone: its rows are the starting states.
            seen: the data set, its visible part as the train split.
            settings: the backbone's configuration.
            device: device of batches.
        """
        self.dim, self.diffusion = seen.num_items, settings.diffusion()
        self.backbone, self.device = backbone.name, device
        self._rows = backbone.rows(seen, settings)  # (U, I)
        self._contexts = backbone.contexts(seen, settings, device)
        self._box = backbone.context_bounds(self.dim, settings)
        self.bound = max(BOUND, BOUND - 1 + float(self._rows.max()))

    @cached_property
    def _visible(self) -> SparseRows:
        """The rows on the device."""
        return SparseRows(self._rows, self.device)

    def write_start(self, users: Tensor, out: Tensor) -> None:
        """Write the visible rows; on a CPU NumPy's scatter needs half the time of torch's."""
        if self.device.type == "cpu":
            _scatter_rows(self._rows, users.numpy(), out)
        else:
            out.copy_(self._visible.dense(users))

    def context(self, users: Tensor) -> Tensor | None:
        """See ``Scorer``."""
        return None if self._contexts is None else self._contexts(users)

    def context_box(self) -> tuple[float, float, int] | None:
        """See ``Scorer``."""
        return self._box

    def scores(self, u0: Tensor, users: Tensor) -> Tensor:
        """Return the vectors themselves."""
        return u0


class ModelScorer(Scorer):
    """A pretrained model scores the embeddings u_0, in float64, so that a list does not depend on its batch.

    Attributes:
        model: the model, frozen.
    """

    def __init__(self, model: Backbone, seen: Dataset, device: torch.device, own: bool = False) -> None:
        """Set the model.

        Args:
            model: in float64 and evaluation mode.
            seen: the data set, its visible part as the train split.
            device: device of batches.
            own: whether no other environment shares the model, so that its weights can be replaced.
        """
        self.model, self.seen, self.device, self.own = model.to(device), seen, device, own
        self.backbone = model.name
        self.dim, self.diffusion = model.dim, model.diffusion
        self.bound = max(BOUND, BOUND - 1 + model.largest())
        self._shown = model.shown(seen, device)  # may be computed from the model's weights

    def write_start(self, users: Tensor, out: Tensor) -> None:
        """See ``Scorer``."""
        out.copy_(self.model.initial_state(users, self._shown(users)))

    def context(self, users: Tensor) -> Tensor | None:
        """See ``Scorer``."""
        context = self.model.context(users, self._shown(users))
        return None if context is None else context.float()

    def context_box(self) -> tuple[float, float, int] | None:
        """See ``Scorer``."""
        return self.model.context_box()

    @torch.no_grad()
    def scores(self, u0: Tensor, users: Tensor) -> Tensor:
        """Return the model's scores (B, I) float32."""
        context = self._context_of_each(users) if self.model.scores_by_context else None
        return self.model.scores(u0.double(), users, context).float()

    def _context_of_each(self, users: Tensor) -> Tensor | None:
        """Contexts (B, C) float64; each user in ``users`` (B,) is computed once."""
        some, place = torch.unique(users, return_inverse=True)  # (n,), (B,)
        context = self.model.context(some, self._shown(some))
        return None if context is None else context.double()[place]

    @cached_property
    def score_table(self) -> Tensor | None:
        """See ``Scorer``."""
        table = self.model.score_table()
        return None if table is None else table.float()

    def with_own_weights(self) -> Scorer:
        """Return a scorer with a copy of the model."""
        return ModelScorer(copy.deepcopy(self.model), self.seen, self.device, own=True)

    def set_weights(self, backbone: Backbone) -> None:
        """See ``Scorer``; buffers hold data, which training does not change."""
        if not self.own:
            super().set_weights(backbone)
        with torch.no_grad():
            for own, other in zip(self.model.parameters(), backbone.parameters(), strict=True):
                own.copy_(other)
        self.__dict__.pop("score_table", None)

    def copied(self) -> Scorer:
        """See ``Scorer``."""
        return self.with_own_weights() if self.own else self


def make_scorer(config: ProblemConfig, whole: Dataset, seen: Dataset, device: torch.device) -> Scorer:
    """Make the scorer of an environment.

    Args:
        config: the environment's arguments.
        whole: the data set that they name.
        seen: its episodes (``whole.episodes``), the visible part as the train split.
        device: device of batches.

    Raises:
        ValueError: if a model is needed and none is named, or it does not fit.
        CheckpointError: if it is missing or damaged.
        DataError: if it was trained on another data set.
    """
    kind = backbone_class(config.backbone)
    settings = backbone_config(config.backbone, seen.name, config.backbone_options)
    if not kind.embedding:
        return IdentityScorer(kind, seen, settings, device)
    return ModelScorer(load_score_model(config, whole), seen, device)


def load_score_model(config: ProblemConfig, dataset: Dataset) -> Backbone:
    """Load the frozen model that scores u_0 in an environment, in float64.

    Args:
        config: the environment's arguments, with the backbone's name and the folder of the model.
        dataset: the data set, whose I items it must rank.

    Raises:
        ValueError: if no checkpoint is named (with the command that makes one), or it does not fit.
        CheckpointError: if it is missing or damaged.
        DataError: if it was trained on another data set.
    """
    backbone, checkpoint = config.backbone, config.checkpoint
    if checkpoint is None:
        known = [row.env_id for row in TABLE if row.dataset == config.data]
        env_id = known[0] if known else "ReFiT-Custom-v0"
        which = f"--env {env_id}" if known else f"--data FOLDER --backbone {backbone}"
        raise ValueError(
            f"backbone {backbone!r} denoises embeddings, which only a trained model can score. Train one: "
            f"refit pretrain {which} --out runs/pretrained; "
            f"then make {env_id} with checkpoint='runs/pretrained'"
        )
    model = DiffusionPolicy.load(checkpoint, other_data=config.other_data).backbone
    if model.name != backbone or model.num_items != dataset.num_items:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} holds a {model.name!r} of {model.num_items} items; this "
            f"environment needs a {backbone!r} of {dataset.num_items} ({dataset.name!r})"
        )
    check_same_data(model.trained_on, dataset, f"checkpoint {str(checkpoint)!r}")
    return freeze(model.double().eval())


def _scatter_rows(matrix: Any, users: npt.NDArray[np.int64], out: Tensor) -> None:
    """Write the rows of ``users`` (B,) of a sparse ``matrix`` (U, I) to ``out`` (B, I)."""
    out.zero_()
    first, ends = matrix.indptr[users], matrix.indptr[users + 1]  # (B,)
    counts = ends - first  # (B,)
    stored = np.repeat(first - np.cumsum(counts) + counts, counts)  # (n,)
    stored += np.arange(stored.size, dtype=stored.dtype)  # (n,) where the matrix stores each value
    place = np.repeat(np.arange(len(users)) * out.shape[1], counts)  # (n,)
    place += matrix.indices[stored]
    out.numpy().reshape(-1)[place] = matrix.data[stored]
