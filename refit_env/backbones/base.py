"""The interface of diffusion backbones: denoiser, schedule, start of the chains, scores.

There are two families. For the CF backbones u is an interaction row: D = I, chains start from the history,
and u_0 are the scores. For the others u is in an embedding space: D is its size, and u_0 needs trained
weights to become scores.

Each backbone defines its input for a user (``shown``): a row (B, I), or a short history (B, L). The parameter
``shown`` of the methods below is this input.

Letters: B users in a batch, D size of the diffused vector, I items, C size of a context, H of its encoding,
L history length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from refit_env.backbones.row_weights import history_rows
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.data.rows import SparseRows
from refit_env.diffusion import Diffusion
from refit_env.utils.user_code import Source


@dataclass(frozen=True)
class Condition:
    """An encoded context, the network's input, computed once for a whole chain.

    Attributes:
        value: (B, H), with its autograd graph.
    """

    value: Tensor

    def repeat_interleave(self, repeats: int, dim: int = 0) -> Condition:
        """Repeat each user's row, as ``Tensor.repeat_interleave`` does."""
        return Condition(self.value.repeat_interleave(repeats, dim))


Lookup = Callable[[Tensor], Tensor]
"""Ids (B,) of users or of training examples -> their data (B, ...)."""

Context = Tensor | Condition | None
"""Context of a network: as environments return it (B, C), encoded, or None."""


class Backbone(nn.Module, ABC):
    """A denoiser f(u, k, context) -> x0 with the schedule of its training.

    Attributes:
        name: name in the registry, or the place of a user's class.
        code: the file of a user's class and its content, if it was named by its place.
        conditional: whether the network has a context besides u; only then may a chain start from noise.
        embedding: whether u is in an embedding space, so that scoring needs trained weights.
        shows_rows: whether the context is the visible row (B, I); only without ``embedding``.
        scores_by_context: whether ``scores`` needs the context.
        tasks: tasks of the data sets that it supports.
        start: default start of its chains in an environment.
        learns_on_other_data: whether it can be trained on data other than that of its fit.
        fitted_again: beginnings of the names of the weights that are fitted to new data, not carried over.
        num_items: I.
        dim: D.
        diffusion: the schedule of training, T steps.
    """

    name: ClassVar[str]
    code: ClassVar[Source | None] = None
    config_class: ClassVar[type]
    conditional: ClassVar[bool] = False
    embedding: ClassVar[bool] = False
    shows_rows: ClassVar[bool] = False
    scores_by_context: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("cf", "social", "poi")
    start: ClassVar[str] = "history"
    learns_on_other_data: ClassVar[bool] = True
    fitted_again: ClassVar[tuple[str, ...]] = ()

    trained_on: DataIdentity | None = None
    num_items: int
    dim: int
    diffusion: Diffusion
    config: Any

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Any = None) -> Self:
        """Build an untrained backbone for a data set; this default uses only the number of items.

        All that a backbone uses of the data must be in its configuration or its state, so that a checkpoint
        can be loaded without data.

        Args:
            dataset: the data set of training.
            config: a ``config_class``; None uses its defaults.

        Raises:
            ValueError: if the backbone does not support the data set's task.
        """
        check_task(cls, dataset)
        return cls(dataset.num_items, config)

    @classmethod
    def rows(cls, dataset: Dataset, config: Any) -> sp.csr_matrix:
        """Return the rows (U, I) for u_T where it is an interaction row; by default 1 for each train item."""
        return dataset.train.csr

    @classmethod
    def contexts(cls, dataset: Dataset, config: Any, device: torch.device | str) -> Lookup | None:
        """Return the function users (B,) -> contexts (B, C) where u holds scores, known without weights.

        Environments of a backbone without ``embedding`` use it; it must equal ``context``. The default is the
        visible rows with ``shows_rows``, else None.
        """
        return SparseRows(cls.rows(dataset, config), device).dense if cls.shows_rows else None

    @classmethod
    def may_train_on(cls, dataset: Dataset, config: Any) -> npt.NDArray[np.bool_] | None:
        """Return which users (U,) may start episodes and be training examples; None (the default): all."""
        return None

    def allow_other_data(self) -> None:
        """Allow the use with other data than that of the training, of the same users and items by number."""
        self.trained_on = None

    def check_can_learn(self, dataset: Dataset) -> None:
        """Raise a ``ValueError`` if a part of the model was not fitted as training on this data needs it."""

    @abstractmethod
    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the clean vectors.

        Args:
            u: (B, D) noisy vectors.
            timestep: index in the training chain, one for all or (B,) int64.
            condition: the encoded context (B, H), or None.

        Returns:
            (B, D).
        """

    @abstractmethod
    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the published training loss, a scalar.

        Args:
            shown: input for the users: (B, I) interactions that are noised, or (B, L) histories.
            target: prediction target: (B, I) rows (in the published training, equal to ``shown``), or (B,)
                int64 items.
            generator: random generator of the noise and the steps.
        """

    def ranking_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the ranking loss of the backbone's own, a scalar; arguments as in ``elbo_loss``.

        Most have none: those are trained to rank through the noise-free chain of a policy.

        Raises:
            ValueError: if the backbone does not define one.
        """
        raise ValueError(f"backbone {self.name!r} has no ranking loss of its own")

    def examples(self, dataset: Dataset, device: torch.device | str) -> tuple[Lookup, Lookup, Tensor] | None:
        """Return the training examples where they are not the users' rows.

        Returns:
            ids (B,) -> ``shown`` of ``elbo_loss``, ids (B,) -> its ``target``, and all ids (n,) int64; None
            (the default) where the examples are the users and their rows.
        """
        return None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups for pretraining; by default all parameters in one group."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function users (B,) -> network input; by default their train rows (B, I) float32.

        Users are those of ``dataset.episodes``. An environment that hides a part of the rows passes a data
        set whose train split holds the visible part.

        Raises:
            ValueError: if the backbone does not support the data set's task.
        """
        return SparseRows(self.rows(dataset.episodes, self.config), device).dense

    def show(self, histories: Tensor) -> Tensor:
        """Return the network input of people who are in no data set; part of an exported model.

        It equals the result of ``shown`` for users who have these histories. The default is that of the
        default ``rows``: 1 for each item.

        Args:
            histories: (B, n) int64 items, oldest first; numbers outside 0..I-1 are padding.

        Returns:
            What ``shown`` returns for a batch, for example (B, I) float32.

        Raises:
            ValueError: if the input is not a function of a history, or the backbone does not define this
                method and has another ``rows`` or ``shown``.
        """
        own = type(self)
        if own.shown is not Backbone.shown or own.rows.__func__ is not Backbone.rows.__func__:  # type: ignore[attr-defined]
            raise ValueError(
                f"backbone {self.name!r} defines no `show`: it ranks for a data set's users alone"
            )
        return history_rows(histories, self.num_items)

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the mean of u_T (B, D) of ``users`` (B,) with input ``shown``; by default ``shown``.

        It is the start of the noise-free chain in evaluation.
        """
        return shown

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """Return the context of the network (B, C) float32, as environments return it; or None."""
        return shown if self.shows_rows else None

    @classmethod
    def context_bounds(cls, num_items: int, config: Any) -> tuple[float, float, int] | None:
        """Return ``context_box`` where it is known without weights."""
        return (0.0, 1.0, num_items) if cls.shows_rows else None

    def context_box(self) -> tuple[float, float, int] | None:
        """Return the lowest and highest value and the size C of a context; None without a context."""
        return self.context_bounds(self.num_items, self.config)

    @property
    def context_size(self) -> int:
        """C, known without trained weights; 0 without a context."""
        box = self.context_bounds(self.num_items, self.config)
        return 0 if box is None else box[2]

    @property
    def beside_history(self) -> str:
        """What it reads of a user that no history holds, in a word; "" for nothing."""
        return ""

    @property
    def condition_size(self) -> int:
        """H, the size of an encoded context; by default C."""
        return self.context_size

    def encode(self, context: Tensor) -> Condition:
        """Encode the context (B, C) as the network's input (B, H)."""
        return Condition(context)

    def denoise(self, u: Tensor, chain: Diffusion) -> Tensor | None:
        """Return u_0 (B, D) of the noise-free chain from ``u`` (B, D), where it needs no step after step.

        Policies use it where no gradient is needed. It must equal the chain of ``predict_x0`` up to rounding.

        Args:
            u: (B, D) the start.
            chain: its steps.

        Returns:
            None (the default) where the steps are needed.
        """
        return None

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """Return item scores (B, I) of denoised vectors ``u0`` (B, D); by default ``u0`` itself, as D = I.

        Args:
            u0: (B, D).
            users: (B,) int64.
            context: (B, C) result of ``context``, for backbones with ``scores_by_context``.
        """
        return u0

    def score_table(self) -> Tensor | None:
        """Return the slope (I, D) of the scores in u_0 if they are affine in u_0, else None."""
        return None

    def score_offset(self, table: Tensor) -> Tensor | None:
        """Return what trained weights add to everyone's scores at any u_0, (I,); None where they add nothing.

        Args:
            table: (I, D) result of ``score_table``.
        """
        return None

    def context_table(self, table: Tensor) -> Tensor | None:
        """Return the slope (I, C) of the scores in the context, for backbones with ``scores_by_context``.

        Args:
            table: (I, D) result of ``score_table``.
        """
        return None

    def largest(self) -> float:
        """Return the largest absolute value in a clean vector; 1 where u holds scores."""
        return 1.0

    @property
    def item_axes(self) -> Mapping[str, tuple[int, ...]] | None:
        """Name of a tensor of the state dict -> its axes whose first I entries belong to the items.

        Tensors without items are not named. None (the default): the weights cannot be carried over to other
        items.
        """
        return None

    def start_new_items(self, dataset: Dataset) -> None:
        """Set the weights of items that no former weights exist for; by default they stay the initial ones.

        Weights of item pairs (``NearestItems``) are carried over where both items are known; those with a new
        item are what this method sets.

        Args:
            dataset: the data with the new items.
        """

    def freeze_scores(self) -> None:
        """Freeze the weights that ``scores``, ``context`` and ``initial_state`` use.

        An environment computes these with the pretrained weights. Otherwise training would also change the
        reward function.
        """

    def thaw_scores(self) -> list[nn.Parameter]:
        """Unfreeze the weights of ``freeze_scores``, for an agent whose environment updates them, too.

        Returns:
            these weights.

        Raises:
            ValueError: if these weights cannot be trained (the default).
        """
        raise ValueError(
            f"backbone {self.name!r} cannot train the weights that score u_0: leave scores_learning_rate at 0"
        )

    @property
    def denoisers(self) -> list[nn.Module]:
        """The modules that denoise vectors (B, D), their first argument; their calls measure training's work.

        The default is the backbone itself.
        """
        return [self]

    @property
    def output_layer(self) -> nn.Linear:
        """The linear layer whose output is the prediction, for methods that train only this layer.

        Raises:
            ValueError: if the backbone has no such layer, or does not define this property.
        """
        raise ValueError(
            f"backbone {self.name!r} names no linear output layer, which is all that some algorithms train, "
            "such as 'es': use another one, such as 'reinforce'"
        )

    def check_state(self, state: Mapping[str, Tensor]) -> None:  # most states hold no indices
        """Raise an error for tensors from a file that hold indices out of range.

        Args:
            state: tensors with the names, shapes and types of the state dict.

        Raises:
            ValueError: naming the tensor.
        """

    def config_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-plain values."""
        return asdict(self.config)


def check_task(backbone: type[Backbone], dataset: Dataset) -> None:
    """Raise ``ValueError`` if a backbone does not support the data set's task."""
    if dataset.task not in backbone.tasks:
        raise ValueError(
            f"backbone {backbone.name!r} is for {', '.join(backbone.tasks)} data; "
            f"data set {dataset.name!r} is {dataset.task}"
        )
