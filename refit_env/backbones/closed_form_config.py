"""Settings of closed-form denoisers: the weights of rows, what is regressed, and the terms of the scores.

Letters: B users in a batch, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from refit_env.backbones.noise_schedule import LinearVariance
from refit_env.settings import Nonnegative, OneOf, Share, Size

RECENCY = ("none", "rising", "reciprocal")
"""Names for ``ClosedFormConfig.recency``."""
TARGETS = ("row", "future")
"""Values of ``ClosedFormConfig.targets``."""
REPEATS = ("latest", "sum")
"""Values of ``ClosedFormConfig.repeats``."""
PAIRS = ("targets", "sets", "near")
"""Values of ``ClosedFormConfig.pairs``."""


@dataclass(frozen=True)
class ClosedFormConfig(LinearVariance):
    """Settings of rows, scores and schedule of every closed-form denoiser."""

    l2: Annotated[float, Meta(gt=0)] = 500.0
    """Factor of the squared weights in the ridge regression: the assumed variance of the noise."""
    recency: Annotated[str, OneOf(RECENCY)] = "none"
    """Weights of a user's items in u_T: ``none``, ones; ``rising``, from ``oldest`` to 1 in order of time, as
    in T-DiffRec; ``reciprocal``, 1 / b for the b-th latest."""
    oldest: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """With ``rising``: weight of the oldest item in u_T."""
    decay: Annotated[float, Meta(gt=0, le=4)] = 1.0
    """With ``reciprocal``: the power of 1 / b."""
    repeats: Annotated[str, OneOf(REPEATS)] = "latest"
    """Weight in u_T of an item that is several times in a history: ``latest``, of its latest position;
    ``sum``, of all its positions."""
    friends: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Weight of the items that a user's friends have, in units of equal standard deviations; needs social
    edges. They are the context of the denoiser, see ``friends_rows``."""
    targets: Annotated[str, OneOf(TARGETS)] = "row"
    """What the regression predicts. ``row``: each item from the others of its row, as EASE. ``future``: from
    the items before a point of the row, those after it; the rows must be sorted by time. Sequential and
    check-in sets have their own target, the next item, and ignore this."""
    cuts: Annotated[int, Meta(ge=1, le=50)] = 5
    """With ``future``: points in each row, evenly spaced from its middle on."""
    window: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """With ``future``: the share of the row after a point that is predicted."""
    pair_power: Share = 0.0
    """With ``future``: the error at a point is divided by (items to predict)^pair_power, so that long rows
    do not outweigh short ones."""
    neighborhood: Share = 0.0
    """Share of the normalised co-occurrences in the sum, the rest is the regression: 1 is item-kNN, RP3beta
    or a Markov chain."""
    pairs: Annotated[str, OneOf(PAIRS)] = "targets"
    """Which co-occurrences: ``targets``, of the regression's inputs and targets; ``sets``, of any two items
    of a user or session; ``near``, of two items that are near each other in a row, which must be sorted by
    time. Sequential and check-in sets have no ``near``: their inputs are histories, and ``recency`` weights
    them by the distance from the target."""
    reach: Annotated[int, Meta(ge=1, le=1000)] = 40
    """With ``pairs="near"``: places between two items that are counted."""
    gap_power: Annotated[float, Meta(ge=0, le=4)] = 0.5
    """With ``pairs="near"``: two items g places from each other count g^-gap_power."""
    nearest_of: Annotated[str, OneOf(("input", "target"))] = "input"
    """Whose ``neighbors`` largest co-occurrences are kept: of each ``input`` item, as RP3beta, or of each
    ``target`` item, as item-kNN."""
    shrink: Nonnegative = 10.0
    """Added to the denominator of a co-occurrence: those of rare items count less."""
    balance: Share = 0.5
    """Share of the target item in the exponents of the counts in that denominator; the input has the rest."""
    count_power: Annotated[float, Meta(ge=0, le=5)] = 1.0
    """Sum of both exponents: 0 divides by no count, above 1 popular items count less."""
    row_power: Annotated[float, Meta(ge=0, le=5)] = 0.0
    """An input row counts (its sum)^-row_power in the co-occurrences: long rows count less."""
    factorization: Share = 0.0
    """Share of a matrix factorisation in the sum, iALS, into which each row is folded; the rest are the other
    terms."""
    embedding: Size = 64
    """With ``factorization``: size of an item's embedding."""
    unobserved: Annotated[float, Meta(gt=0)] = 0.1
    """With ``factorization``: weight of every pair, observed or not, beside the 1 of an observed one."""
    factorization_l2: Annotated[float, Meta(gt=0, le=1e12)] = 0.1
    """With ``factorization``: weight of the squared embeddings."""
    places: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Weight of the visits near each item, in units of equal standard deviations; the items need the columns
    ``lat`` and ``lon``."""
    places_scale: Annotated[float, Meta(ge=1e-3, le=1e4)] = 0.3
    """With ``places``: kilometres over which nearness falls to 1 / e."""
    score_power: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    """An item's scores are divided by (its train count / the mean count) to this power: above 0, less
    popular items are recommended more."""
