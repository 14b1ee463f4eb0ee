"""The search of settings: it climbs, tries nothing twice, and ends in time."""

from __future__ import annotations

from typing import Any

from agents.training.settings_search import SettingsSearch


def test_numbers_climb_and_names_are_all_tried() -> None:
    tried: list[dict[str, Any]] = []

    def value(settings: dict[str, Any]) -> float:
        tried.append(settings)
        return -abs(settings["l2"] - 40) + {"none": 0, "rising": 3, "reciprocal": 1}[settings["recency"]]

    search = SettingsSearch(value, {"rank": 7})
    search.run({"l2": (10, 20, 40, 80, 160), "recency": ("none", "rising", "reciprocal"), "rank": (1, 2)})
    assert search.chosen == {"rank": 7, "l2": 40, "recency": "rising"} and search.value == 3
    assert len({tuple(s.items()) for s in tried}) == len(tried)
    assert {s["l2"] for s in tried} == {10, 20, 40, 80}  # not beyond the neighbours of the best
    assert {s["recency"] for s in tried} == {"none", "rising", "reciprocal"}


def test_a_setting_without_effect_is_not_searched() -> None:
    tried: list[dict[str, Any]] = []

    def value(settings: dict[str, Any]) -> float:
        tried.append(settings)
        return {"none": 0.0, "rising": 1.0}[settings["recency"]] * (4 - settings["oldest"])

    search = SettingsSearch(value)
    search.run({"recency": ("none", "rising"), "oldest": (2, 1, 3)}, {"oldest": ("recency", "rising")})
    assert search.chosen == {"recency": "rising", "oldest": 1}
    assert [s["oldest"] for s in tried if s["recency"] == "none"] == [2]


def test_rounds_go_on_while_something_improves() -> None:
    values = {(0, 0): 0, (1, 0): 1, (1, 1): 2, (2, 1): 3, (2, 2): 4}
    search = SettingsSearch(lambda s: values.get((s["a"], s["b"]), -1))
    search.run({"a": (0, 1, 2), "b": (0, 1, 2)})
    assert search.chosen == {"a": 2, "b": 2}  # one round ends at a = 1, b = 1


def test_it_ends_when_time_is_over_but_tries_once() -> None:
    search = SettingsSearch(lambda settings: float(settings["l2"]), out_of_time=lambda: True)
    search.run({"l2": (1, 2, 3)})
    assert search.chosen == {"l2": 1} and search.value == 1.0


def test_a_gain_within_its_standard_error_chooses_nothing() -> None:
    compared = []

    def error(settings: dict[str, Any], chosen: dict[str, Any]) -> float:
        compared.append((settings["l2"], chosen["l2"]))
        return 1.5

    search = SettingsSearch(lambda s: float(s["l2"]), error_of=error)
    search.run({"l2": (1, 2, 4)})
    assert search.chosen == {"l2": 1} and compared == [(2, 1)]  # its neighbour gains 1
    search = SettingsSearch(lambda s: float(s["l2"]), error_of=error)
    search.run({"l2": (2, 4)})
    assert search.chosen == {"l2": 4}


def test_a_condition_may_say_when_a_setting_has_an_effect() -> None:
    tried: list[dict[str, Any]] = []
    search = SettingsSearch(lambda s: tried.append(s) or -abs(s["share"]))
    search.run({"share": (0.0, 0.5), "shrink": (1, 2)}, {"shrink": ("share", bool)})
    assert [s["shrink"] for s in tried if not s["share"]] == [1]


def test_what_is_known_needs_no_time() -> None:
    values = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    search = SettingsSearch(
        lambda settings: values[settings["l2"]],
        out_of_time=lambda: True,
        known=lambda settings: settings["l2"] < 4,
    )
    search.run({"l2": (1, 2, 3, 4)})
    assert search.chosen == {"l2": 3}
