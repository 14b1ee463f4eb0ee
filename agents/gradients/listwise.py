"""Cross-entropy of a list: scores as the logarithm of a distribution over the items.

Letters: B users in the batch, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor


def listwise(logits: Tensor, gains: Tensor) -> Tensor:
    """ListNet's cross-entropy (Cao et al., ICML 2007, top one), the mean over users who have gains at all.

    Args:
        logits: (B, I), -inf where an item is no candidate.
        gains: (B, I) at least 0, and 0 for those.

    Returns:
        A scalar, the mean of - sum_i p_i log softmax(logits)_i with p_i = gains_i / sum_j gains_j.

    Example:
        >>> float(listwise(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 0.0, 1.0]])).exp())
        4.0
    """
    total = gains.sum(1)  # (B,)
    logs = torch.log_softmax(logits, 1).masked_fill(gains == 0, 0.0)  # (B, I); 0 * -inf would be nan
    each = -(gains * logs).sum(1) / total.clamp(min=1e-30)  # (B,)
    return each.sum() / (total > 0).sum().clamp(min=1)
