"""The columns of tables, by the name that a study's file has for them, and numbers as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refit_env.evaluation.intervals import ends_in_words
from refit_env.evaluation.ranking import metric_title
from refit_env.evaluation.slices import COLD, POPULAR, TAIL

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
"""What records hold and tables show."""
Entry = Mapping[str, Any]
"""What ``agents.experiments.summary.summarise`` returns of one row."""
ON_GPU = " G"
"""What marks seconds and memory that were measured on a GPU."""


@dataclass(frozen=True)
class Column:
    """A column of a table of rows."""

    heading: str
    """Above it."""
    cell: Callable[[Entry, str], str]
    """Entry and the split that was measured -> its text; empty where nothing is known."""


def _metric(name: str) -> Column:
    return Column(metric_title(name), lambda found, split: plus_minus(found[split][name]))


def _gain(name: str) -> Column:
    return Column(
        f"{metric_title(name)} gain, %", lambda found, split: percent(found.get("gain", {}).get(name))
    )


def _difference(name: str) -> Column:
    return Column(
        f"{metric_title(name)} gain", lambda found, split: signed(found.get("difference", {}).get(name))
    )


def _slice_level(name: str) -> Column:
    def cell(found: Entry, split: str) -> str:
        level = (found["slices"].get(name) or {}).get("recall@20")
        return "" if level is None else plus_minus(level)

    return Column(f"{name}: Recall@20", cell)


def _sure(found: Entry, split: str) -> str:
    return f"{found['users_sure']}/{len(found['seeds'])}" if "users_sure" in found else ""


def _over_users(found: Entry, split: str) -> str:
    over = found.get("over_users") or []
    return ends_in_words(over[0]["low"], over[0]["high"]) if over else ""


def _cold_users(found: Entry, split: str) -> str:
    part = found["slices"].get(COLD)
    return f"{part['users']:.0f}" if part else ""


def _cold_gain(found: Entry, split: str) -> str:
    return percent((found.get("slice_gain", {}).get(COLD) or {}).get("recall@20"))


def _to_95(found: Entry, split: str) -> str:
    known = [steps for steps in found.get("to_95") or [] if steps is not None]
    return f"{sum(known) / len(known):,.0f}" if known and "gain" in found else ""


def _variance(found: Entry, split: str) -> str:
    values = found.get("reward_spread") or {}
    return f"{values['within_user_std']:.4f}, {values['within_share']:.0%} of all" if values else ""


COLUMNS: dict[str, Column] = {
    **{name: _metric(name) for name in METRICS},
    **{f"{name} gain": _gain(name) for name in METRICS},
    **{f"{name} difference": _difference(name) for name in METRICS},
    **{name: _slice_level(name) for name in (COLD, POPULAR, TAIL)},
    "seeds": Column("seeds", lambda found, split: str(len(found["seeds"]))),
    "users sure": Column("users sure", _sure),
    "over users": Column("paired 95 %, first seed", _over_users),
    f"{COLD} users": Column(f"{COLD} users", _cold_users),
    f"{COLD} gain": Column(f"{COLD}: Recall@20 gain, %", _cold_gain),
    "to 95 %": Column("steps to 95 %", _to_95),
    "variance": Column("std within a user", _variance),
    "steps": Column("steps", lambda found, split: f"{found['env_steps']:,.0f}" if found["env_steps"] else ""),
    "best at": Column("best at", lambda found, split: ", ".join(f"{n or 0:.0f}" for n in found["best_at"])),
    "work": Column(
        "1000 rows", lambda found, split: "-" if found["work"] is None else f"{found['work'] / 1000:.0f}"
    ),
    "seconds": Column("seconds", lambda found, split: f"{found['seconds']:.0f}" + _mark(found)),
    "fit seconds": Column("seconds", lambda found, split: _brief(found["seconds"]) + _mark(found)),
    "peak MiB": Column("peak MiB", lambda found, split: f"{found['peak_memory_mib']:.0f}" + _mark(found)),
}
"""Name of a column in a study's file -> the column."""


def counted(number: int, name: str) -> str:
    """A number and what it counts.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {name}" + ("" if number == 1 else "s")


def plus_minus(interval: Mapping[str, Any]) -> str:
    """A mean and half its interval; one seed has none.

    Example:
        >>> plus_minus({"mean": 0.25, "low": 0.24, "high": 0.26}), plus_minus({"mean": 0.25, "low": None})
        ('0.2500 ± 0.0100', '0.2500 ± -')
    """
    if interval["low"] is None:
        return f"{interval['mean']:.4f} ± -"
    return f"{interval['mean']:.4f} ± {(interval['high'] - interval['low']) / 2:.4f}"


def signed(interval: Mapping[str, Any] | None) -> str:
    """A difference with its sign and half its interval, starred where that excludes zero.

    Example:
        >>> signed({"mean": -0.01, "low": -0.02, "high": 0.0, "excludes_zero": False})
        '-0.0100 ± 0.0100'
    """
    if interval is None:
        return ""
    if interval["low"] is None:
        return f"{interval['mean']:+.4f} ± -"
    half = (interval["high"] - interval["low"]) / 2
    return f"{interval['mean']:+.4f} ± {half:.4f}" + (" *" if interval["excludes_zero"] else "")


def percent(interval: Mapping[str, Any] | None) -> str:
    """A relative gain in per cent, half its interval, and a star where that excludes zero.

    Example:
        >>> percent({"mean": 0.1, "low": 0.05, "high": 0.15, "excludes_zero": True})
        '+10.0 ± 5.0 *'
    """
    if interval is None:
        return ""
    known = interval["low"] is not None
    half = f"{50 * (interval['high'] - interval['low']):.1f}" if known else "-"
    text = f"{100 * interval['mean']:+.1f} ± {half}"
    return text + (" *" if interval["excludes_zero"] else "")


def percent_interval(interval: Mapping[str, Any]) -> str:
    """A relative gain in per cent and its interval.

    Example:
        >>> percent_interval({"mean": 0.025, "low": 0.01, "high": 0.04})
        '+2.50 [+1.00, +4.00]'
    """
    if interval["low"] is None:
        return f"{100 * interval['mean']:+.2f} [-]"
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{100 * interval['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def chance_interval(interval: Mapping[str, Any] | None) -> str:
    """A probability and its interval."""
    if interval is None:
        return ""
    if interval["low"] is None:
        return f"{interval['mean']:.2f} [-]"
    return f"{interval['mean']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def _brief(seconds: float) -> str:
    """Seconds, with a decimal where they are few."""
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:,.0f}"


def _mark(found: Entry) -> str:
    """The mark after figures that were measured on a GPU."""
    return "" if found["device"] == "cpu" else ON_GPU
