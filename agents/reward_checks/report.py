"""All measurements of one reward, and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from agents.reward_checks.episodes import Episodes
from agents.reward_checks.properties import (
    Check,
    check_properties,
    seconds_per_thousand,
    spread,
)
from agents.reward_checks.relations import correlation_in_words, distances, known_rewards, with_held_out
from refit_env.evaluation.intervals import is_known, side_of_zero
from refit_env.rewards import reward_class, reward_names
from refit_env.rewards.base import ListReward

NEAR, ALIKE = 0.3, 0.1
"""Distances below which two rewards are near, or nearly the same."""
FLAT = 0.9
"""Share of users without variance above which there is almost nothing to learn from."""
SLOW = 1.0
"""Seconds for 1,000 episodes above which the reward is called slow."""


def check_reward(episodes: Episodes, name: str, against: Sequence[str] = ()) -> dict[str, Any]:
    """Measure the reward of a problem.

    Args:
        episodes: of the problem.
        name: what the report calls the reward.
        against: rewards to compare with; those that need no model if empty.

    Returns:
        JSON-plain: ``checks``, ``spread``, ``held_out``, ``distances``, ``seconds_per_1000``,
        ``list_reward``, ``passed`` and ``verdict``.
    """
    problem, reward = episodes.problem, episodes.problem.reward_fn
    checks = check_properties(reward, episodes)
    value = reward(episodes.scores, episodes.users).value
    itself = (
        {other for other in reward_names() if reward_class(other) is type(reward)} if ":" in name else {name}
    )
    wanted = list(against) or [other for other in known_rewards(episodes) if other not in itself]
    report: dict[str, Any] = {
        "reward": name,
        "terms": list(reward.term_names),
        "dataset": problem.dataset.name,
        "relevance": problem.relevance.mode,
        "k": reward.k,
        "users": episodes.count,
        "unit": problem.dataset.unit,
        "episodes": int(episodes.users.numel()),
        "list_reward": all(isinstance(part, ListReward) for part, _ in reward.parts()),
        "checks": [asdict(check) for check in checks],
        "passed": all(check.passed for check in checks),
        "seconds_per_1000": seconds_per_thousand(reward, episodes),
        "spread": spread(value, episodes),
        "held_out": with_held_out(value, episodes),
        "distances": distances(value, episodes, wanted) if checks[0].passed else {},
    }
    report["verdict"] = verdict(report, checks)
    return report


def verdict(report: Mapping[str, Any], checks: Sequence[Check]) -> list[str]:
    """Return what the measurements mean, in sentences."""
    failed = [check for check in checks if not check.passed]
    if failed:
        return [f"Not ready: it is not {check.name} ({check.found})." for check in failed]
    out, values = [], report["spread"]
    if report["list_reward"]:
        out.append("Ready: a sum over the list, which every estimator can use, 'pathwise' included.")
    else:
        out.append("Ready: no sum over the list, so estimator 'score' (more noise) or credit 'episode'.")
    flat = values["zero_variance_share"]
    if values["within_user_std"] == 0:
        where = "for any list that was tried" if values["std"] == 0 else f"within a {report['unit'][:-1]}"
        out.append(f"It never differs {where}: nothing can be learnt from it at this exploration.")
    elif flat > FLAT:
        out.append(
            f"For {flat:.0%} of {report['unit']} all episodes are rewarded alike: raise the exploration."
        )
    if values["within_user_std"] > 0:
        out.append(_prefers(report["held_out"], report["unit"]))
    near = [(name, gap) for name, gap in report["distances"].items() if gap is not None and gap < NEAR]
    if report["users"] < 2:
        out.append(f"With one of the {report['unit']} no likeness to a known reward is certain.")
    elif near:
        name, gap = near[0]
        how = "It prefers nearly the same lists as" if gap < ALIKE else "The nearest known reward is"
        out.append(f"{how} {name!r} (distance {gap:.2f}).")
    elif values["within_user_std"] > 0 and report["distances"]:
        out.append("No known reward is near: what it prefers is its own.")
    if report["seconds_per_1000"] > SLOW:
        out.append(f"It is slow: {report['seconds_per_1000']:.1f} s for 1,000 episodes.")
    return out


def _prefers(found: Mapping[str, float | None] | None, unit: str) -> str:
    """A sentence on the correlation with held-out NDCG."""
    if found is None:
        return (
            "Its relation to held-out items was not measured: it reads them, or no episode has any (those of "
            "sessions belong to other sessions)."
        )
    low, high = found["low"], found["high"]
    level = f"within {unit}, correlation {correlation_in_words(found, 2)}"
    if not is_known(low, high):
        return f"Its relation to held-out NDCG is not certain: no interval, of one user or session ({level})."
    if side_of_zero(low, high) > 0:
        return f"It prefers lists with a higher held-out NDCG ({level})."
    if side_of_zero(low, high) < 0:
        return f"It prefers lists with a lower held-out NDCG ({level}): alone it will make the lists worse."
    return f"No relation to held-out NDCG was seen ({level})."
