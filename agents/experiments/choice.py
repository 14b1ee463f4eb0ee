"""What a search chooses: for each model, the variant of least work among those with most of the best gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEEP = 0.9
"""Share of the best gain for which a variant of less work is preferred."""


def choices(entries: Sequence[Mapping[str, Any]], keep: float = KEEP) -> list[dict[str, Any]]:
    """The choice for each model of each environment that has variants with a gain over their start.

    Args:
        entries: of ``agents.experiments.summary.summarise``.
        keep: share of the best gain in NDCG@20 that is most of it.

    Returns:
        ``env``, ``model``, ``variant`` (None where no variant gained anything), ``gain`` and ``work``.

    Example:
        >>> def entry(variant, gain, work):
        ...     gains = {"ndcg@20": {"mean": gain}}
        ...     return {"env": "E", "model": "m", "variant": variant, "work": work, "gain": gains}
        >>> choices([entry("long", 0.2, 90), entry("short", 0.19, 30), entry("weak", 0.1, 5)])[0]["variant"]
        'short'
    """
    groups: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for entry in entries:
        gain = entry.get("gain", {}).get("ndcg@20")
        if gain is not None:
            work = float("inf") if entry["work"] is None else float(entry["work"])
            groups.setdefault((entry["env"], entry["model"]), []).append(
                (work, gain["mean"], entry["variant"])
            )
    return [{"env": env, "model": model} | _choice(found, keep) for (env, model), found in groups.items()]


def _choice(found: Sequence[tuple[float, float, str]], keep: float) -> dict[str, Any]:
    """The choice among (work, gain, variant)."""
    best = max(gain for _, gain, _ in found)
    if best <= 0:
        return {"variant": None, "gain": 0.0, "work": None}
    work, gain, variant = min(trial for trial in found if trial[1] >= keep * best)
    return {"variant": variant, "gain": gain, "work": work if work < float("inf") else None}


def in_words(made: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the choices; empty without any.

    Example:
        >>> made = [{"env": "E", "model": "m", "variant": "a"}, {"env": "E", "model": "n", "variant": None}]
        >>> in_words(made)
        'Chosen, of least work among those with 90 % of the best gain: a (m, E); none gained (n, E).'
    """
    if not made:
        return ""
    parts = [f"{c['variant'] or 'none gained'} ({c['model']}, {c['env']})" for c in made]
    return f"Chosen, of least work among those with {100 * KEEP:.0f} % of the best gain: {'; '.join(parts)}."
