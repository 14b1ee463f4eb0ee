"""The gold reward of the embedded data set, whose users' true tastes are known.

Letters: B users in the batch, I items, K list length, U users of the data set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refit_env.data.synthetic import true_tastes
from refit_env.evaluation.metrics import discounts
from refit_env.rewards.base import ListReward
from refit_env.rewards.context import RewardContext


class Gold(ListReward):
    """The expected DCG of the list under the user's true taste, divided by that of the ideal list.

    An item's gain is the probability that the generator draws it next for the user
    (``refit_env.data.synthetic.true_tastes``); items of the user's history gain 0, since they are not drawn
    again. It is 1 for the best list and has no noise.

    It is meant to measure over-optimisation: with the weight 0, ``{"racs": 1.0,
    "refit_env.rewards.gold:Gold": 0.0}``, it is a term of the log and of ``info``, and no agent is rewarded
    by it (Gao et al., arXiv 2210.10760, have a gold reward model in its place).
    """

    def __init__(self, context: RewardContext) -> None:
        """No settings but the context's.

        Raises:
            ValueError: for a data set that ``synthesize`` did not generate.
        """
        super().__init__(context, discounts(context.k), {"gold": 1.0})
        tastes = true_tastes(context.dataset)
        if tastes is None:
            raise ValueError(
                f"reward Gold reads true tastes, and those of {context.dataset.name!r} are not known: "
                "use it with ReFiT-Synthetic-v0"
            )
        gains = torch.as_tensor(tastes, device=context.device)  # (U, I)
        for part in (context.dataset.train, context.dataset.valid):
            gains[torch.as_tensor(part.users).long(), torch.as_tensor(part.items).long()] = 0.0
        best = gains.topk(context.k).values.double() @ discounts(context.k).double().to(gains.device)
        self._gains = (gains / best[:, None]).float()  # (U, I)

    def term_gains(self, users: Tensor) -> dict[str, Tensor]:
        """Return the gain of each item (B, I)."""
        return {"gold": self._gains[users]}

    def term_gains_at(self, users: Tensor, lists: Tensor) -> dict[str, Tensor]:
        """Return the same at the lists' items (B, K)."""
        return {"gold": self._gains[users].gather(1, lists)}
