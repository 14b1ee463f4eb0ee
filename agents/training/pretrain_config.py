"""Settings of pretraining, and those that the authors of each backbone published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from msgspec import Meta
from tyro.conf import arg

from agents.training.config import PRECISIONS, Batch, Every, Patience, Rate, Weight
from refit_env.evaluation.selection import RuleText
from refit_env.settings import Bounded, OneOf

TARGETS = ("train", "recent", "holdout")
"""Names for ``PretrainConfig.target``."""

OBJECTIVES = ("elbo", "ranking")
"""Names for ``PretrainConfig.objective``."""


@dataclass(frozen=True)
class PretrainConfig(Bounded):
    """ELBO training. Defaults: DiffRec's for ML-1M, with validation often enough to catch its early best."""

    learning_rate: Rate = 1e-3
    """AdamW's step size."""
    weight_decay: Weight = 0.0
    """AdamW's weight decay."""
    learning_rate_decay: Annotated[float, Meta(gt=0, le=10)] = 1.0
    """Factor of the step size after each epoch."""
    users_per_batch: Batch = 400
    """Users in a batch; rows or interactions, where a backbone trains on those."""
    epochs: Annotated[int, Meta(ge=0, le=10**7)] = 200
    """Passes over the users, at most."""
    eval_every: Every = 2
    """Epochs between two validations."""
    patience: Patience = 10
    """Validations without a gain after which training stops; 0 never stops early."""
    select: RuleText = "recall@20"
    """The rule by which validation chooses the weights: a metric, or a metric with conditions such as
    ``ndcg@20 where coverage@20 >= 0.5``; ``start`` is the model that training begins with."""
    objective: Annotated[str, OneOf(OBJECTIVES)] = "elbo"
    """``elbo``: the backbone's published loss. ``ranking``: cross-entropy of held-out items (``--relevance
    recent`` or ``holdout``; of the next item in sequential sets) among all that are not shown, through the
    noise-free chain; DreamRec, its causal form and Diff-POI have ranking losses of their own, for
    target ``train``."""
    target: Annotated[str, OneOf(TARGETS), arg(aliases=("--relevance",))] = "train"
    """``train``: reconstruct the row, as published. ``recent`` or ``holdout``: show the part that the
    relevance of that name leaves visible and predict the whole row (``ranking``: the rest), the same
    information that a reward of that relevance has. Sequential sets: ``train``, the next item of each train
    row."""
    fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """Share of the row that ``recent`` and ``holdout`` hide."""
    temperature: Annotated[float, Meta(gt=0, le=1e6)] = 0.05
    """Divisor of the chain's scores in the cross-entropy of objective ``ranking``."""
    eval_steps: Annotated[int, Meta(ge=0, le=100_000, description="0: the whole chain")] = 4
    """Length of the respaced chain that validation runs (0: the whole chain), at most that of the saved
    policy; objective ``ranking`` runs the latter."""
    precision: Annotated[str, OneOf(PRECISIONS)] = "fp32"
    """Number format of the network's products in training; ``bf16`` needs a CPU with AVX512-BF16 or a GPU
    that has it."""
    max_work: Annotated[float, Meta(ge=0, description="0: no limit")] = 0.0
    """Work after which training stops, in rows through the denoiser forward and backward
    (``agents.runs.work``); 0 is no limit. Training stops after the update that reaches it, within an
    epoch."""


_DREAMREC = PretrainConfig(users_per_batch=256, eval_every=1, patience=10, eval_steps=10, select="ndcg@20")
_RECDIFF = PretrainConfig(
    learning_rate=5e-3,
    learning_rate_decay=0.985,
    users_per_batch=2048,
    epochs=150,
    eval_every=5,
    patience=20,
    eval_steps=0,
)
_PUBLISHED: dict[str, dict[str, PretrainConfig]] = {
    "causal-dreamrec": {
        "": PretrainConfig(
            objective="ranking", users_per_batch=128, eval_every=1, patience=5, eval_steps=1, select="ndcg@20"
        )
    },
    "cf-diff": {"": PretrainConfig(learning_rate=1e-4, users_per_batch=128)},
    "dreamrec": {
        "": _DREAMREC,
        "kuairec": replace(_DREAMREC, learning_rate=5e-5),
        "zhihu": replace(_DREAMREC, learning_rate=1e-2),
    },
    "hdrm": {"": PretrainConfig(learning_rate=5e-3, users_per_batch=8192, epochs=100)},
    "hybrid": {"": PretrainConfig(eval_steps=1, select="ndcg@20")},
    "linear": {"": PretrainConfig(select="ndcg@20")},
    "spectral": {"": PretrainConfig(select="ndcg@20")},
    "stacked": {
        "": PretrainConfig(
            objective="ranking",
            target="train",
            temperature=0.15,
            learning_rate=1e-2,
            learning_rate_decay=0.5,
            users_per_batch=64,
            epochs=4,
            eval_every=1,
            patience=2,
            eval_steps=1,
            select="ndcg@20",
        )
    },
    "l-diffrec": {"": PretrainConfig(learning_rate=5e-4), "ml-1m": PretrainConfig()},
    "diff-poi": {
        "": PretrainConfig(
            weight_decay=1e-3,
            users_per_batch=1024,
            epochs=100,
            eval_every=1,
            patience=10,
            eval_steps=10,
            select="ndcg@20",
        )
    },
    "recdiff": {
        "": _RECDIFF,
        "epinions": replace(_RECDIFF, learning_rate=1e-3, users_per_batch=4096),
        "yelp": replace(_RECDIFF, learning_rate=1e-3, users_per_batch=4096),
    },
}
"""By backbone and data set ("" is any other). DreamRec's README trains 1000 epochs and selects nothing."""


def published_training(backbone: str, dataset: str) -> PretrainConfig:
    """The training settings that a backbone's authors published for a data set, but for the stopping rule.

    Example:
        >>> published_training("dreamrec", "zhihu").learning_rate
        0.01
    """
    table = _PUBLISHED.get(backbone, {})
    return table.get(dataset, table.get("", PretrainConfig()))
