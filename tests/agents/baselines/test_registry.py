from __future__ import annotations

import pytest

from agents.baselines import Baseline, Scorer, baseline, names, names_for, register_baseline, registry
from agents.baselines.base import make_config
from refit_env.data import Dataset
from refit_env.errors import SettingError


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown baseline 'item-kn'\. Did you mean 'item-knn'\? Known: "):
        baseline("item-kn")
    with pytest.raises(ValueError, match=r"unknown task 'sequence'\. Did you mean 'sequential'\?"):
        names("sequence")


def test_a_wrong_setting_gets_the_nearest_and_a_wrong_value_its_bounds() -> None:
    kind = baseline("item-knn").config_class
    with pytest.raises(
        ValueError, match=r"unknown setting of baseline 'item-knn' 'neighbours'. Did you mean"
    ):
        make_config(kind, "item-knn", {"neighbours": 3})
    with pytest.raises(SettingError, match=r"shrink must be >= 0, found -1"):
        make_config(kind, "item-knn", {"shrink": -1})
    with pytest.raises(ValueError, match=r"unknown setting of baseline 'popularity' 'k': it has none"):
        make_config(baseline("popularity").config_class, "popularity", {"k": 3})


def test_every_class_has_the_name_that_it_is_registered_by() -> None:
    assert [baseline(name).name for name in names()] == names()


def test_a_task_lists_those_that_take_its_data(task_data: dict[str, Dataset]) -> None:
    for task, data in task_data.items():
        assert set(names_for(data)) <= set(names(task)), task
    assert "user-knn" in names("sequential") and "rp3beta" not in names("sequential")
    assert "rp3beta" in names_for(task_data["cf"]) and "rp3beta" not in names_for(task_data["sequential"])


def test_what_a_data_set_lacks_is_named(task_data: dict[str, Dataset]) -> None:
    with pytest.raises(ValueError, match=r"baseline 'rp3beta' needs users with sets of items; .* has none"):
        baseline("rp3beta")().fit(task_data["sequential"])


def test_ones_own_is_registered_once(monkeypatch: pytest.MonkeyPatch, small_data: Dataset) -> None:
    monkeypatch.setattr(registry, "_OWN", {})

    @register_baseline("newest")
    class Newest(Baseline):
        def fit_episodes(self, data, seed, device) -> Scorer:  # type: ignore[no-untyped-def]
            return Scorer(lambda users: users[:, None] + 0.0 * users[None, :])

    assert baseline("newest") is Newest and "newest" in names("cf") and "newest" in names_for(small_data)
    with pytest.raises(ValueError, match="baseline 'newest' is registered already"):
        register_baseline("newest")(Newest)
    with pytest.raises(ValueError, match="baseline 'ease' is registered already"):
        register_baseline("ease")(Newest)
