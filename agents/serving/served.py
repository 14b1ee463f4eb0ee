"""A model that answers requests: its lists by the ids of the data's source.

Letters: B people in a batch, I items, K list length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from agents.serving.ranker import NoHistory, Query, Ranked, Ranker
from refit_env.checkpoint import weights_digest
from refit_env.data import Dataset
from refit_env.data.ids import IdMap

STEPS = 12
"""Most steps of a chain that are shown."""


class UnknownId(ValueError):
    """A request names a user or an item that the data set does not have."""


@dataclass(frozen=True, eq=False)
class Served:
    """A run's model with its data set, and the model from which its fine-tuning began."""

    run: Path
    """The run folder; it is not read again."""
    ranker: Ranker
    """The model."""
    before: Ranker | None = None
    """The model from which fine-tuning began."""
    weights: str = field(init=False)
    """sha256 of the weights."""

    def __post_init__(self) -> None:
        """Compute the digest."""
        object.__setattr__(self, "weights", weights_digest(self.ranker.policy.backbone.state_dict()))

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.ranker.dataset

    @cached_property
    def histories(self) -> bool:
        """Whether the model ranks for people who are in no data set."""
        try:
            self.ranker.inputs([Query()])
        except NoHistory:
            return False
        return True

    def user(self, given: int | str) -> int:
        """Return the number of a user by the source's id.

        Raises:
            UnknownId: if there is none.
        """
        return _number(self.dataset.users_by_id, given)

    def items(self, given: Sequence[int | str]) -> tuple[int, ...]:
        """Return the numbers of items by the source's ids.

        Raises:
            UnknownId: naming the first that there is not.
        """
        return tuple(_number(self.dataset.items_by_id, one) for one in given)

    def listed(self, items: Sequence[int], scores: Sequence[float] | None = None) -> list[dict[str, object]]:
        """Return items with ids, scores and names, for JSON."""
        ids, names = self.dataset.items_by_id, self.dataset.item_names
        values = [0.0] * len(items) if scores is None else scores
        return [
            {"item": ids.of(item), "score": value, "name": None if names is None else str(names[item])}
            for item, value in zip(items, values, strict=True)
        ]

    def ranked(self, found: Ranked) -> list[dict[str, object]]:
        """Return a list with ids, scores and names, for JSON."""
        return self.listed(found.items.tolist(), found.scores.tolist())

    def warm(self) -> None:
        """Rank once, so that the first request does not wait for caches; checks the model, too."""
        for ranker in filter(None, (self.ranker, self.before)):
            ranker.rank([Query(0)], 1)

    def explain(self, query: Query, top: int) -> dict[str, object]:
        """Return a person's list before and after fine-tuning, and after each step of the chain, for JSON."""
        chain = self.ranker.chain(query, top, STEPS)
        _, final, _ = chain[-1]
        if query.user is not None:
            known = self.ranker.history(query.user).tolist()
        else:
            known = list(dict.fromkeys(query.history[::-1]))[::-1]  # each item once, at its latest place
        before = None if self.before is None else self.ranked(self.before.rank([query], top)[0])
        chosen = torch.from_numpy(final.items).to(self.ranker.policy.device)
        return {
            "weights": self.weights,
            "history": self.listed(known[::-1][:30]),
            "history_length": len(known),
            "before": before,
            "after": self.ranked(final),
            "steps": [
                {
                    "step": done,
                    "items": self.ranked(ranked),
                    "ranks": (1 + (scores > scores[chosen][:, None]).sum(1)).tolist(),
                }
                for done, ranked, scores in chain
            ],
        }

    def find(self, text: str, most: int) -> list[dict[str, object]]:
        """Return items whose id or name contains a text, in any letter case; exact ids first."""
        wanted = text.casefold()
        exact, within = list[int](), list[int]()
        for number, words in enumerate(self._searched):
            if wanted in words:
                (exact if words.startswith(f"{wanted}\n") else within).append(number)
                if len(within) >= most and len(exact):
                    break
        return self.listed((exact + within)[:most])

    @cached_property
    def _searched(self) -> list[str]:
        """(I,) id and name of each item."""
        ids = self.dataset.items_by_id.take(np.arange(self.dataset.num_items)).tolist()
        names = self.dataset.item_names
        named = [""] * len(ids) if names is None else names.tolist()
        return [f"{one}\n{name}".casefold() for one, name in zip(ids, named, strict=True)]


def _number(ids: IdMap, given: int | str) -> int:
    """Return the number of an id; no did-you-mean, whose search would be slow for large catalogues."""
    found = ids.find(given)
    if found is None:
        first, last = ids.of(0), ids.of(ids.count - 1)
        raise UnknownId(
            f"unknown {ids.kind} {str(given)[:80]!r}: {ids.where!r} has {ids.count} {ids.kind}s, "
            f"from {first!r} to {last!r}"
        )
    return found
