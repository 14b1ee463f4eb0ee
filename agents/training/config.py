"""Settings that every fine-tuning agent has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Self, TypeVar

from msgspec import Meta

from refit_env.errors import unknown_name
from refit_env.evaluation.selection import ConditionText, RuleText
from refit_env.settings import Bounded, Form, OneOf, Share

Batch = Annotated[int, Meta(ge=1, le=10**9)]
"""Rows of a batch; at most the rows of the data."""
Iterations = Annotated[int, Meta(ge=0, le=10**7)]
"""Number of updates."""
Passes = Annotated[int, Meta(ge=1, le=100_000)]
"""Passes over a batch."""
Rate = Annotated[float, Meta(ge=0, le=1000)]
"""A learning rate."""
Patience = Annotated[int, Meta(ge=0, le=10**7, description="0: never stop early")]
"""Patience of early stopping."""
Every = Annotated[int, Meta(ge=1, le=10**7)]
"""Interval between repeated work."""
Weight = Annotated[float, Meta(ge=0, le=1e6)]
"""Weight of a term of a loss."""
PRECISIONS = ("fp32", "bf16")
"""Names for the ``precision`` of training."""
DRAWN = ("uniform", "activity", "value", "bands")
"""Names for ``draw_users``."""
REDUCTIONS = ("mean", "sum")
"""Names for the ``logprob_reduction`` of an algorithm."""
BASES = ("factors", "relevant", "weights")
"""Names for the directions of the catalogue that ``agents.training.output_subspace`` moves scores along."""


def train_steps_fault(text: str) -> str | None:
    """What is wrong with a ``train_steps`` that cannot be read; None if nothing is.

    Example:
        >>> train_steps_fault("first:2")
        "must be 'all', 'random:n' or 'last:n' with n in 1..99999, found 'first:2'"
    """
    if text == "all" or re.fullmatch("(random|last):[1-9][0-9]{0,4}", text):
        return None
    return f"must be 'all', 'random:n' or 'last:n' with n in 1..99999, found {text!r}"


TrainSteps = Annotated[str, Form(train_steps_fault)]
"""Which steps of the chain an iteration trains: see ``agents.training.step_subset``."""


@dataclass(frozen=True)
class TrainerConfig(Bounded):
    """The settings of every fine-tuning agent."""

    iterations: Iterations = 300
    """Updates of the weights."""
    users_per_batch: Batch = 128
    """Users in a batch."""
    samples_per_user: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Episodes of each user in a batch."""
    learning_rate: Rate = 5e-5
    """Adam's step size."""
    item_bias_learning_rate: Rate | None = None
    """Adam's step size for weights of one number an item (the penalty of ``linear``, DiffRec's last bias):
    an item bias needs larger steps than a matrix. None: ``learning_rate``. With ``learning_rate`` 0 the item
    biases alone are trained."""
    anneal_lr: bool = False
    """Whether step sizes fall linearly, to 0 after the last iteration. A constant learning rate can move a
    model that was trained with decay away from its optimum."""
    max_grad_norm: Annotated[float, Meta(ge=0, description="0: no limit")] = 0.0
    """Gradients with a larger norm are clipped to it; 0 does not clip."""
    exploration_std: Annotated[float, Meta(ge=0, le=1e6)] = 0.05
    """Floor of the policy's standard deviation, in units of the scores."""
    posterior_share: Share = 1.0
    """Factor of the chain's own standard deviation; a smaller one explores nearer to the noise-free
    chain."""
    eval_every: Every = 25
    """Iterations between two validations; the best weights are kept."""
    patience: Patience = 0
    """Validations without a gain after which training stops; 0 never stops early."""
    select: RuleText = "ndcg@20"
    """The rule by which validation chooses the weights: a metric, or a metric with conditions such as
    ``coverage@20 where ndcg@20 >= 0.99 * start``. The start is kept if nothing meets them."""
    constraint: tuple[ConditionText, ...] = ()
    """Constraints such as ``ndcg@20 >= 0.99 * start``, measured on validation: a multiplier weighs the reward
    that raises each metric, and adapts to the violation (``agents.training.lagrangian``)."""
    multiplier: Weight = 1.0
    """Value with which the multipliers of the constraints begin."""
    multiplier_proportional: Weight = 20.0
    """Gain of a multiplier by the violation, as a share of the constraint's limit: k_P."""
    multiplier_integral: Weight = 10.0
    """Gain by the sum of the violations over validations, k_I; with all three at 0 multipliers are fixed."""
    multiplier_derivative: Weight = 10.0
    """Gain by the growth of the violation, k_D."""
    draw_users: Annotated[str, OneOf(DRAWN)] = "uniform"
    """Users of a batch: ``uniform``; by ``activity`` (visible items) or ``value`` (sum of the ratings), which
    weigh the objective; ``bands``, users of about equal activity: see ``agents.training.user_draws``."""
    validation_users: Annotated[int, Meta(ge=0, le=10**9, description="0: all")] = 0
    """Users that validations evaluate, drawn once by the seed; 0: all."""
    user_parts: Annotated[int, Meta(ge=1, le=10**6)] = 1
    """Ranges of the users, of which one at a time is in memory besides the first, whose users validation and
    test evaluate: for data sets of ``refit_env.data.mapped``."""
    part_iterations: Every = 100
    """With ``user_parts``: iterations on a range before the next one."""
    lists_ttl: Annotated[int, Meta(ge=0, le=10**7, description="0: at validations")] = 0
    """Iterations for which the cached list of a neighbour counts, where the reward (variant
    ``neighbor_lists`` of racs) reads it: only the lists that a batch needs are made again. 0 makes all users'
    lists at each validation."""
    relevance_draws: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """Random hold-outs that iterations take in turns (relevance ``holdout`` only): more of them
    reduce overfitting."""
    precision: Annotated[str, OneOf(PRECISIONS)] = "fp32"
    """Number format of the network's products: ``bf16`` needs a CPU with AVX512-BF16 or a GPU that has it;
    weights, means, log-probabilities and validation stay float32."""
    blends: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Number of points between the pretrained and the last weights that are validated at the end: an
    interpolation can rank better than both ends (WiSE-FT, arXiv 2109.01903;
    WARP, 2406.16768)."""

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """Return the named settings of the algorithm; ``default`` is always there."""
        return {"default": cls()}

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return the settings called ``name``.

        Raises:
            ValueError: if there are none of that name, with a did-you-mean.
        """
        return named_settings(cls.presets(), name)


Config = TypeVar("Config", bound=TrainerConfig)


def named_settings(
    presets: Mapping[str, Config], name: str, kind: str = "preset", others: Iterable[str] = ()
) -> Config:
    """Return the settings called ``name``.

    Args:
        presets: settings by name.
        name: which of them.
        kind: what the error calls them.
        others: names that the error lists, too.

    Raises:
        ValueError: if there are none of that name, with a did-you-mean.
    """
    if name not in presets:
        raise unknown_name(kind, name, (*presets, *others))
    return presets[name]
