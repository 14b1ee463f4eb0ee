"""Tests of the stacked denoiser: its start, its two fits, its context, its training, its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import refit_env  # noqa: F401  # registers the ids
from agents.training.examples import next_item_examples
from agents.training.pretrain_config import PretrainConfig
from refit_env.backbones import Backbone, backbone_for
from refit_env.backbones.held_rows import held_rows, without_rows
from refit_env.backbones.linear import LinearDenoiser
from refit_env.backbones.stacked import StackedDenoiser
from refit_env.data import (
    Dataset,
    Interactions,
    RowDataset,
    synthesize,
    synthesize_checkins,
    synthesize_sessions,
)
from refit_env.data.interactions import SPLITS
from refit_env.envs.problem import ProblemConfig, make_problem
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.relevance import make_relevance

SETS = {
    "sequential": synthesize_sessions(num_sessions=60, num_items=24),
    "poi": synthesize_checkins(num_users=15, num_items=24, checkins=20),
}
BASE: dict[str, Any] = {
    "l2": 5.0,
    "num_steps": 4,
    "recency": "reciprocal",
    "repeats": "sum",
    "repeat": 0.3,
    "neighborhood": 0.3,
    "pairs": "sets",
}
OPTIONS = BASE | {"hidden": 8, "popularity": True}
both = pytest.mark.parametrize("task", SETS)


def rows_of(data: Dataset) -> RowDataset:
    rows = data.episodes
    assert isinstance(rows, RowDataset)
    return rows


def stacked_of(data: Dataset, **options: Any) -> StackedDenoiser:
    backbone = backbone_for(data, "stacked", OPTIONS | options, seed=0)
    assert isinstance(backbone, StackedDenoiser)
    return backbone


def trained(data: Dataset, **options: Any) -> StackedDenoiser:
    """As if training had changed the network."""
    stacked = stacked_of(data, **options).eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(stacked.output.weight)
    return stacked


def closed_of(data: Dataset) -> LinearDenoiser:
    closed = backbone_for(data, "linear", BASE)
    assert isinstance(closed, LinearDenoiser)
    closed.fit(data)
    return closed


def halves(rows: RowDataset) -> tuple[Tensor, Tensor]:
    """Rows that are held apart, and other ones of all splits."""
    held = held_rows(rows, 0.25)
    return torch.as_tensor(np.flatnonzero(held)), torch.as_tensor(np.flatnonzero(~held))


def scores_of(backbone: Backbone, data: Dataset, users: Tensor, steps: int = 1) -> Tensor:
    return DiffusionPolicy(backbone, steps).eval().scorer(data)(users)


# ---------------------------------------------------------------------- the start


@both
def test_untrained_it_has_the_lists_of_the_closed_form(task: str) -> None:
    data = SETS[task]
    stacked, closed = stacked_of(data), closed_of(data)
    u = torch.rand(6, data.num_items, generator=torch.Generator().manual_seed(0))
    for step in (0, 3, torch.tensor([0, 1, 2, 3, 1, 0])):
        same_order(stacked.predict_x0(u, step), closed.predict_x0(u, step))
    _, others = halves(rows_of(data))
    same_order(scores_of(stacked, data, others), scores_of(closed, data, others))


def same_order(ours: Tensor, theirs: Tensor) -> None:
    """The order of ``theirs`` (B, I) sorts ``ours``, up to rounding."""
    sorted_ = ours.gather(1, theirs.argsort(dim=1, descending=True))
    assert (sorted_.diff(dim=1) <= 1e-6).all() and (sorted_[:, 0] > sorted_[:, -1] + 0.1).all()


# ---------------------------------------------------------------------- the two fits


@both
def test_rows_held_apart_have_the_fit_without_them_and_others_the_whole_fit(task: str) -> None:
    data = SETS[task]
    rows, stacked = rows_of(data), stacked_of(data)
    whole, part = closed_of(data), closed_of(without_rows(rows, held_rows(rows, 0.25)))
    assert torch.equal(stacked.base.weight, whole.weight)
    assert torch.equal(stacked.apart.weight, part.weight) and not torch.equal(whole.weight, part.weight)
    for users, closed in zip(halves(rows), (part, whole), strict=True):
        same_order(scores_of(stacked, data, users), scores_of(closed, data, users))


@both
def test_a_mixed_batch_equals_its_parts(task: str) -> None:
    data = SETS[task]
    stacked, users = trained(data), torch.cat([half[:9] for half in halves(rows_of(data))])
    mixed = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))]
    expected = torch.cat([scores_of(stacked, data, user[None], 2) for user in mixed])
    torch.testing.assert_close(scores_of(stacked, data, mixed, 2), expected, rtol=1e-4, atol=1e-5)
    shown = stacked.shown(data, "cpu")(mixed)
    u, condition = stacked.initial_state(mixed, shown), stacked.encode(stacked.context(mixed, shown))
    steps = torch.arange(len(mixed)) % 4
    together = stacked.predict_x0(u, steps, condition)
    for place, step in enumerate(steps.tolist()):
        one = stacked.encode(condition.value[place : place + 1])
        alone = stacked.predict_x0(u[place : place + 1], step, one)
        torch.testing.assert_close(together[place : place + 1], alone, rtol=1e-4, atol=1e-5)


@both
def test_hidden_items_are_in_no_weight(task: str) -> None:
    data = SETS[task]
    before = stacked_of(data).state_dict()
    changed = replace(data, **{split: moved(data.split(split)) for split in ("valid", "test")})
    after = stacked_of(changed).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    train = moved(data.train)
    assert not torch.equal(stacked_of(replace(data, train=train)).base.weight, before["base.weight"])


def moved(pairs: Interactions) -> Interactions:
    """Other items for the same users."""
    return replace(pairs, items=((pairs.items + 5) % pairs.num_items).astype(pairs.items.dtype))


# ---------------------------------------------------------------------- the context


@both
def test_the_environment_has_the_states_and_contexts_of_the_policy(task: str) -> None:
    data = SETS[task]
    kwargs: dict[str, Any] = {"data": data, "backbone": "stacked", "backbone_options": OPTIONS}
    kwargs |= {"num_steps": 2, "reward": "ndcg", "relevance": "train", "k": 5}
    policy = DiffusionPolicy(trained(data), 2).eval()
    backbone, shown = policy.backbone, policy.inputs(data)
    env = gym.make("ReFiT-Custom-v0", **kwargs)
    one, info = env.reset(seed=3)
    assert env.observation_space.contains(one)
    many, infos = gym.make_vec("ReFiT-Custom-v0", num_envs=6, **kwargs).reset(seed=3)
    batch = {name: value[None] for name, value in one.items()}
    for seen, users in ((batch, [info["user"]]), (many, infos["user"])):
        ids = torch.as_tensor(users)
        assert np.array_equal(seen["history"], backbone.context(ids, shown(ids)))
        np.testing.assert_allclose(seen["u"], backbone.initial_state(ids, shown(ids)), atol=1e-6)
        assert (seen["history"][:, -1] == 1).all()
    assert np.isfinite(policy.act(many)).all()


@both
@pytest.mark.parametrize("relevance", ["train", "validation"])
def test_episodes_start_from_held_rows_or_from_validation_rows(task: str, relevance: str) -> None:
    data = SETS[task]
    rows = rows_of(data)
    problem = make_problem(
        ProblemConfig(data=data, backbone="stacked", num_steps=1, reward="ndcg", relevance=relevance, k=5)
    )
    if relevance == "train":
        assert np.array_equal(problem.users, np.flatnonzero(held_rows(rows, 0.25)))
    else:
        assert len(problem.users) and set(problem.users) <= set(rows.rows_of("valid"))
    context = problem.context(torch.as_tensor(problem.users))
    assert context is not None and bool((context[:, -1] == float(relevance == "train")).all())
    box = problem.context_box()
    assert box is not None and box[0] <= float(context.min()) and float(context.max()) <= box[1]
    assert box[2] == context.shape[1]


@both
@pytest.mark.parametrize("history", [3, 10, 50])
def test_histories_are_shown_as_rows_that_are_not_held(task: str, history: int) -> None:
    data = SETS[task]
    rows, stacked = rows_of(data), stacked_of(data, history=history)
    _, users = halves(rows)
    found = stacked.show(torch.as_tensor(rows.history[users.numpy()], dtype=torch.int64))
    torch.testing.assert_close(found, stacked.shown(data, "cpu")(users))


# ---------------------------------------------------------------------- training and files


@both
def test_gradients_reach_the_network_alone(task: str) -> None:
    data = SETS[task]
    stacked = stacked_of(data).requires_grad_(False).requires_grad_(True)  # as trainers do
    found = next_item_examples(stacked, rows_of(data), PretrainConfig(), torch.device("cpu"))
    shown, target, ids = found.shown, found.target, found.ids
    assert torch.equal(ids, halves(rows_of(data))[0]) and (target(ids).sum(1) == 1).all()
    optimizer = torch.optim.AdamW(stacked.parameters(), 0.1, weight_decay=0.1)
    before = {name: value.clone() for name, value in stacked.state_dict().items()}
    for _ in range(2):  # the hidden layer has a gradient once the last one is not 0
        optimizer.zero_grad()
        stacked.elbo_loss(shown(ids), target(ids), torch.Generator().manual_seed(0)).backward()
        optimizer.step()
    changed = {name for name, value in stacked.state_dict().items() if not torch.equal(value, before[name])}
    layers = {"of_item.weight", "of_item.bias", "of_history.weight", "output.weight", "output.bias"}
    assert changed == layers


@both
def test_a_copy_that_was_fitted_without_other_rows_is_not_trained(task: str) -> None:
    """A model of an earlier version, whose rule held other rows apart, would learn on rows of its copy."""
    stacked = stacked_of(SETS[task])
    stacked.check_can_learn(SETS[task])
    stacked.popular[1] = stacked.popular[0]  # as if the copy had been fitted to all rows
    with pytest.raises(ValueError, match=r"copy was fitted without other rows .* train a new one"):
        stacked.check_can_learn(SETS[task])


@both
def test_a_saved_policy_scores_the_same(task: str, tmp_path: Path) -> None:
    data = SETS[task]
    policy = DiffusionPolicy(trained(data), 2).eval()
    policy.save(tmp_path, data)
    again = DiffusionPolicy.load(tmp_path)
    users = torch.arange(data.episodes.num_users)
    assert torch.equal(again.scorer(data)(users), policy.scorer(data)(users))
    weights = {name.split(".")[1] for name, p in again.named_parameters() if p.requires_grad}
    assert weights == {"of_item", "of_history", "output"}


# ---------------------------------------------------------------------- errors


def test_data_without_order_is_refused() -> None:
    checkins = replace(SETS["poi"], time_ordered=False)
    with pytest.raises(
        ValueError, match="backbone 'stacked' reads histories; 'synthetic-checkins' is not sor"
    ):
        stacked_of(checkins)
    with pytest.raises(
        ValueError, match="backbone 'stacked' is for sequential, poi data; data set 'synthetic'"
    ):
        stacked_of(synthesize(num_users=30, num_items=24))
    with pytest.raises(ValueError, match="is for sequential, poi data"):
        gym.make("ReFiT-Synthetic-v0", backbone="stacked")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held": 1.0}, "held must be > 0 and < 1, found 1"),
        ({"hiden": 8}, "Did you mean 'hidden'"),
        ({"l2": 0.0}, "l2 must be > 0, found 0"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stacked_of(SETS["poi"], **options)


def test_a_large_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="25001 are more than 25000"):
        StackedDenoiser(25_001)


def test_a_division_that_leaves_nothing_to_train_on_or_to_fit_is_refused() -> None:
    data = synthesize_checkins(num_users=15, num_items=24, checkins=20)
    rows = rows_of(data)
    for held in (1e-6, 1 - 1e-6):
        with pytest.raises(ValueError, match=rf"of 'synthetic.*than {held:g} .backbone option 'held'"):
            stacked_of(tiny(data), held=held)
    with pytest.raises(ValueError, match="relevance 'train': the backbone trains on none of its"):
        make_relevance("train", rows).of_users(np.zeros(rows.num_users, np.bool_))


def tiny(data: Dataset) -> Dataset:
    """The rows of the data set, one train row of each session alone."""
    rows = rows_of(data)
    train = np.flatnonzero(rows.split_of == SPLITS.index("train"))
    later = np.setdiff1d(train, train[np.unique(rows.sessions[train], return_index=True)[1]])
    held = np.zeros(rows.num_users, np.bool_)
    held[later] = True
    return without_rows(rows, held)
