"""The hybrid denoiser: x0_hat(u, k) = closed_form(u, k) + mlp(u, k), with a network that starts at zero.

The closed form is the ``linear`` or the ``spectral`` denoiser, the network is that of DiffRec with the last
layer initialised to 0. So before training the hybrid equals the closed form exactly, and training changes it
from there.

Letters: B users in a batch, I items (= D).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta
from torch import Tensor, nn

from refit_env.backbones.base import check_task
from refit_env.backbones.closed_form import ClosedForm
from refit_env.backbones.closed_form_config import ClosedFormConfig
from refit_env.backbones.diffrec import DiffRec, DiffRecConfig
from refit_env.backbones.linear import MOST_NEIGHBORS, LinearConfig, LinearDenoiser
from refit_env.backbones.row_denoiser import RowDenoiser
from refit_env.backbones.spectral import SpectralConfig, SpectralDenoiser
from refit_env.data.dataset import Dataset
from refit_env.settings import OneOf, PartialShare, Sizes

BASES: dict[str, type[ClosedForm]] = {"linear": LinearDenoiser, "spectral": SpectralDenoiser}
"""Values of ``HybridConfig.base``."""


@dataclass(frozen=True)
class HybridConfig(LinearConfig, SpectralConfig):
    """Settings of the network, and of both closed forms; those of the other base have no effect."""

    base: Annotated[str, OneOf(BASES)] = "linear"
    """The closed form: ``linear`` or ``spectral``."""
    train_base: bool = False
    """Train the weights of the closed form, too."""
    hidden: Sizes = (600,)
    """Widths of the network's hidden layers."""
    dropout: PartialShare = 0.5
    """Dropout of the network's input; the closed form has none."""
    l2: Annotated[float, Meta(ge=0, description="0: the default of the base")] = 0.0
    """l2 of the base (0: the default of the base)."""
    neighbors: Annotated[int, Meta(ge=0, le=MOST_NEIGHBORS, description="0: the default of the base")] = 0
    """Nearest items of the base (0: the default of the base)."""

    def base_config(self) -> ClosedFormConfig:
        """Return the configuration of the base."""
        cls: Any = BASES[self.base].config_class
        values = {f.name: getattr(self, f.name) for f in fields(cls)}
        for name in ("l2", "neighbors"):
            if values[name] == 0:
                del values[name]
        config: ClosedFormConfig = cls(**values)
        return config


class HybridDenoiser(RowDenoiser):
    """A closed form plus an MLP that starts at zero; training changes the MLP, and the closed form if set."""

    name: ClassVar[str] = "hybrid"
    config_class: ClassVar[type] = HybridConfig
    config: HybridConfig

    def __init__(self, num_items: int, config: HybridConfig | None = None) -> None:
        """Build an unfitted base and an untrained network.

        Args:
            num_items: I.
            config: settings; None uses the defaults.

        Raises:
            ValueError: for a catalogue that is too large for the base, or an invalid setting.
        """
        config = config if config is not None else HybridConfig()
        super().__init__(num_items, config)
        self.base = BASES[config.base](num_items, config.base_config())
        self.network = DiffRec(
            num_items,
            DiffRecConfig(hidden=config.hidden, num_steps=config.num_steps, dropout=config.dropout),
        )
        nn.init.zeros_(self.network.output_layer.weight)
        nn.init.zeros_(self.network.output_layer.bias)
        self.requires_grad_(True)

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: HybridConfig | None = None) -> Self:
        """Build a hybrid whose base is fitted to the train split of ``dataset``.

        Raises:
            ValueError: if the data set does not fit the backbone or a setting.
        """
        check_task(cls, dataset)
        hybrid = cls(dataset.num_items, config)
        hybrid.base.fit(dataset)
        return hybrid

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let training change the network, and the base with ``train_base``; or neither."""
        super().requires_grad_(requires_grad)
        self.base.requires_grad_(requires_grad and self.config.train_base)
        return self

    @property
    def item_axes(self) -> dict[str, tuple[int, ...]]:
        """Those of the base and of the network."""
        parts = (("base", self.base), ("network", self.network))
        return {
            f"{part}.{name}": axes for part, each in parts for name, axes in (each.item_axes or {}).items()
        }

    def start_new_items(self, dataset: Dataset) -> None:
        """Start them in the base as it does, and in the network by its initial weights, with the output 0."""
        self.base.start_new_items(dataset)

    def forward(self, u: Tensor, timestep: int | Tensor, context: Tensor | None = None) -> Tensor:
        """Return the clean rows (B, I) of ``u`` (B, I), with the context (B, C) of the base."""
        closed: Tensor = self.base(u, timestep, context)  # (B, I)
        learned: Tensor = self.network(u, timestep)  # (B, I)
        return closed + learned


PUBLISHED: dict[str, HybridConfig] = {"": HybridConfig()}
"""No configurations are published: ``refit pretrain`` chooses the settings of the base on validation."""
