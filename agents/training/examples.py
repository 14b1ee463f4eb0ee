"""The inputs and targets of pretraining, by the settings ``objective`` and ``target``.

Letters: B users (of sequential sets: rows) in a batch, I items, L history length, R rows, n examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.training.pretrain_config import PretrainConfig
from refit_env.backbones import Backbone, Lookup
from refit_env.data.dataset import Dataset, RowDataset
from refit_env.data.rows import SparseRows
from refit_env.errors import SettingError
from refit_env.rewards.relevance import make_relevance


@dataclass(frozen=True)
class Examples:
    """Inputs and targets of a loss.

    Attributes:
        ids: (n,) int64 users, or what else the backbone trains on (interactions, say).
        shown: ids (B,) -> the input, (B, I) or (B, L).
        target: ids (B,) -> the target, (B, I) or (B,).
    """

    ids: Tensor
    shown: Lookup
    target: Lookup


def reconstruction_examples(
    backbone: Backbone, dataset: Dataset, config: PretrainConfig, device: torch.device
) -> Examples:
    """Return the examples of a backbone's own loss.

    Raises:
        ValueError: for a target that the backbone or the data set does not have.
    """
    own = backbone.examples(dataset, device)
    if own is not None:
        if config.target != "train":
            raise ValueError(f"target={config.target!r}: backbone {backbone.name!r} learns from 'train' only")
        shown, target, ids = own
        return Examples(ids, shown, target)
    if isinstance(dataset, RowDataset):
        return next_item_examples(backbone, dataset, config, device)
    settings = backbone.config
    whole = part = SparseRows(backbone.rows(dataset, settings), device)
    if config.target != "train":
        relevance = make_relevance(config.target, dataset, fraction=config.fraction)
        seen = dataset.showing(relevance.visible)
        part = SparseRows(backbone.rows(seen, settings), device)
    users = torch.nonzero(part.counts(torch.arange(dataset.num_users, device=device))).flatten()
    users = _allowed(users, backbone, dataset)
    shown = part.dense
    return Examples(users, shown, shown if part is whole else whole.dense)


@dataclass(frozen=True)
class RankedExamples:
    """Inputs and relevant items of a ranking loss.

    Attributes:
        ids: (n,) int64 users.
        shown: ids (B,) -> the input, (B, ...).
        relevant: ids (B,) -> (B, I) 1 for what is held out of the rest.
        hidden: ids (B,) -> (B, I) bool, the items that no list may hold; None if there are none.
    """

    ids: Tensor
    shown: Lookup
    relevant: Lookup
    hidden: Lookup | None


def ranked_examples(
    backbone: Backbone, dataset: Dataset, config: PretrainConfig, device: torch.device
) -> RankedExamples:
    """The examples of the cross-entropy of held-out items: those that a reward of that relevance counts.

    Raises:
        SettingError: for rows of a CF set that are to be shown whole, which leaves nothing to rank.
    """
    if config.target == "train" and not isinstance(dataset, RowDataset):
        raise SettingError(
            "target",
            "must be recent or holdout for objective 'ranking', which ranks items that are not shown, "
            f"found {config.target!r}",
        )
    relevance = make_relevance(config.target, dataset, fraction=config.fraction)
    relevance = relevance.of_users(backbone.may_train_on(dataset, backbone.config))
    hidden = None if relevance.hidden is None else SparseRows(relevance.hidden, device).mask
    return RankedExamples(
        torch.as_tensor(relevance.users, device=device),
        backbone.shown(dataset.showing(relevance.visible), device),
        SparseRows(relevance.relevant, device).dense,
        hidden,
    )


def next_item_examples(
    backbone: Backbone, dataset: RowDataset, config: PretrainConfig, device: torch.device
) -> Examples:
    """Return the train rows of sequential data and the item that follows each.

    Raises:
        ValueError: for another target.
    """
    if config.target != "train":
        raise ValueError(f"target={config.target!r}: in sequential data the next item is the target")
    rows = _allowed(torch.as_tensor(dataset.rows_of("train"), device=device), backbone, dataset)
    shown = backbone.shown(dataset, device)
    if not backbone.embedding:  # it predicts rows: of the next item alone
        return Examples(rows, shown, SparseRows(dataset.targets.csr, device).dense)
    items = torch.full((dataset.num_users,), -1, device=device)  # (R,)
    items[rows] = torch.as_tensor(dataset.targets.items, dtype=torch.int64, device=device)
    return Examples(rows, shown, lambda some: items[some])


def _allowed(ids: Tensor, backbone: Backbone, dataset: Dataset) -> Tensor:
    """Return those of ``ids`` (n,) that the backbone may train on."""
    allowed = backbone.may_train_on(dataset, backbone.config)
    return ids if allowed is None else ids[torch.as_tensor(allowed, device=ids.device)[ids]]
