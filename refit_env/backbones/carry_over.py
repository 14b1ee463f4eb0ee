"""Carries the weights of a backbone over to a data set with other items.

Letters: I items of the new data, I' items of the former.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.backbones.base import Backbone, check_task
from refit_env.backbones.nearest_items import NearestItems
from refit_env.backbones.registry import backbone_class, backbone_for, backbone_names
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity
from refit_env.data.known_ids import KnownIds


def for_later_data(backbone: Backbone) -> str:
    """Return in words how the model of a backbone is had for later data."""
    if backbone.item_axes is None:
        return f"'refit pretrain --data NEW --backbone {backbone.name}' makes a model of later data"
    return "'refit pretrain --init RUN --data NEW --new-data' carries the model over to later data"


def carry_over(backbone: Backbone, run: Path | str, dataset: Dataset, seed: int = 0) -> tuple[Backbone, str]:
    """Return the backbone of a run for a data set with other users and items, and what changed.

    Items are found by their source's ids. Weights of known items are carried over, those of items that are
    gone are left out, and new items start as the backbone says (``Backbone.start_new_items``). What a
    backbone fits in closed form alone (``Backbone.fitted_again``) is fitted to the new data.

    Args:
        backbone: of the run, as it was loaded.
        run: its folder, which holds the ids of its items (``refit_env.data.known_ids``).
        dataset: the new data.
        seed: of the initial weights of new items.

    Raises:
        ValueError: if the backbone cannot be carried over, or no item of the new data is known.
        CheckpointError: if the folder does not hold the ids.
    """
    if backbone.item_axes is None:
        able = [name for name in backbone_names() if backbone_class(name).item_axes is not Backbone.item_axes]
        raise ValueError(
            f"backbone {backbone.name!r} cannot be carried over to other items; those that can are "
            f"{', '.join(able)}. Train {backbone.name!r} on the new data without --init"
        )
    check_task(type(backbone), dataset)
    identity = backbone.trained_on
    ids = KnownIds.load(run, backbone.num_items, None if identity is None else identity.fingerprint)
    return with_items(backbone, dataset, ids.numbers_in(dataset), seed), ids.changes(dataset)


@torch.no_grad()
def with_items(
    backbone: Backbone, dataset: Dataset, former: npt.NDArray[np.int64], seed: int = 0
) -> Backbone:
    """Return a backbone for the items of ``dataset`` with the weights of those that were there before.

    Args:
        backbone: one with ``item_axes``.
        dataset: the new data.
        former: (I,) the former number of each item, -1 for a new one.
        seed: of the initial weights of new items.

    Raises:
        ValueError: if the configuration does not fit the number of items.
    """
    fresh = backbone_for(dataset, backbone.name, backbone.config_dict(), seed=seed)
    if (former < 0).any():
        fresh.start_new_items(dataset)
    known = former >= 0  # (I,)
    to, by = np.flatnonzero(known), former[known]
    sizes = backbone.num_items, dataset.num_items
    axes = backbone.item_axes or {}
    pairs = {name: part for name, part in backbone.named_modules() if isinstance(part, NearestItems)}
    others = (*backbone.fitted_again, *(f"{name}." for name in pairs))
    state = fresh.state_dict()
    for name, old in backbone.state_dict().items():
        if not name.startswith(others):
            _copy(state[name], old, axes.get(name, ()), to, by, sizes, name)
    fresh.load_state_dict(state)
    for name, part in fresh.named_modules():
        if isinstance(part, NearestItems) and not name.startswith(backbone.fitted_again):
            part.carry_over(pairs[name], former)
    fresh.trained_on = DataIdentity.of(dataset)
    fresh.freeze_scores()
    return fresh.eval()


def _copy(
    new: Tensor,
    old: Tensor,
    axes: tuple[int, ...],
    to: npt.NDArray[np.int64],
    by: npt.NDArray[np.int64],
    sizes: tuple[int, int],
    name: str,
) -> None:
    """Copy the entries of the known items, ``old[by]`` to ``new[to]`` along ``axes``.

    An axis may be longer than the number of items: what follows the items is copied, too.
    """
    extra = {axis: old.shape[axis] - sizes[0] for axis in axes}
    wanted = [sizes[1] + extra[axis] if axis in extra else size for axis, size in enumerate(old.shape)]
    if list(new.shape) != wanted:
        what = f"{sizes[1]} items do" if axes else "the new data does"
        raise ValueError(
            f"{what} not fit this model, whose {name!r} has the shape {list(old.shape)}: train it on the new "
            "data without --init"
        )
    values = old.to(new)
    places: list[Tensor] = [torch.arange(size) for size in new.shape]
    for axis, more in extra.items():
        places[axis] = torch.as_tensor(np.append(to, sizes[1] + np.arange(more)))
        values = values.index_select(axis, torch.as_tensor(np.append(by, sizes[0] + np.arange(more))))
    if not axes:
        new.copy_(values)
    else:
        new[torch.meshgrid(*places, indexing="ij")] = values
