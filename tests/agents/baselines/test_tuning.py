from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="tuning needs the extra `tune`")
msgspec = pytest.importorskip("msgspec")

from agents.baselines import baseline, evaluate_baseline, names, tuning  # noqa: E402
from agents.baselines.base import make_config  # noqa: E402
from agents.baselines.tuning import SPACES, Trial, TuningConfig, TuningRecord, tune_baseline  # noqa: E402
from refit_env.data import Dataset  # noqa: E402
from refit_env.errors import DataError, SettingError  # noqa: E402

QUICK = TuningConfig(trials=9, seed=3)


def spaces() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = msgspec.yaml.decode(SPACES.read_bytes())
    return found


def test_every_baseline_has_a_space_within_the_bounds_of_its_settings() -> None:
    assert sorted(spaces()) == names()
    for name, space in spaces().items():
        kind = baseline(name).config_class
        for field, values in msgspec.convert(space, tuning.Space).items():
            for value in values if isinstance(values, list) else values.between:
                made = make_config(kind, name, {field: value})
                assert getattr(made, field) == value


def test_the_best_trial_is_what_validation_says(small_data: Dataset, tmp_path: Path) -> None:
    seen: list[Trial] = []
    record = tune_baseline(small_data, "item-knn", tmp_path / "a.json", QUICK, callback=seen.append)
    assert len(record.trials) == 9 and seen == record.trials
    assert record.trials[0].settings == {}  # the defaults come first
    assert len({json.dumps(trial.settings) for trial in record.trials}) > 5
    values = [trial.value for trial in record.trials]
    assert record.best.value == max(values)  # type: ignore[type-var]
    _, report = evaluate_baseline(small_data, "item-knn", record.best.settings, 3, "valid")
    assert report["metrics"]["ndcg@20"] == record.best.value
    for trial in record.trials[1:]:
        assert 10 <= trial.settings["neighbors"] <= 1000 and isinstance(trial.settings["neighbors"], int)


def test_a_search_goes_on_where_it_stopped(small_data: Dataset, tmp_path: Path) -> None:
    whole = tune_baseline(small_data, "rp3beta", tmp_path / "whole.json", QUICK)

    def stop(trial: Trial) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            tune_baseline(small_data, "rp3beta", tmp_path / "parts.json", QUICK, callback=stop)
    parts = tune_baseline(small_data, "rp3beta", tmp_path / "parts.json", QUICK)
    assert [(t.settings, t.value) for t in parts.trials] == [(t.settings, t.value) for t in whole.trials]
    again = tune_baseline(small_data, "rp3beta", tmp_path / "parts.json", QUICK, callback=stop)  # no trial
    assert again == parts


def test_no_trial_is_begun_when_the_minutes_are_up(small_data: Dataset, tmp_path: Path) -> None:
    brief = TuningConfig(trials=9, minutes=1e-9)
    assert len(tune_baseline(small_data, "ease", tmp_path / "a.json", brief).trials) == 1


def test_without_a_space_the_defaults_are_the_one_trial(small_data: Dataset, tmp_path: Path) -> None:
    record = tune_baseline(small_data, "popularity", tmp_path / "a.json", QUICK)
    assert [trial.settings for trial in record.trials] == [{}]


def test_what_validation_chose_within_a_fit_is_kept(small_data: Dataset, tmp_path: Path) -> None:
    space: dict[str, Any] = {"learning_rate": [0.01, 0.02], "epochs": [2], "batch": [64], "embedding": [4]}
    space["eval_every"] = [1]
    record = tune_baseline(small_data, "mf-bpr", tmp_path / "a.json", TuningConfig(trials=2), space=space)
    assert record.trials[1].chosen["epochs"] in (1, 2)


def test_a_refused_fit_is_a_trial_without_a_value(small_data: Dataset, tmp_path: Path) -> None:
    space = {"l2": [1e-30, 5.0]}
    record = tune_baseline(small_data, "ease", tmp_path / "a.json", TuningConfig(trials=6), space=space)
    refused = [trial for trial in record.trials if trial.value is None]
    assert refused and all("too small" in trial.error for trial in refused)
    assert record.best.value is not None
    only = tune_baseline(small_data, "slim", tmp_path / "b.json", TuningConfig(trials=1))
    only.trials = [Trial({}, None, 0.0, error="too large")]
    with pytest.raises(ValueError, match="no trial of baseline 'slim' could be fitted: too large"):
        _ = only.best


def test_the_file_of_another_search_is_left_alone(
    small_data: Dataset, task_data: dict[str, Dataset], tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    tune_baseline(small_data, "popularity", path, QUICK)
    before = path.read_bytes()
    for data, name, config, word in (
        (task_data["cf"], "popularity", QUICK, "on other data, 'synthetic'"),
        (small_data, "ease", QUICK, "with another baseline"),
        (small_data, "popularity", TuningConfig(seed=4), "with another seed"),
    ):
        with pytest.raises(DataError, match=rf"a.json holds a search {word}"):
            tune_baseline(data, name, path, config)
    path.write_bytes(before[:-9])
    with pytest.raises(DataError, match=r"a\.json"):
        tune_baseline(small_data, "popularity", path, QUICK)
    assert path.read_bytes() == before[:-9]


def test_mistakes_are_named_before_a_trial(small_data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="Did you mean 'shrink'"):
        tune_baseline(small_data, "item-knn", path, QUICK, space={"shrnk": [1.0]})
    with pytest.raises(SettingError, match="shrink must be >= 0"):
        tune_baseline(small_data, "item-knn", path, TuningConfig(trials=3), space={"shrink": [-1.0]})
    with pytest.raises(ValueError, match="baseline 'sasrec' needs rows"):
        tune_baseline(replace(small_data, time_ordered=False), "sasrec", path)
    with pytest.raises(SettingError, match="select must name metrics among"):
        tune_baseline(small_data, "ease", path, TuningConfig(select="ndgc@20"))


def test_a_record_is_plain_json(small_data: Dataset, tmp_path: Path) -> None:
    record = tune_baseline(small_data, "ease", tmp_path / "a.json", TuningConfig(trials=2))
    read = json.loads((tmp_path / "a.json").read_text())
    assert msgspec.convert(read, TuningRecord) == record
    assert read["space"] == {"l2": {"between": [1.0, 5000.0], "log": True}}
    assert read["fingerprint"] == small_data.fingerprint and read["metric"] == "ndcg@20"


def test_fixed_settings_are_those_of_all_trials(small_data: Dataset, tmp_path: Path) -> None:
    path, config = tmp_path / "knn.json", TuningConfig(trials=4)
    record = tune_baseline(small_data, "item-knn", path, config, fixed={"shrink": 7.0})
    assert record.trials[0].settings == {"shrink": 7.0} and "shrink" not in record.space
    assert all(trial.settings["shrink"] == 7.0 for trial in record.trials)
    assert len({str(trial.settings) for trial in record.trials}) == 4
    assert tune_baseline(small_data, "item-knn", path, config, fixed={"shrink": 7.0}) == record
    with pytest.raises(DataError, match="another fixed"):
        tune_baseline(small_data, "item-knn", path, config, fixed={"shrink": 8.0})
    with pytest.raises(DataError, match="another fixed"):
        tune_baseline(small_data, "item-knn", path, config)
