"""The stacked denoiser: a closed form, and a small network that learns on rows held apart from its fit.

x0_hat(u, k)_i = UNIT (asinh(z_i) + g(asinh(z_i), visits of i in the history, the history's shape)),

where z is the result of the ``linear`` denoiser, standardised over the items, and g is a network of a few
hundred weights, the same for every item, that starts at zero. asinh changes no order: untrained, the stacked
denoiser has the lists of the linear one. It brings the scores of a list closer together, so that the usual
noise of exploration reaches all of its places. Training changes g alone. With ``places`` g also reads how
dense visits are near i (``refit_env.backbones.nearby_visits``): the latest one alone, and the whole history.

The closed form overfits its train rows, so g would learn to trust it too much. Therefore a second copy of it
is fitted without a share of the train rows (``refit_env.backbones.held_rows``). Training episodes start from
this share alone, and there z is the copy's; everywhere else z is that of the whole fit. This is stacking
(Wolpert, Neural Networks 1992), with a policy as the second level.

Letters: B rows in a batch, R rows, L history length, I items (= D), F features of an item, G of a history,
H size of the hidden layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from msgspec import Meta
from torch import Tensor, nn

from refit_env.backbones.base import Condition, Lookup, check_task
from refit_env.backbones.held_rows import held_rows, without_rows
from refit_env.backbones.linear import LinearConfig, LinearDenoiser
from refit_env.backbones.row_denoiser import RowDenoiser
from refit_env.backbones.row_weights import history_rows, latest_items, reciprocal
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.rows import SparseRows
from refit_env.data.sequences import LENGTHS
from refit_env.settings import Size

DECAYS = (0.2, 1.0)
"""The b-th latest visit counts 1 / b^decay: nearly the same for all, and most for the latest."""
ITEM, NEARBY, HISTORY = 4, 2, 4
"""F without the popularity and the visits near an item, the number of these, and G."""
UNIT = 0.2
"""Factor of the scores; with it they stay within the bounds of an environment."""


@dataclass(frozen=True)
class StackedConfig(LinearConfig):
    """Settings of the closed form and of the network."""

    held: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Share of the train rows that episodes start from; the copy of the closed form is fitted to the rest."""
    hidden: Size = 16
    """Width of the network's hidden layer."""
    popularity: bool = False
    """Whether an input of the network is how popular an item is among the train rows."""
    history: Annotated[int, Meta(ge=1, le=1000)] = max(LENGTHS.values())
    """Most items of a history that are read; at most those of the data set's rows."""

    @property
    def base(self) -> str:
        """The backbone that is corrected."""
        return LinearDenoiser.name

    def base_config(self) -> LinearConfig:
        """Return the configuration of the closed form."""
        return LinearConfig(**{f.name: getattr(self, f.name) for f in fields(LinearConfig)})


class StackedDenoiser(RowDenoiser):
    """A closed form with a correction that training learns; for sequential and check-in sets.

    Its context is the history, item ids, oldest first, padded with I, and after them a mark: 1 where the row
    is held apart, else 0.

    Attributes:
        base: the closed form, fitted to all train rows.
        apart: the closed form, fitted without the rows that are held apart.
        popular: (2, I) log count of each item among the targets of ``base`` and of ``apart``, standardised.
        other_data: whether it is used with other data than that of the fits; no row of it is held apart.
    """

    name: ClassVar[str] = "stacked"
    config_class: ClassVar[type] = StackedConfig
    conditional: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("sequential", "poi")
    learns_on_other_data: ClassVar[bool] = False
    fitted_again: ClassVar[tuple[str, ...]] = ("base.", "apart.", "popular")
    config: StackedConfig
    popular: Tensor
    other_data: bool = False

    def __init__(self, num_items: int, config: StackedConfig | None = None) -> None:
        """Build unfitted closed forms and a network whose output is 0.

        Args:
            num_items: I, at most 25,000.
            config: settings; None uses the defaults.

        Raises:
            ValueError: for a larger catalogue or an invalid setting.
        """
        config = config if config is not None else StackedConfig()
        super().__init__(num_items, config)
        self.base = LinearDenoiser(num_items, config.base_config())
        self.apart = LinearDenoiser(num_items, config.base_config())
        self.register_buffer("popular", torch.zeros(2, num_items))
        features = ITEM + config.popularity + (NEARBY if config.places else 0)
        self.of_item = nn.Linear(features, config.hidden)
        self.of_history = nn.Linear(HISTORY, config.hidden, bias=False)
        self.output = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.requires_grad_(True)

    @classmethod
    def for_dataset(
        cls,
        dataset: Dataset,
        config: StackedConfig | None = None,
        fitted: LinearDenoiser | StackedDenoiser | None = None,
    ) -> Self:
        """Build a denoiser whose closed forms are fitted to the train rows of ``dataset``.

        Args:
            dataset: source of the rows.
            config: settings; None uses the defaults.
            fitted: a model of the same data; its closed forms are copied, if they have the same settings.

        Raises:
            ValueError: if the data set does not fit the backbone or a setting.
        """
        stacked = cls(dataset.num_items, config)
        rows, part = cls.divided(dataset, stacked.config)
        fits = (stacked.base, rows), (stacked.apart, part)
        for number, ((closed, data), known) in enumerate(zip(fits, stacked._same_fit(fitted), strict=True)):
            if known is None:
                closed.fit(data)
            else:
                closed.load_state_dict(known.state_dict())
            stacked.popular[number] = _log_counts(data)
        return stacked

    @classmethod
    def divided(cls, dataset: Dataset, config: StackedConfig) -> tuple[RowDataset, RowDataset]:
        """Return all rows, to which ``base`` is fitted, and those without the ones held apart.

        Raises:
            ValueError: if the data set does not fit the backbone, or either part of its train rows is empty.
        """
        check_task(cls, dataset)
        rows = _rows_of(dataset)
        held = held_rows(rows, config.held)
        part = without_rows(rows, held)
        learn, fit = held.sum(), part.rows_of("train").size
        if not learn or not fit:
            many = "several sessions" if rows.task == "sequential" else "users with several"
            raise ValueError(
                f"backbone 'stacked' needs train rows of {many}, to train on some and to fit the others: of "
                f"the {learn + fit} of {dataset.name!r} it trains on {learn} and fits {fit}. Use 'linear', "
                f"or another share of rows to train on than {config.held:g} (backbone option 'held')"
            )
        return rows, part

    def _same_fit(
        self, fitted: LinearDenoiser | StackedDenoiser | None
    ) -> tuple[LinearDenoiser | None, LinearDenoiser | None]:
        """Return the closed forms, of all rows and of a part, that ``fitted`` has with the same settings."""
        config = self.config.base_config()
        if isinstance(fitted, LinearDenoiser):
            return (fitted if fitted.config == config else None), None
        if fitted is None or fitted.config.base_config() != config:
            return None, None
        return fitted.base, fitted.apart if fitted.config.held == self.config.held else None

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether training changes the network; it never changes the closed forms."""
        super().requires_grad_(requires_grad)
        self.base.requires_grad_(False)
        self.apart.requires_grad_(False)
        return self

    @property
    def item_axes(self) -> dict[str, tuple[int, ...]]:
        """Nothing: the network is the same for every item, and the closed forms are fitted to new data."""
        return {}

    def allow_other_data(self) -> None:
        """Allow other data; its users are all ranked by the whole fit."""
        super().allow_other_data()
        self.other_data = True

    def check_can_learn(self, dataset: Dataset) -> None:
        """Raise a ``ValueError`` where the copy was not fitted without the rows that episodes start from.

        With other data than that of the fit, there are no such rows. A model of an earlier version may hold
        other rows apart: the targets that its copy counted are not those of now.
        """
        if self.other_data:
            raise ValueError(
                "backbone 'stacked' learns on rows that its copy was fitted without; other data has none: "
                "train a new one on this data"
            )
        counted = _log_counts(self.divided(dataset, self.config)[1])  # (I,)
        if self.popular.any() and not torch.allclose(self.popular[1].cpu(), counted, atol=1e-3):
            raise ValueError(
                "backbone 'stacked' learns on rows that its copy was fitted without, and this model's copy "
                "was fitted without other rows than an episode starts from now: train a new one on this data"
            )

    # ------------------------------------------------------------------ what is shown

    @classmethod
    def may_train_on(cls, dataset: Dataset, config: Any) -> npt.NDArray[np.bool_] | None:
        """Return all rows (R,) but the train rows that are not held apart."""
        rows = _rows_of(dataset)
        out = np.ones(rows.num_users, np.bool_)
        out[rows.rows_of("train")] = False
        return out | held_rows(rows, config.held)

    @classmethod
    def rows(cls, dataset: Dataset, config: Any) -> sp.csr_matrix:
        """Return the rows (R, I) for u_T: the histories, weighted by ``config``."""
        return super().rows(_rows_of(dataset), config)

    @classmethod
    def contexts(cls, dataset: Dataset, config: Any, device: torch.device | str) -> Lookup:
        """Return the function rows (B,) -> contexts (B, L + 1) float32."""
        rows = _rows_of(dataset)
        items, _ = rows.latest(min(config.history, rows.history.shape[1]))
        table = np.full((rows.num_users, config.history + 1), rows.num_items, np.int64)
        table[:, : items.shape[1]] = items
        table[:, -1] = held_rows(rows, config.held)
        whole = torch.as_tensor(table, device=device).float()  # ids below 2^24 are exact
        return lambda users: whole[users]

    def shown(self, dataset: Dataset, device: torch.device | str) -> Lookup:
        """Return the function rows (B,) -> u_T and the context (B, I + L + 1), side by side."""
        check_task(type(self), dataset)
        start = SparseRows(self.rows(dataset, self.config), device)
        context = self.contexts(dataset, self.config, device)
        return lambda users: torch.cat([start.dense(users), context(users)], 1)

    def show(self, histories: Tensor) -> Tensor:
        """Return u_T and the context (B, I + L + 1) of histories, which are not held apart."""
        row = super().show(histories)  # (B, I)
        latest = latest_items(histories, self.num_items, self.config.history)  # (B, L)
        return torch.cat([row, latest.to(row), row.new_zeros(row.shape[0], 1)], 1)

    def initial_state(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the weighted rows (B, I) of ``shown`` (B, I + L + 1)."""
        return shown[:, : self.num_items]

    def context(self, users: Tensor, shown: Tensor) -> Tensor:
        """Return the history and the mark (B, L + 1) of ``shown`` (B, I + L + 1)."""
        return shown[:, self.num_items :]

    @classmethod
    def context_bounds(cls, num_items: int, config: Any) -> tuple[float, float, int]:
        """Return the bounds of item ids with I as padding, and L + 1."""
        return 0.0, float(num_items), config.history + 1

    # ------------------------------------------------------------------ the denoiser

    def forward(self, u: Tensor, timestep: int | Tensor, context: Tensor | None = None) -> Tensor:
        """Return the clean rows (B, I) of ``u`` (B, I); without a context (B, L + 1) the closed form's."""
        apart = None if context is None else (context[:, -1] > 0.5) & (not self.other_data)  # (B,)
        closed = self._closed(u, timestep, apart)  # (B, I)
        spread = closed.std(1, correction=min(1, self.num_items - 1), keepdim=True).clamp(min=1e-9)  # (B, 1)
        tamed = ((closed - closed.mean(1, keepdim=True)) / spread).asinh()  # (B, I)
        if context is None or apart is None:
            return UNIT * tamed
        return UNIT * (tamed + self._correction(tamed, context[:, :-1].long(), apart))

    def _closed(self, u: Tensor, timestep: int | Tensor, apart: Tensor | None) -> Tensor:
        """Return the closed form's rows (B, I), where ``apart`` (B,) those of the copy."""
        exporting = torch.compiler.is_exporting()  # no row of an exported model is held apart
        if apart is None or exporting or not bool(apart.any()):
            whole: Tensor = self.base(u, timestep)
            return whole
        if bool(apart.all()):
            copy: Tensor = self.apart(u, timestep)
            return copy
        of_each = torch.as_tensor(timestep, device=u.device).expand(len(u))  # (B,)
        out = torch.empty_like(u)
        for closed, chosen in ((self.base, ~apart), (self.apart, apart)):
            out[chosen] = closed(u[chosen], of_each[chosen])
        return out

    def _correction(self, tamed: Tensor, history: Tensor, apart: Tensor) -> Tensor:
        """Return g (B, I).

        Args:
            tamed: (B, I), asinh(z).
            history: (B, L) int64 items, padded with I.
            apart: (B,) whether the row is held apart.
        """
        slow, fast = (self._visits(history, decay, tamed) for decay in DECAYS)  # (B, I) each
        count = self._visits(history, 0.0, tamed)  # (B, I)
        total = count.sum(1, keepdim=True).clamp(min=1.0)  # (B, 1)
        share = slow / slow.sum(1, keepdim=True).clamp(min=1e-9)
        of_items = [tamed, fast, count.log1p(), share]  # (B, I) each
        if self.config.popularity:
            of_items.append(self.popular.to(tamed.dtype)[apart.long()])
        last = latest_items(history, self.num_items, 1)  # (B, 1)
        if self.base.nearby is not None:
            latest = history_rows(last, self.num_items, None, "latest").to(tamed)  # (B, I)
            of_items += [self.base.nearby.density(latest), self.base.nearby.density(count)]
        of_last = count.gather(1, last.clamp(max=self.num_items - 1)) * (last < self.num_items)  # (B, 1)
        different = (count > 0).sum(1, keepdim=True)
        shape = [total.log(), different / total, count.amax(1, keepdim=True) / total, of_last / total]
        of_history: Tensor = self.of_history(torch.cat(shape, 1))  # (B, H)
        inputs = torch.stack(of_items, 2)  # (B, I, F)
        hidden: Tensor = self.of_item(inputs)  # (B, I, H), the largest array: changed in place
        out: Tensor = self.output(hidden.add_(of_history[:, None]).relu_())[:, :, 0]
        return out

    def _visits(self, history: Tensor, decay: float, like: Tensor) -> Tensor:
        """Return each item's visits (B, I) in histories (B, L); the b-th latest counts 1 / b^decay."""
        out = history_rows(
            history, self.num_items, lambda place, count: reciprocal(place, count, decay), "sum"
        )
        return out.to(like)

    def predict_x0(self, u: Tensor, timestep: int | Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the clean rows (B, I) from ``u`` (B, I)."""
        out: Tensor = self(u, timestep, None if condition is None else condition.value)
        return out


def _log_counts(data: RowDataset) -> Tensor:
    """Return the log counts (I,) float32 of the items among the train targets, standardised."""
    count = np.log1p(np.bincount(data.targets.items, minlength=data.num_items))  # (I,)
    return torch.as_tensor((count - count.mean()) / max(count.std(), 1e-6)).float()


def _rows_of(dataset: Dataset) -> RowDataset:
    """Return the rows of a data set.

    Raises:
        ValueError: if its episodes are sets.
    """
    rows = dataset.episodes
    if not isinstance(rows, RowDataset):
        raise ValueError(
            f"backbone 'stacked' reads histories; {dataset.name!r} is not sorted by time. Use 'linear'"
        )
    return rows


PUBLISHED: dict[str, StackedConfig] = {"": StackedConfig()}
"""No configurations are published: ``refit pretrain`` chooses the closed form's settings on validation."""
