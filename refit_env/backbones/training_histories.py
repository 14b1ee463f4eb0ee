"""Histories that a sequential model learns from: of rows, or of sets whose items are sorted by time.

Letters: R train rows, W windows, L history length, U users or rows that are scored, I items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refit_env.data.dataset import Dataset, RowDataset, as_rows, next_rows
from refit_env.data.interactions import Interactions


@dataclass(frozen=True)
class TrainingHistories:
    """Training data and inputs of a sequential model.

    Attributes:
        history: (R, L) int64 items before each train target, oldest first, padded with I.
        targets: (R,) int64.
        sessions: (R,) int64 the session (user) of each train row.
        shown: (U, L) int64 the history of each user that is scored.
        owners: (U,) int64 the session of each user that is scored.
        num_items: I.
    """

    history: Tensor
    targets: Tensor
    sessions: Tensor
    shown: Tensor
    owners: Tensor
    num_items: int

    @classmethod
    def of(cls, data: Dataset, length: int) -> TrainingHistories:
        """Read a data set of rows, or of sets sorted by time; histories hold at most ``length`` items.

        For sets, each train item except a user's first is a target, and all train items are the input.

        Raises:
            DataError: if the rows of the data set are not sorted by time, or no train row is left.
        """
        if isinstance(data, RowDataset):
            history = _ids(data.latest(min(length, data.history.shape[1]))[0])
            train, sessions = _ids(data.rows_of("train")), _ids(data.sessions)
            targets = _ids(data.targets.items)
            return cls(history[train], targets, sessions[train], history, sessions, data.num_items)
        rows = as_rows(_train_alone(data), length)
        history, targets, sessions = map(_ids, (rows.history, rows.targets.items, rows.sessions))
        shown, owners = latest_histories(data, length), torch.arange(data.num_users)
        return cls(history, targets, sessions, shown, owners, data.num_items)

    def windows(self) -> tuple[Tensor, Tensor]:
        """Return histories (W, L), and the item that follows at each place of them (W, L); both int64.

        Together they hold each item of a session as a target or as its first one: they are the histories of
        the latest row of a session and of each L-th before it. So a network that predicts the next item at
        each place learns from every train event once, or twice at a seam. Places after the last item are I
        in the first tensor and 0 in the second.
        """
        length, count = self.history.shape[1], self.sessions.numel()
        order = np.lexsort((np.arange(count), self.sessions.numpy()))  # rows of a session in order of time
        sessions = self.sessions.numpy()[order]
        ends = np.searchsorted(sessions, sessions, side="right")
        from_end = ends - 1 - np.arange(count)
        chosen = _ids(np.sort(order[from_end % length == 0]))
        inputs = self.history[chosen]
        nexts = torch.cat([inputs, torch.zeros(len(chosen), 1, dtype=torch.int64)], 1)[:, 1:]
        last = (inputs < self.num_items).sum(1, keepdim=True) - 1  # (W, 1)
        nexts = nexts.scatter(1, last, self.targets[chosen][:, None])
        return inputs, nexts.where(inputs < self.num_items, 0)


def latest_histories(data: Dataset, length: int) -> Tensor:
    """Return the last train items of each user of sets that are sorted by time.

    Args:
        data: the sets.
        length: L, the most items.

    Returns:
        (U, L) int64, oldest first, padded with I.
    """
    return _ids(next_rows(_train_alone(data), length).history)


def _train_alone(data: Dataset) -> Dataset:
    """Return the data set without validation and test items."""
    none = Interactions.from_pairs([], [], data.num_users, data.num_items)
    return replace(data, valid=none, test=none)


def _ids(values: Any) -> Tensor:
    """Return an array as an int64 tensor."""
    return torch.as_tensor(values, dtype=torch.int64)
