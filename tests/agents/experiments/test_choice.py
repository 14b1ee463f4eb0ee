"""The choice of a search: less work is preferred only among the good."""

from __future__ import annotations

from typing import Any

from agents.experiments.choice import choices, in_words


def entry(variant: str, gain: float | None, work: float | None, model: str = "start") -> dict[str, Any]:
    gains = {"gain": {"ndcg@20": None if gain is None else {"mean": gain}}}
    return {"env": "E", "model": model, "variant": variant, "work": work} | gains


def test_less_work_is_preferred_only_among_the_good() -> None:
    trials = [
        entry("long", 0.20, 90.0),
        entry("short", 0.185, 30.0),  # above nine tenths of the best
        entry("weak", 0.17, 1.0),
        entry("unknown", 0.2, None),  # work that was not counted is the most
    ]
    assert choices(trials) == [
        {"env": "E", "model": "start", "variant": "short", "gain": 0.185, "work": 30.0}
    ]
    assert choices(trials, keep=1.0)[0]["variant"] == "long"
    assert choices([entry("unknown", 0.2, None)])[0]["work"] is None


def test_each_model_has_its_own_choice_or_none() -> None:
    trials = [
        entry("a", 0.1, 2.0),
        entry("b", 0.0, 1.0, "other"),
        {"env": "E", "model": "third", "work": 1.0},
    ]
    made = choices([*trials, entry("c", None, 1.0, "zero")])
    assert [(c["model"], c["variant"]) for c in made] == [("start", "a"), ("other", None)]
    assert in_words(made).endswith("a (start, E); none gained (other, E).") and in_words([]) == ""
