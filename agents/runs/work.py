"""The work of training: rows that pass through the denoiser, which is the same on every machine.

The unit is one row through the denoiser forward and backward, at one step of the chain: an update of ELBO
training on B users is B units, an episode of T steps with a gradient is T. A backward pass counts as
two forward passes, so that a forward pass without a gradient is a third of a unit. Rows of users, of episodes
and of interactions count alike. What is computed besides the denoiser (rewards, encoders of histories,
graphs, item scores) is not counted, and validation is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from refit_env.backbones import Backbone

FORWARD, BACKWARD = "work/forward", "work/backward"
"""Names of the scalars of an iteration or epoch, in rows."""


@dataclass
class Work:
    """Rows that passed through denoisers."""

    forward: int = 0
    """Rows of forward passes."""
    backward: int = 0
    """Rows of backward passes."""

    @property
    def units(self) -> float:
        """Rows forward and backward; a backward pass counts as two forward passes.

        Example:
            >>> Work(forward=300, backward=300).units, Work(forward=300).units
            (300.0, 100.0)
        """
        return (self.forward + 2 * self.backward) / 3

    def __add__(self, other: Work) -> Work:
        """The sum of two counts."""
        return Work(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> Work:
        """The work of several processes that do the same."""
        return Work(self.forward * times, self.backward * times)

    def __sub__(self, other: Work) -> Work:
        """What was done since ``other`` was counted."""
        return Work(self.forward - other.forward, self.backward - other.backward)

    def scalars(self) -> dict[str, float]:
        """Return the two counts as scalars of a training's history."""
        return {FORWARD: float(self.forward), BACKWARD: float(self.backward)}

    def to_json(self) -> dict[str, float]:
        """Return the counts and the units, JSON-plain."""
        return asdict(self) | {"units": self.units}


def work_in(history: Sequence[Mapping[str, float]]) -> Work:
    """Return the sum over a training's history.

    Example:
        >>> work_in([{"valid/ndcg@20": 0.1}, {FORWARD: 8.0, BACKWARD: 4.0}, {FORWARD: 8.0, BACKWARD: 4.0}])
        Work(forward=16, backward=8)
    """
    return Work(*(int(sum(row.get(name, 0.0) for row in history)) for name in (FORWARD, BACKWARD)))


@contextmanager
def counted(*backbones: Backbone) -> Iterator[Work]:
    """Count the rows that pass through the denoisers of ``backbones`` within a ``with`` block.

    A forward pass that is repeated in the backward pass (``recompute``) is counted again, since it is done
    again; a backward pass counts where it really happens.

    Example:
        >>> import torch
        >>> from refit_env.backbones import make_backbone
        >>> backbone = make_backbone("diffrec", 7, {"hidden": (4,), "num_steps": 5})
        >>> with counted(backbone) as work:
        ...     backbone.elbo_loss(torch.ones(3, 7), torch.ones(3, 7)).backward()
        >>> work
        Work(forward=3, backward=3)
    """
    work = Work()

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        work.forward += int(inputs[0].shape[0])

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(passed_back)

    def passed_back(gradient: Tensor) -> None:
        work.backward += int(gradient.shape[0])

    with ExitStack() as stack:
        for denoiser in {id(part): part for b in backbones for part in b.denoisers}.values():
            stack.callback(denoiser.register_forward_pre_hook(before).remove)
            stack.callback(denoiser.register_forward_hook(after).remove)
        yield work
