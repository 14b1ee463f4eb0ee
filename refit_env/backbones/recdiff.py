"""RecDiff (Li et al., CIKM 2024, arXiv 2406.01629): diffusion on users' embeddings from a social graph.

Letters: B users in a batch, U users, I items, D embedding size, N train interactions, S social ties, L layers
of a graph, T steps of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional

from refit_env.backbones.base import Backbone, Condition, Lookup, check_task
from refit_env.backbones.diffrec import DiffRec, DiffRecConfig
from refit_env.backbones.graphs import Operator, check_edges, count_edges
from refit_env.backbones.latest import Latest, is_trained
from refit_env.backbones.negatives import Negatives, pair_examples
from refit_env.backbones.noise_schedule import LinearVariance
from refit_env.data.dataset import Dataset
from refit_env.diffusion import Diffusion
from refit_env.errors import DataError
from refit_env.settings import Known, Nonnegative, PartialShare, Share, Size, Steps

SLOPE = 0.5
"""Slope of the LeakyReLU below zero."""


@dataclass(frozen=True)
class RecDiffConfig(LinearVariance):
    """RecDiff's settings; the defaults are those published for Ciao."""

    embedding: Size = 64
    """D, size of the embeddings of users and items."""
    layers: Annotated[int, Meta(ge=0, le=1000)] = 2
    """Layers of the graph of users and items."""
    social_layers: Annotated[int, Meta(ge=0, le=1000)] = 2
    """Layers of the social graph."""
    hidden: Size = 64
    """Width of the denoiser's hidden layer."""
    time_embedding: Size = 16
    """Size of the denoiser's time embedding."""
    dropout: PartialShare = 0.5
    """Dropout of the denoiser's input."""
    num_steps: Steps = 20
    noise_scale: Nonnegative = 1.0
    noise_min: Share = 1e-4
    regularization: Nonnegative = 1e-2
    """Factor of the squared lengths of the vectors in the BPR loss."""
    denoiser_rate: Nonnegative = 0.2
    """The denoiser's learning rate as a share of the graphs'."""
    num_users: Known = 0
    """U; set from the data."""
    num_interactions: Known = 0
    """N; set from the data."""
    num_ties: Known = 0
    """S, with each tie counted in both directions; set from the data."""

    def denoiser(self) -> DiffRecConfig:
        """Return the denoiser's settings: DiffRec's network on D numbers, uniform steps, beta_0 not fixed."""
        return DiffRecConfig(
            hidden=(self.hidden,),
            num_steps=self.num_steps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            beta_fixed=False,
            embedding=self.time_embedding,
            dropout=self.dropout,
            normalize=True,
            importance_sampling=False,
        )

    def diffusion(self) -> Diffusion:
        """Return the training chain."""
        return self.denoiser().diffusion()


class RecDiff(Backbone):
    """Two graph networks that compute embeddings, and a diffusion that denoises the social embedding.

    One network runs on the graph of users and items (it returns ui_u and the items' vectors), one on the
    social graph (it returns e_u); they share the users' embeddings. A layer multiplies by a matrix for each
    kind of node, averages over neighbours with symmetric normalisation, and applies a LeakyReLU; its output,
    scaled to length 1, is added to the embeddings. The denoiser is trained to restore e_u from noise; the
    chain starts at e_u, and items are scored by (ui_u + u_0) . item.

    ``context`` is ui_u, computed from the *visible* row with the items' side of the checkpoint. Hiding items
    in an episode therefore changes the input only in part: the user's embedding, the items' vectors and e_u
    were trained on the whole train split, hidden items included. With nothing hidden, ``context`` is the
    network's own output. The denoiser does not use it, as published.

    Measurements: on Ciao u_0 becomes nearly one vector for all users (its standard deviation between users is
    .0002, between dimensions .22), which adds item popularity to ui_u; on Yelp it is .016 of .10. The cause
    is the loss, whose SNR weights reach 8,400 on Ciao: equal social vectors are restored without error.

    Graphs are part of the state dict, so a checkpoint can score without a data set.

    Deviations from the reference code: ties count in both directions, as in the published data; the loss of
    pairs is the mean over the batch, not the sum divided by the nominal batch size, which differs in the last
    batch of an epoch; the negative of a pair is drawn when the pair is used.
    """

    name: ClassVar[str] = "recdiff"
    config_class: ClassVar[type] = RecDiffConfig
    embedding: ClassVar[bool] = True
    scores_by_context: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("social",)

    config: RecDiffConfig
    interactions: Tensor
    ties: Tensor

    def __init__(self, num_items: int, config: RecDiffConfig | None = None) -> None:
        """Build an untrained network with empty graphs, for loading a checkpoint; see ``for_dataset``.

        Args:
            num_items: I.
            config: settings, with U, N and S.

        Raises:
            ValueError: if U or N is 0.
        """
        super().__init__()
        config = self.config = config if config is not None else RecDiffConfig()
        if min(config.num_users, config.num_interactions) < 1:
            raise ValueError(
                "backbone 'recdiff' needs the users and graphs of a data set: use backbone_for(dataset, "
                "'recdiff')"
            )
        size = config.embedding
        self.num_items, self.dim = num_items, size
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.num_users, size)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_items, size)))
        self.from_users = _matrices(config.layers, size)
        self.from_items = _matrices(config.layers, size)
        self.from_friends = _matrices(config.social_layers, size)
        self.denoiser = DiffRec(size, config.denoiser())
        self.diffusion = self.denoiser.diffusion
        self.register_buffer("interactions", torch.zeros(2, config.num_interactions, dtype=torch.int32))
        self.register_buffer("ties", torch.zeros(2, config.num_ties, dtype=torch.int32))
        self._item_vectors: Latest[Tensor] = Latest()
        self._operators: Latest[tuple[Operator, Operator]] = Latest()
        self._negatives: Latest[Negatives] = Latest()

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: RecDiffConfig | None = None) -> Self:
        """Build an untrained network on a data set's two graphs.

        Raises:
            ValueError: if the data set is not social.
            DataError: if it has no social ties, or a tie has an unknown user.
        """
        check_task(cls, dataset)
        ties = both_directions(dataset)  # (2, S)
        train = dataset.train.csr.tocoo()
        sizes = {"num_users": dataset.num_users, "num_interactions": train.nnz, "num_ties": ties.shape[1]}
        model = cls(dataset.num_items, replace(config if config is not None else RecDiffConfig(), **sizes))
        model.interactions.copy_(torch.from_numpy(np.stack([train.row, train.col])))
        model.ties.copy_(torch.from_numpy(ties))
        return model

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise an error for a graph with ids out of range."""
        check_edges("interactions", state["interactions"], (self.config.num_users, self.num_items))
        check_edges("ties", state["ties"], (self.config.num_users, self.config.num_users))

    # ------------------------------------------------------------------ the graphs

    def _graphs(self) -> tuple[Operator, Operator]:
        """Return the maps of messages from items to users (U, I), and from friends to users (U, U)."""
        count, dtype = self.config.num_users, self.users.dtype

        def make() -> tuple[Operator, Operator]:
            return (
                Operator.symmetric(self.interactions, (count, self.num_items), dtype=dtype),
                Operator.symmetric(self.ties, (count, count), dtype=dtype),
            )

        return self._operators.get([self.interactions, self.ties], make, dtype)

    def _item_side(self) -> tuple[Tensor, list[Tensor]]:
        """Return the items' vectors (I, D), and the items' messages (I, D) of each of the L layers."""
        to_users, _ = self._graphs()
        users: Tensor = self.users
        items: Tensor = self.items
        out, messages = items, []
        for from_users, from_items in zip(self.from_users, self.from_items, strict=True):
            message = items @ from_items  # (I, D)
            items = _activation(to_users.T(users @ from_users))  # (I, D)
            users = _activation(to_users(message))  # (U, D)
            out = out + functional.normalize(items)
            messages.append(message)
        return out, messages

    def _user_side(self, to_users: Operator, messages: list[Tensor]) -> Tensor:
        """Return the users' vectors (U, D) from the items' messages, layer by layer."""
        out: Tensor = self.users
        for message in messages:
            out = out + functional.normalize(_activation(to_users(message)))
        return out

    def _social_side(self) -> Tensor:
        """Return the users' social vectors e_u (U, D)."""
        _, to_friends = self._graphs()
        users: Tensor = self.users
        out = users
        for from_friends in self.from_friends:
            users = _activation(to_friends(users @ from_friends))  # (U, D)
            out = out + functional.normalize(users)
        return out

    # ------------------------------------------------------------------ what is shown, and what is scored

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function users (B,) -> [ui_u | e_u] (B, 2 D), which uses the current weights.

        While the weights are trained and gradients enabled, the result has an autograd graph; else it is
        cached until the weights change.

        Raises:
            ValueError: if the data set is not social, or has another number of users or items.
        """
        check_task(type(self), dataset)
        if (dataset.num_users, dataset.num_items) != (self.config.num_users, self.num_items):
            raise ValueError(
                f"this 'recdiff' has {self.config.num_users} users and {self.num_items} items; "
                f"{dataset.name!r} has {dataset.num_users} and {dataset.num_items}"
            )
        visible = dataset.train.csr.tocoo()
        edges = torch.from_numpy(np.stack([visible.row, visible.col])).to(self.users.device)  # (2, n)
        # Items have the degrees of the train graph. A user's degree has no effect: layers scale to length 1.
        degrees = (
            count_edges(edges[0], self.config.num_users),
            count_edges(self.interactions[1], self.num_items),
        )
        to_users = Operator.symmetric(
            edges, (self.config.num_users, self.num_items), degrees, self.users.dtype
        )
        weights, latest = [*self._graph_weights()], Latest[Tensor]()

        def make() -> Tensor:
            read = self._user_side(to_users, self._item_side()[1])  # (U, D)
            return torch.cat([read, self._social_side()], 1).to(device)  # (U, 2 D)

        def lookup(users: Tensor) -> Tensor:
            if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
                return make()[users]
            with torch.no_grad():
                return latest.get([*weights, self.interactions], make)[users]

        return lookup

    def show(self, histories: Tensor) -> Tensor:
        """Not available: a chain starts from the social vector of a user of the data set.

        Raises:
            ValueError: always.
        """
        raise ValueError("backbone 'recdiff' ranks for the users that it was trained on alone")

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return e_u (B, D): chains start without noise, as published."""
        return shown[:, self.dim :]

    def context(self, users: Tensor, shown: Tensor) -> Tensor | None:
        """Return ui_u (B, D), from the visible row."""
        return shown[:, : self.dim]

    @property
    def context_size(self) -> int:
        """D, the size of a user's vector."""
        return self.dim

    def context_box(self) -> tuple[float, float, int] | None:
        """Return the bounds of the sum of an embedding and L vectors of length at most 1, and D."""
        limit = float(self.users.detach().abs().max()) + self.config.layers
        return -limit, limit, self.dim

    def scores(self, u0: Tensor, users: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the scores (B, I): inner products of the items' vectors with ui_u + u_0.

        Raises:
            ValueError: without ``context``.
        """
        if context is None:
            raise ValueError("backbone 'recdiff' also scores by the context: pass the result of context()")
        return (context.to(u0.dtype) + u0) @ self.score_table().T

    def score_table(self) -> Tensor:
        """Return the items' vectors (I, D); cached while their weights are frozen or held."""
        weights = list(self._graph_weights())
        if any(map(is_trained, weights)):
            return self._item_side()[0]
        with torch.no_grad():
            return self._item_vectors.get([*weights, self.interactions], lambda: self._item_side()[0])

    def context_table(self, table: Tensor) -> Tensor:
        """Return ``table``, because ui_u and u_0 are added."""
        return table

    @torch.no_grad()
    def largest(self) -> float:
        """Return the largest absolute value in the social vectors."""
        return float(self._social_side().abs().max())

    def freeze_scores(self) -> None:
        """Freeze everything except the denoiser."""
        for weight in self._graph_weights():
            weight.requires_grad_(False)

    def thaw_scores(self) -> list[nn.Parameter]:
        """Unfreeze the graphs' weights, which scores, contexts and starts depend on."""
        weights = list(self._graph_weights())
        for weight in weights:
            weight.requires_grad_(True)
        return weights

    def _graph_weights(self) -> Iterator[nn.Parameter]:
        """Yield every parameter that is not the denoiser's."""
        return (weight for name, weight in self.named_parameters() if not name.startswith("denoiser."))

    # ------------------------------------------------------------------ the denoiser and its training

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict clean social vectors (B, D) from ``u`` (B, D); the condition is ignored."""
        return self.denoiser.predict_x0(u, timestep)

    @property
    def denoisers(self) -> list[nn.Module]:
        """The denoiser of social vectors."""
        return [self.denoiser]

    @property
    def output_layer(self) -> nn.Linear:
        """The denoiser's last layer."""
        return self.denoiser.output_layer

    def examples(self, dataset: Dataset, device: torch.device | str) -> tuple[Lookup, Lookup, Tensor] | None:
        """Return the train interactions: number -> user, number -> item, all numbers (N,)."""
        return pair_examples(self.interactions, device)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the graphs' weights, and the denoiser's with their own learning rate."""
        rate = learning_rate * self.config.denoiser_rate
        return [
            {"params": list(self._graph_weights()), "lr": learning_rate},
            {"params": list(self.denoiser.parameters()), "lr": rate},
        ]

    def elbo_loss(self, shown: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the denoiser's reweighted loss plus BPR (Rendle et al., UAI 2009) with the restored vectors.

        All weights have a gradient, so the denoiser's loss also trains e_u.

        Args:
            shown: (B,) int64 users.
            target: (B,) int64 items of these users.
            generator: random generator of the steps, the noise and the negative items.

        Returns:
            a scalar, the mean over the batch.
        """
        other = self._others().draw(shown, generator)  # (B,)
        items, messages = self._item_side()
        clean = self._social_side()[shown]  # (B, D) e_u
        k = torch.randint(self.config.num_steps, shown.shape, generator=generator, device=shown.device)
        noise = torch.randn(clean.shape, generator=generator, device=shown.device)
        restored: Tensor = self.denoiser(self.diffusion.q_sample(clean, k, noise), k)  # (B, D)
        weight = torch.as_tensor(self.denoiser.loss_weights(), device=shown.device)[k].to(clean.dtype)
        elbo = (weight * (clean - restored).square().mean(1)).mean()
        user = self._user_side(self._graphs()[0], messages)[shown] + restored  # (B, D)
        near, far = items[target], items[other]  # (B, D)
        ranking = functional.softplus((user * (far - near)).sum(1)).mean()
        lengths = torch.stack([x.square().sum(1) for x in (user, near, far)]).sum(0).mean()
        return elbo + ranking + self.config.regularization * lengths

    def _others(self) -> Negatives:
        """Return the sampler of items that are not in users' train rows."""

        def make() -> Negatives:
            return Negatives.of_pairs(self.interactions, self.config.num_users, self.num_items)

        return self._negatives.get([self.interactions], make)


def both_directions(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Return every social tie (2, S) of a data set once in each direction, sorted, without self-loops.

    Raises:
        DataError: if there are none, or a tie has an unknown user.
    """
    if dataset.social is None or not dataset.has_friends:
        raise DataError(
            f"data set {dataset.name!r} has no social ties, which backbone 'recdiff' needs: social.parquet "
            "must hold pairs of users"
        )
    pairs = dataset.social.astype(np.int64)  # (n, 2)
    if pairs.min() < 0 or pairs.max() >= dataset.num_users:
        raise DataError(f"the social ties of {dataset.name!r} name users outside 0..{dataset.num_users - 1}")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).T


def _matrices(count: int, size: int) -> nn.ParameterList:
    """Return ``count`` square matrices (D, D)."""
    return nn.ParameterList(nn.init.xavier_uniform_(torch.empty(size, size)) for _ in range(count))


def _activation(x: Tensor) -> Tensor:
    """Apply RecDiff's LeakyReLU."""
    return functional.leaky_relu(x, SLOPE)


PUBLISHED: dict[str, RecDiffConfig] = {
    "ciao": RecDiffConfig(),
    "epinions": RecDiffConfig(num_steps=200, noise_scale=0.1, regularization=1e-4, denoiser_rate=1.0),
    "yelp": RecDiffConfig(num_steps=50, noise_scale=0.1, regularization=5e-3, denoiser_rate=0.1),
}
"""The configurations of RecDiff's scripts, by data set."""
