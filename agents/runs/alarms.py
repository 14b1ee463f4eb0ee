"""Alarms: rules over a fine-tuning run's log that notice over-optimisation of its reward.

Every rule is a pure function of the log's rows, so that it can be applied to any run, finished or not, and
its hit rate can be measured (``python -m benchmarks.alarms``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KL, SPEED = "policy/kl_to_pretrained", "policy/kl_speed"
REWARD, POPULARITY = "monitor/reward", "monitor/popularity"
"""Names of the monitors' scalars (``agents.training.monitors``)."""
FALL = 0.02
"""Fall of the validation metric below its best, as a share of the best, that counts."""
NARROWER, MORE_POPULAR = 0.2, 0.2
"""Relative fall of coverage and relative rise of popularity that count as drift."""
DIVERGED, DRIFTED = "reward and validation diverge", "lists drift to popular items"
"""Kinds of alarms."""

KINDS = (DIVERGED, DRIFTED)
"""All kinds."""

Rows = Sequence[Mapping[str, float]]
"""Rows of a log (``agents.runs.log.read_log``)."""


@dataclass(frozen=True)
class Alarm:
    """A rule that fired."""

    kind: str
    """Name of the rule."""
    iteration: int
    """The validation at which it fired first."""
    text: str
    """What it saw, in a sentence."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def alarms(rows: Rows, metric: str | None = None) -> list[Alarm]:
    """Return the alarms of a log, earliest first, at most one of each kind.

    Args:
        rows: of ``log.csv`` up to some iteration.
        metric: the validation metric; None uses NDCG of the longest list.

    Example:
        >>> start = {"iteration": 0, "monitor/reward": 0.1, "monitor/popularity": 0.2, "valid/ndcg@20": 0.30}
        >>> later = {"iteration": 10, "monitor/reward": 0.2, "monitor/popularity": 0.3, "valid/ndcg@20": 0.25}
        >>> [alarm.kind for alarm in alarms([start, later])]
        ['reward and validation diverge', 'lists drift to popular items']
    """
    points = [row for row in rows if REWARD in row]
    name = _metric(points) if metric is None else metric
    if name is None or len(points) < 2:
        return []
    found = (_diverged(points, name), _drifted(points))
    return sorted((alarm for alarm in found if alarm is not None), key=lambda alarm: alarm.iteration)


def _metric(points: Rows) -> str | None:
    """NDCG of the longest list that was logged."""
    known = {name for row in points for name in row if name.startswith("valid/ndcg@")}
    return max(known, key=lambda name: int(name.rpartition("@")[2]), default=None)


def _diverged(points: Rows, metric: str) -> Alarm | None:
    """The reward is above its value at validation's best, while validation is clearly below its best."""
    best = points[0]
    for row in points[1:]:
        if metric not in row:
            continue
        if row[metric] > best[metric]:
            best = row
        elif row[metric] < (1 - FALL) * best[metric] and row[REWARD] > best[REWARD]:
            text = (
                f"The reward rose from {best[REWARD]:.4g} to {row[REWARD]:.4g} since iteration "
                f"{best['iteration']:.0f}, and {metric.replace('/', ' ')} fell from {best[metric]:.4f} to "
                f"{row[metric]:.4f}."
            )
            return Alarm(DIVERGED, int(row["iteration"]), text)
    return None


def _drifted(points: Rows) -> Alarm | None:
    """Recommended items are clearly more popular than at the start, while the reward rises."""
    start = points[0]
    for row in points[1:]:
        if row[POPULARITY] > (1 + MORE_POPULAR) * start[POPULARITY] and row[REWARD] > start[REWARD]:
            text = (
                f"The mean recommended item is known to {row[POPULARITY]:.1%} of the users, "
                f"{start[POPULARITY]:.1%} at the start."
            )
            return Alarm(DRIFTED, int(row["iteration"]), text)
    return None
