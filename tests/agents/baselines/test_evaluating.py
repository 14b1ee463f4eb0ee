from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from agents.baselines import Baseline, baseline, evaluate_baseline
from refit_env.data import Dataset


def test_no_list_contains_seen_items(few: Dataset) -> None:
    for split, seen in (("valid", few.train.csr), ("test", few.train.csr + few.valid.csr)):
        result, _ = evaluate_baseline(few, "popularity", split=split)
        for user, items in zip(result.users, result.lists, strict=True):
            listed = items[items >= 0]
            assert not set(listed) & set(seen[user].indices)
            assert len(listed) == 6 - seen[user].nnz


def test_a_report_says_what_was_fitted_and_what_it_reached() -> None:
    result, report = evaluate_baseline("ReFiT-Synthetic-v0", "item-knn", {"neighbors": 20}, seed=2)
    assert json.loads(json.dumps(report)) == report
    assert report["env"] == "ReFiT-Synthetic-v0" and report["seed"] == 2 and report["split"] == "test"
    assert report["settings"] == {"neighbors": 20, "shrink": 10.0, "balance": 0.5}
    assert report["metrics"] == {name: float(value) for name, value in result.means().items()}
    assert report["users"] == len(result.users) and report["cost"]["fit"]["seconds"] >= 0


def test_a_second_fit_uses_the_validation_items(few: Dataset) -> None:
    def popularity(refit: bool) -> Any:
        return evaluate_baseline(few, "popularity", refit=refit)[0]

    joined = few.train.csr + few.valid.csr
    counts = np.asarray(joined.sum(0)).ravel()
    lists = popularity(True).lists
    for user, items in zip(popularity(True).users, lists, strict=True):
        free = np.setdiff1d(np.arange(6), joined[user].indices)
        assert items[items >= 0].tolist() == sorted(free, key=lambda item: (-counts[item], item))
    assert not np.array_equal(lists, popularity(False).lists)
    with pytest.raises(ValueError, match="measure it on 'test', not on 'valid'"):
        evaluate_baseline(few, "popularity", split="valid", refit=True)


def test_an_environment_without_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ReFiT-Custom-v0 has no fixed data set: pass your data set"):
        evaluate_baseline("ReFiT-Custom-v0", "ease")


def test_rows_are_ranked_as_their_policies_are(task_data: dict[str, Dataset]) -> None:
    data = task_data["sequential"]
    result, report = evaluate_baseline(data, "item-knn")
    assert result.users.tolist() == data.episodes.rows_of("test").tolist()
    assert report["users"] == len(result.users) and (result.lists >= 0).all()  # nothing is masked


def test_a_second_fit_is_made_only_of_what_validation_chooses(
    few: Dataset, small_settings: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fits in (("ease", 1), ("mf-bpr", 2)):
        kind, seen = baseline(name), []
        whole = kind.fit_episodes

        def note(self: Baseline, data: Dataset, *rest: Any, whole: Any = whole, seen: Any = seen) -> Any:
            seen.append(len(data.train))
            return whole(self, data, *rest)

        monkeypatch.setattr(kind, "fit_episodes", note)
        evaluate_baseline(few, name, small_settings[name], refit=True)
        assert len(seen) == fits and seen[-1] == len(few.train) + len(few.valid)
