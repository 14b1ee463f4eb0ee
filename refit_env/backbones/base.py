"""What every diffusion backbone offers: the denoiser, its schedule, where chains start, what scores are.

Two families differ in what u is. For the CF backbones u is an interaction row: D = I, chains start from the
history, u_0 are the scores. For the others u lives in an embedding space: D is its size, and only a trained
backbone can turn u_0 into scores.

What a backbone is *shown* of a user is its own affair (``shown``): a row (B, I), or a short history (B, L).
The functions below that take ``shown`` are given what it makes.

Letters: B users in a batch, D size of the diffused vector, I items, C size of a context, H of its encoding,
L history length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import scipy.sparse as sp
import torch
from torch import Tensor, nn

from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.data.rows import SparseRows
from refit_env.diffusion import Diffusion


@dataclass(frozen=True)
class Condition:
    """A context as the network sees it, encoded once for a whole chain.

    Attributes:
        value: (B, H), with its graph.
    """

    value: Tensor

    def repeat_interleave(self, repeats: int, dim: int = 0) -> Condition:
        """Repeat each user's row, as ``Tensor.repeat_interleave`` does."""
        return Condition(self.value.repeat_interleave(repeats, dim))


Look = Callable[[Tensor], Tensor]
"""Users, or other ids, (B,) -> what is known of them (B, ...)."""

Context = Tensor | Condition | None
"""What a network is conditioned on: as an environment shows it (B, C), encoded already, or nothing."""


class Backbone(nn.Module, ABC):
    """A denoiser f(u, k, context) -> x0 with the schedule that it is trained on.

    Attributes:
        name: its name in the registry.
        conditional: whether the network sees a context besides u; only then may a chain start from noise.
        embedding: whether u lives in an embedding space, so that scoring takes trained weights.
        shows_rows: whether the context is the visible row (B, I), of a backbone that is no embedding one.
        scores_by_context: whether ``scores`` needs the context.
        tasks: the tasks whose data sets it is for.
        start: where its chains start unless an environment is told otherwise.
        num_items: I.
        dim: D.
        diffusion: the schedule of training, T steps.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    conditional: ClassVar[bool] = False
    embedding: ClassVar[bool] = False
    shows_rows: ClassVar[bool] = False
    scores_by_context: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("cf", "social", "poi")
    start: ClassVar[str] = "history"

    trained_on: DataIdentity | None = None
    num_items: int
    dim: int
    diffusion: Diffusion
    config: Any

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Any = None) -> Self:
        """An untrained backbone for a data set; here its number of items is all that matters.

        Whatever a backbone takes from the data goes into its configuration or its state, so that a checkpoint
        can be read with no data at hand.

        Args:
            dataset: what it will be trained on.
            config: a ``config_class``; its defaults if None.

        Raises:
            ValueError: if the backbone is not for such a data set.
        """
        check_task(cls, dataset)
        return cls(dataset.num_items, config)

    @classmethod
    def rows(cls, dataset: Dataset, config: Any) -> sp.csr_matrix:
        """(U, I) what u_T holds where it is an interaction row: here 1 for each train item."""
        return dataset.train.csr

    @abstractmethod
    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the clean vectors.

        Args:
            u: (B, D) noisy vectors.
            timestep: index in the chain of training, one for all or (B,) int64.
            condition: the encoded context (B, H), or None.

        Returns:
            (B, D).
        """

    @abstractmethod
    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The published training loss, a scalar.

        Args:
            shown: what is shown of the users: (B, I) interactions that are noised, or (B, L) histories.
            target: what the network must predict: (B, I) rows (in published training, ``shown`` itself), or
                (B,) int64 items.
            generator: source of the noise and of the steps drawn.
        """

    def ranking_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A loss that ranks the target above all other items, a scalar; arguments as in ``elbo_loss``.

        Raises:
            ValueError: if the backbone has none.
        """
        raise ValueError(f"backbone {self.name!r} has no ranking objective; train it with objective='elbo'")

    def examples(self, dataset: Dataset, device: torch.device | str) -> tuple[Look, Look, Tensor] | None:
        """What training walks over where that is not the users' rows.

        Returns:
            ids (B,) -> what is shown, ids (B,) -> the target, both for ``elbo_loss``, and all ids (n,)
            int64; None (here) for users and their rows.
        """
        return None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """What the optimiser of pretraining is given; here all parameters in one group."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

    def shown(self, dataset: Dataset, device: torch.device | str) -> Look:
        """Make the function users (B,) -> what is shown of them; here their train rows (B, I) float32.

        Users are those of ``dataset.episodes``. In an environment that hides a part of the rows, the train
        split that this is given holds the visible part.

        Raises:
            ValueError: if the backbone is not for such a data set.
        """
        return SparseRows(self.rows(dataset.episodes, self.config), device).dense

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """The mean of u_T (B, D) of ``users`` (B,) of whom ``shown`` is seen; here the row itself.

        Evaluation starts its noise-free chain there.
        """
        return shown

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """What the network is conditioned on, (B, C) float32, as environments show it; or None."""
        return shown if self.shows_rows else None

    def context_box(self) -> tuple[float, float, int] | None:
        """Lowest and highest value and size C of a context; None if there is none."""
        return (0.0, 1.0, self.num_items) if self.shows_rows else None

    @property
    def context_size(self) -> int:
        """C, which takes no trained weights to know; 0 where u is all that the network sees."""
        return self.num_items if self.shows_rows else 0

    @property
    def condition_size(self) -> int:
        """H, the size of an encoded context; here that of a context itself."""
        return self.context_size

    def encode(self, context: Tensor) -> Condition:
        """The context (B, C) as the network sees it (B, H)."""
        return Condition(context)

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """Item scores (B, I) of denoised vectors ``u0`` (B, D): the vectors themselves where D = I.

        Args:
            u0: (B, D).
            users: (B,) int64.
            context: (B, C) what ``context`` gives of them, for backbones with ``scores_by_context``.
        """
        return u0

    def score_table(self) -> Tensor | None:
        """The slope (I, D) of the scores in u_0 where they are affine in it; None elsewhere."""
        return None

    def context_table(self, table: Tensor) -> Tensor | None:
        """The slope (I, C) of the scores in the context, for backbones with ``scores_by_context``.

        Args:
            table: (I, D) what ``score_table`` gave.
        """
        return None

    def largest(self) -> float:
        """The largest number, by size, that a clean vector holds; where u holds scores, 1."""
        return 1.0

    def freeze_scores(self) -> None:
        """Stop training the weights that ``scores``, ``context`` and ``initial_state`` use.

        An environment computes those by the pretrained weights. A policy that fine-tuning could move away
        from them would be judged by one ruler and rewarded by another.
        """

    def thaw_scores(self) -> list[nn.Parameter]:
        """Train again what ``freeze_scores`` stopped, for an agent whose environment's scores move along.

        Returns:
            those weights.

        Raises:
            ValueError: if that cannot be trained apart from what environments show (here).
        """
        raise ValueError(
            f"backbone {self.name!r} cannot train what scores u_0: leave scores_learning_rate at 0"
        )

    @property
    def denoisers(self) -> list[nn.Module]:
        """The modules that denoise vectors (B, D), called with them first: what the work of training counts.

        Here the backbone itself.
        """
        return [self]

    @property
    def output_layer(self) -> nn.Linear:
        """The linear layer whose output is the prediction, for methods that change nothing else.

        Raises:
            ValueError: if the backbone has no such layer, or does not name it.
        """
        raise ValueError(f"backbone {self.name!r} names no linear output layer")

    def check_state(self, state: Mapping[str, Tensor]) -> None:  # most hold no indices
        """Refuse tensors read from a file that would index others out of range.

        Args:
            state: of the names, shapes and types of the state dict.

        Raises:
            ValueError: naming the tensor.
        """

    def config_dict(self) -> dict[str, Any]:
        """The configuration as JSON-plain values."""
        return asdict(self.config)


def check_task(backbone: type[Backbone], dataset: Dataset) -> None:
    """Raise ``ValueError`` if a backbone is not for the data set's task."""
    if dataset.task not in backbone.tasks:
        raise ValueError(
            f"backbone {backbone.name!r} is for {', '.join(backbone.tasks)} data; "
            f"data set {dataset.name!r} is {dataset.task}"
        )
