"""Statistics for comparing models: bootstrap and confidence intervals.

There are two separate sources of uncertainty. A paired bootstrap over users estimates how a difference varies
with the sample of users; an interval over seeds estimates how it varies with repeated training.

Letters: n users, M metrics, R resamples, S seeds (runs), E environments (tasks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from refit_env.evaluation.intervals import side_of_zero

FloatArray = npt.NDArray[np.float64]

ERRORS = 2.0
"""Standard errors that a gain must exceed."""
_CHUNK = 4_000_000
"""Draws of a bootstrap that are in memory at once: 16 MB of indices."""


@dataclass(frozen=True)
class PairedBootstrap:
    """The difference ``after - before`` of one metric over the same users."""

    mean_difference: float
    """Mean over users of ``after - before``."""
    low: float
    """Lower end of the interval of the mean difference; minus infinity for a single user or group."""
    high: float
    """Upper end of the interval of the mean difference; infinity for a single user or group."""
    before: float
    """Mean over users before."""
    after: float
    """Mean over users after."""
    num_users: int
    """Users compared."""
    confidence: float = 0.95
    """Confidence level of the interval."""
    resamples: int = 10_000
    """Bootstrap resamples of the interval."""

    @property
    def relative_gain(self) -> float:
        """``after / before - 1``; NaN where ``before`` is 0."""
        return self.mean_difference / self.before if self.before else float("nan")

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not contain zero."""
        return side_of_zero(self.low, self.high) != 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; an infinite end is null."""
        return _plain(self)


@dataclass(frozen=True)
class Gain:
    """The mean gain of one model over another on the same users, and its standard error."""

    mean: float
    """Mean over users."""
    error: float
    """Its standard error; infinite for a single user or group."""

    @classmethod
    def of(cls, before: npt.ArrayLike, after: npt.ArrayLike, *, groups: npt.ArrayLike | None = None) -> Gain:
        """Return the gain ``after - before`` of n users.

        Rows of one person or session are not independent: with ``groups``, of which there are G, the error is
        sqrt(G / (G - 1) sum over groups of (sum of their rows' deviations from the mean)^2) / n, which with
        one row a group is the usual one (Cochran, Sampling Techniques, 1977, chapter 9A: the ratio to size).

        Args:
            before: (n,) a metric of each user by the simpler model.
            after: (n,) the metric by the other one, of the same users in the same order.
            groups: (n,) int, users with one number are not independent; None counts each alone.

        Raises:
            ValueError: if ``groups`` are of other users.

        Example:
            >>> before, after = [0.0, 0.5, 1.0, 0.5], [0.1, 0.7, 1.0, 0.7]
            >>> print(Gain.of(before, after), Gain.of(before, after).clear)
            +0.1250, standard error 0.0479 True
            >>> print(Gain.of(before, after, groups=[0, 1, 0, 1]))
            +0.1250, standard error 0.0750
        """
        difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)  # (n,)
        n, mean = difference.size, float(difference.mean())
        together = _together(groups, n)
        sums = difference - mean if together is None else np.bincount(together, difference - mean)  # (G,)
        if sums.size < 2:
            return cls(mean, float("inf"))
        return cls(mean, float(np.sqrt(sums.size / (sums.size - 1) * (sums**2).sum()) / n))

    @property
    def clear(self) -> bool:
        """Whether the gain exceeds ``ERRORS`` standard errors."""
        return self.mean > ERRORS * self.error

    def __str__(self) -> str:
        """Format: ``+0.0012, standard error 0.0004``.

        Example:
            >>> print(Gain.of([0.25], [0.5]))
            +0.2500, no standard error (fewer than two independent users)
        """
        if not np.isfinite(self.error):
            return f"{self.mean:+.4f}, no standard error (fewer than two independent users)"
        return f"{self.mean:+.4f}, standard error {self.error:.4f}"


@dataclass(frozen=True)
class Interval:
    """A mean (or another centre) and the interval around it."""

    mean: float
    """The centre."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    count: int
    """Number of values."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; an infinite end is null."""
        return _plain(self)


def paired_bootstrap(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedBootstrap:
    """Bootstrap the mean of ``after - before`` over users (percentile interval).

    Args:
        before: (n,) one metric of each user before.
        after: (n,) the same metric of the same users, in the same order, after.
        groups: (n,) int, users with one number are drawn together; None draws each alone.
        resamples: R.
        confidence: between 0 and 1.
        seed: seed of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: if the two differ in shape, are empty, or contain NaN or infinity.

    Example:
        >>> result = paired_bootstrap([0.1, 0.2, 0.0, 0.4], [0.2, 0.3, 0.1, 0.5])
        >>> round(result.mean_difference, 3), result.excludes_zero
        (0.1, True)
    """
    table = paired_bootstraps(
        {"metric": before},
        {"metric": after},
        groups=groups,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    return table["metric"]


def paired_bootstraps(
    before: Mapping[str, npt.ArrayLike],
    after: Mapping[str, npt.ArrayLike],
    *,
    groups: npt.ArrayLike | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedBootstrap]:
    """Bootstrap several metrics of the same users with the same draws of users.

    Rows of one person or session are not independent: with ``groups`` whole ones are drawn (the cluster
    bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).

    Args:
        before: metric name -> (n,) values of each user.
        after: the same names and users.
        groups: (n,) int, users with one number are drawn together; None draws each alone.
        resamples: R.
        confidence: between 0 and 1.
        seed: seed of the resampling.

    Returns:
        One result per metric. Because the draws are shared, M metrics cost little more than one. The interval
        of a single user or group is infinite.

    Raises:
        ValueError: if names or shapes differ, or a value is NaN or infinite.
    """
    _check_bootstrap(resamples, confidence)
    if set(before) != set(after):
        raise ValueError(f"before has metrics {sorted(before)}, after has {sorted(after)}")
    names = list(before)
    old = np.stack([_users_values(f"before[{name!r}]", before[name]) for name in names], axis=1)  # (n, M)
    new = np.stack([_users_values(f"after[{name!r}]", after[name]) for name in names], axis=1)  # (n, M)
    if old.shape != new.shape:
        raise ValueError(f"before has {old.shape[0]} users, after has {new.shape[0]}")
    difference = new - old  # (n, M)
    together = _together(groups, len(difference))
    if _independent(difference, together) < 2:
        low, high = np.full(len(names), -np.inf), np.full(len(names), np.inf)
    else:
        means = _bootstrap_means(difference, resamples, seed, together)  # (R, M)
        low, high = _percentiles(means, confidence)  # (M,) each
    return {
        name: PairedBootstrap(
            mean_difference=float(difference[:, m].mean()),
            low=float(low[m]),
            high=float(high[m]),
            before=float(old[:, m].mean()),
            after=float(new[:, m].mean()),
            num_users=int(difference.shape[0]),
            confidence=confidence,
            resamples=resamples,
        )
        for m, name in enumerate(names)
    }


def mean_interval(
    values: npt.ArrayLike,
    *,
    method: str = "t",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the mean over seeds with an interval.

    Args:
        values: (S,) one number per seed.
        method: ``"t"``, Student's interval, valid for few seeds, or ``"bootstrap"``, the percentile
            bootstrap, which is too narrow below about ten seeds.
        confidence: between 0 and 1.
        resamples: R, for the bootstrap.
        seed: seed of the bootstrap.

    Returns:
        The mean and its interval; with one value the interval is infinite.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0])
        >>> round(interval.low, 3), interval.mean, round(interval.high, 3)
        (-0.484, 2.0, 4.484)
    """
    _check_bootstrap(resamples, confidence)
    data = _users_values("values", values)  # (S,)
    mean, count = float(data.mean()), int(data.size)
    if count == 1:
        return Interval(mean, float("-inf"), float("inf"), 1)
    if method == "t":
        half = float(scipy_stats.t.ppf(0.5 + confidence / 2, count - 1) * data.std(ddof=1) / count**0.5)
        return Interval(mean, mean - half, mean + half, count)
    if method == "bootstrap":
        low, high = _percentiles(_bootstrap_means(data[:, None], resamples, seed), confidence)
        return Interval(mean, float(low[0]), float(high[0]), count)
    raise ValueError(f"unknown method {method!r}. Known: bootstrap, t.")


def interquartile_mean(values: npt.ArrayLike, axis: int | None = None) -> Any:
    """Return the mean of the middle half of the values, as the rliable paper recommends for RL results.

    Args:
        values: array of any shape.
        axis: the axis to reduce; None pools all values.

    Returns:
        A float, or an array without ``axis``. Fewer than four values are not trimmed.

    Example:
        >>> interquartile_mean([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0])
        3.5
    """
    trimmed = scipy_stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)
    return float(trimmed) if np.ndim(trimmed) == 0 else trimmed


def stratified_bootstrap(
    scores: npt.ArrayLike,
    statistic: Callable[[FloatArray], float] = interquartile_mean,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of an aggregate over environments, resampling seeds within each environment.

    Args:
        scores: (S, E) one score per seed and environment.
        statistic: (S, E) -> float; the default is the interquartile mean.
        resamples: R.
        confidence: between 0 and 1.
        seed: seed of the resampling.

    Returns:
        The statistic of ``scores`` and its percentile interval; with one seed the interval is infinite.
    """
    _check_bootstrap(resamples, confidence)
    table = np.asarray(scores, dtype=np.float64)  # (S, E)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"scores must be (seeds, environments), found shape {table.shape}")
    if table.shape[0] == 1:
        return Interval(float(statistic(table)), float("-inf"), float("inf"), int(table.size))
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, table.shape[0], size=(resamples, *table.shape))  # (R, S, E)
    values = np.array([statistic(np.take_along_axis(table, pick, axis=0)) for pick in picks])  # (R,)
    low, high = _percentiles(values[:, None], confidence)
    return Interval(float(statistic(table)), float(low[0]), float(high[0]), int(table.size))


def seeds_and_users_bootstrap(
    differences: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of paired differences with an interval over seeds and, within each seed, over users.

    Args:
        differences: (S, n) a difference for each seed and user.
        groups: (n,) int, users with one number are drawn together; None draws each alone.
        resamples: R.
        confidence: between 0 and 1.
        seed: seed of the resampling.

    Returns:
        The mean and the percentile interval of resampled seeds, each with users of its own draw. With few
        seeds it is too narrow; with one it is over users alone. With a single user or group it is infinite.

    Raises:
        ValueError: if the differences are no table of finite numbers, or the groups are of other users.

    Example:
        >>> found = seeds_and_users_bootstrap([[0.1, 0.3, 0.2], [0.2, 0.4, 0.3]])
        >>> round(found.mean, 3), found.low > 0, found.count
        (0.25, True, 2)
    """
    _check_bootstrap(resamples, confidence)
    table = np.asarray(differences, dtype=np.float64)  # (S, n)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"differences must be finite numbers (seeds, users), found shape {table.shape}")
    together = _together(groups, table.shape[1])
    if _independent(table.T, together) < 2:
        return Interval(float(table.mean()), float("-inf"), float("inf"), len(table))
    each = [
        _bootstrap_means(row[:, None], resamples, seed + s, together)[:, 0] for s, row in enumerate(table)
    ]
    picks = np.random.default_rng(seed).integers(0, len(table), size=(resamples, len(table)))  # (R, S)
    means = np.take_along_axis(np.stack(each, axis=1), picks, axis=1).mean(axis=1)  # (R,)
    low, high = _percentiles(means[:, None], confidence)
    return Interval(float(table.mean()), float(low[0]), float(high[0]), len(table))


def _plain(found: PairedBootstrap | Interval) -> dict[str, Any]:
    """Return the fields; those that are not finite are None."""
    return {name: value if np.isfinite(value) else None for name, value in asdict(found).items()}


def _independent(values: FloatArray, together: npt.NDArray[np.int64] | None) -> int:
    """Return the number of users of ``values`` (n, M), or of their groups (n,) if there are any."""
    return len(values) if together is None else int(together.max()) + 1


def _together(groups: npt.ArrayLike | None, n: int) -> npt.NDArray[np.int64] | None:
    """Return the groups (n,) renumbered from 0; raise an error unless there is one number per user."""
    if groups is None:
        return None
    found = np.unique(np.asarray(groups), return_inverse=True)[1]  # (n,)
    if found.shape != (n,):
        raise ValueError(f"groups must hold one number per user, {n}, found shape {found.shape}")
    return np.asarray(found, np.int64)


def _bootstrap_means(
    values: FloatArray, resamples: int, seed: int, groups: npt.NDArray[np.int64] | None = None
) -> FloatArray:
    """Return the means (R, M) of ``values`` (n, M) over users drawn with replacement.

    With ``groups`` (n,), 0 to G - 1, whole groups are drawn, as many as there are.
    """
    rng = np.random.default_rng(seed)
    sizes = np.ones(len(values)) if groups is None else np.bincount(groups).astype(np.float64)  # (G,)
    if groups is not None:
        values = np.stack([np.bincount(groups, column) for column in values.T], axis=1)  # (G, M) sums
    n = values.shape[0]
    alone = bool((sizes == 1).all())
    block = max(1, _CHUNK // n)
    columns = np.ascontiguousarray(values.T)  # (M, n): a gather from one short column stays in cache
    means = np.empty((resamples, values.shape[1]))  # (R, M)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = rng.integers(0, n, size=(stop - start, n), dtype=np.int32)  # (r, n)
        count = n if alone else sizes[drawn].sum(axis=1)  # of users in each draw
        for m, column in enumerate(columns):
            means[start:stop, m] = column[drawn].sum(axis=1) / count
    return means


def _percentiles(samples: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Return the ends (M,) of the central interval of ``samples`` (R, M)."""
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1.0 - tail], axis=0)
    return low, high


def _users_values(name: str, values: npt.ArrayLike) -> FloatArray:
    """Return the values as an array (n,); raise an error unless they are finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must hold one number per user or seed, found shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    return array


def _check_bootstrap(resamples: int, confidence: float) -> None:
    """Raise an error for invalid settings of a bootstrap."""
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
