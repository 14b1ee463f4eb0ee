"""The loop that stops when validation does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.baselines import baseline, fit_baseline
from agents.baselines.learning import Learner, LearningConfig, train
from refit_env.data import Dataset, Interactions

CPU = torch.device("cpu")


class Steps(Learner):
    """Scores that get better for validation until epoch ``turn`` and worse afterwards."""

    def __init__(self, data: Dataset, turn: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(data.num_items))
        self.wanted = torch.as_tensor(np.bincount(data.valid.items, minlength=data.num_items)).float()
        self.turn, self.epoch = turn, 0
        self.seen: list[Tensor] = []

    @property
    def num_examples(self) -> int:
        return 5

    def begin(self, phase: str) -> None:
        self.epoch += 1

    def loss(self, ids: Tensor, phase: str) -> Tensor:
        self.seen.append(ids)
        sign = -1.0 if self.epoch <= self.turn else 1.0
        return sign * (self.weight * self.wanted).sum()

    def scores(self, users: Tensor) -> Tensor:
        noise = torch.linspace(0.0, 1.0, self.weight.numel())
        return (self.weight + 0.25 * noise).expand(users.numel(), -1)


def test_training_stops_and_keeps_the_best(small_data: Dataset) -> None:
    model = Steps(small_data, turn=3)
    config = LearningConfig(learning_rate=0.1, batch=2, epochs=50, eval_every=1, patience=3)
    best = train(model, small_data, config, CPU)
    assert 1 <= best <= 3 and model.epoch == best + 3
    untouched = Steps(small_data, turn=3)
    assert train(untouched, small_data, replace(config, epochs=best), CPU) == best
    assert torch.equal(model.weight, untouched.weight)


def test_weights_beyond_a_models_limits_are_not_kept(small_data: Dataset) -> None:
    class Limited(Steps):
        least = 0

        def within_limits(self) -> bool:
            return self.epoch >= self.least

    config = LearningConfig(learning_rate=0.1, batch=2, epochs=8, eval_every=1, patience=2)
    for least, best in ((5, 5), (9, 8)):  # the scores get worse from epoch 1 on; at 9 no weights are allowed
        model = Limited(small_data, turn=0)
        model.least = least
        assert train(model, small_data, config, CPU) == best


def test_a_model_that_is_not_better_than_popularity_goes_on(small_data: Dataset) -> None:
    class Late(Steps):
        """Learns nothing until an epoch."""

        def loss(self, ids: Tensor, phase: str) -> Tensor:
            return super().loss(ids, phase) if self.epoch > 20 else 0.0 * self.weight.sum()

    config = LearningConfig(learning_rate=0.1, batch=2, epochs=60, eval_every=1, patience=3)
    model = Late(small_data, turn=25)
    assert 20 < train(model, small_data, config, CPU) <= 25 and model.epoch < 60


def test_an_epoch_uses_each_example_once(small_data: Dataset) -> None:
    model = Steps(small_data, turn=9)
    train(model, small_data, LearningConfig(batch=2, epochs=1), CPU)
    assert [len(ids) for ids in model.seen] == [2, 2, 1]
    assert torch.cat(model.seen).sort().values.tolist() == list(range(5))


def test_without_validation_items_all_epochs_are_run(small_data: Dataset) -> None:
    none = Interactions.from_pairs([], [], small_data.num_users, small_data.num_items)
    model = Steps(small_data, turn=2)
    config = LearningConfig(batch=5, epochs=7, patience=1)
    assert train(model, replace(small_data, valid=none), config, CPU) == 7 and model.epoch == 7


@pytest.mark.parametrize("name", ["mf-bpr", "mult-dae", "sasrec"])
def test_a_second_fit_runs_the_epochs_that_validation_chose(
    name: str, small_data: Dataset, small_settings: dict[str, dict[str, Any]]
) -> None:
    settings = small_settings[name] | {"epochs": 6, "patience": 1}
    first, _ = fit_baseline(small_data, name, settings, seed=1)
    again, joined = fit_baseline(small_data, name, settings, seed=1, refit=True)
    assert not len(joined.valid) and again.chosen == first.chosen
    kind = baseline(name)
    by_hand = kind(kind.config_class(**settings | first.chosen)).fit(joined, 1)
    users = torch.arange(4)
    assert torch.equal(again(users), by_hand(users))


@pytest.mark.parametrize(
    "name",
    ["mf-bpr", "lightgcn", "ngcf", "sgl", "simplex", "xsimgcl", "mult-dae", "mult-vae", "recvae", "cfgan"],
)
def test_training_learns(name: str, small_data: Dataset, small_settings: dict[str, dict[str, Any]]) -> None:
    """The train items rank above the rest after training, more than before it."""

    def ranked(epochs: int) -> float:
        settings = small_settings[name] | {"epochs": epochs, "patience": 1000}
        none = Interactions.from_pairs([], [], small_data.num_users, small_data.num_items)
        scorer, _ = fit_baseline(replace(small_data, valid=none), name, settings)
        scores = scorer(torch.arange(small_data.num_users)).numpy()
        has = small_data.train.csr.toarray() > 0
        mine = np.where(has, scores, 0).sum(1) / has.sum(1)
        rest = np.where(has, 0, scores).sum(1) / (~has).sum(1)
        return float(((mine - rest) / scores.std(1)).mean())

    assert ranked(40) > max(ranked(1) + 0.2, 0.6)
