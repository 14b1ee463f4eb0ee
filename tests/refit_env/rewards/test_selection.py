"""No reward reads the validation items of users that select a model, or any test items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from refit_env.backbones import backbone_for
from refit_env.data import Dataset, synthesize, synthesize_checkins, synthesize_sessions
from refit_env.data.interactions import Interactions
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import MODES, Relevance, Reward, make_relevance, make_reward, reward_names

DATA: dict[str, Dataset] = {
    "cf": synthesize(seed=1, num_users=60, num_items=40, num_clusters=4, mean_events=14),
    "sequential": synthesize_sessions(num_sessions=60, num_items=24),
    "poi": synthesize_checkins(num_users=15, num_items=24, checkins=20),
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cf": ("diffrec", {"hidden": (8,), "num_steps": 4}),
    "sequential": ("dreamrec", {"embedding": 8, "num_steps": 5}),
    "poi": ("diff-poi", {"embedding": 8}),
}
CASES = [(task, mode) for task in DATA for mode in MODES if task == "cf" or mode in ("train", "validation")]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[DiffusionPolicy, Path]]:
    """An untrained recommender of each data set, and its folder, which names no data."""
    found = {}
    for task, (name, options) in MODELS.items():
        policy = DiffusionPolicy(backbone_for(DATA[task], name, options, seed=0), 2).eval()
        folder = tmp_path_factory.mktemp(task)
        policy.save(folder)
        found[task] = policy, folder
    return found


def changed(data: Dataset, split: str, users: npt.NDArray[np.int64]) -> Dataset:
    """The data with other items in place of those of ``users`` in one split, as many of them."""
    rows = data.split(split)
    moved = np.isin(rows.users, users)
    assert moved.any()
    items = np.where(moved, (rows.items + 7) % data.num_items, rows.items).astype(np.int32)
    other = Interactions(rows.indptr, items, data.num_items, rows.timestamps, rows.ratings)
    return replace(data, valid=other) if split == "valid" else replace(data, test=other)


def every_reward(
    data: Dataset, mode: str, folder: Path, score: Callable[[Dataset], Any]
) -> Iterator[tuple[str, Reward, Relevance]]:
    """Each registered reward and each setting of RACS, before and after its lists were set to a model's."""
    episodes = data.episodes
    relevance = make_relevance(mode, episodes)
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        (name, name, {})
        for name in reward_names(mode, rows=episodes is not data, dislikes=False, outside=False)
    ]
    if mode != "none":
        kinds += [
            (f"racs {variant} {others}", "racs", {"variant": variant, "neighbor_relevance": others})
            for variant in ("target_list", "neighbor_lists")
            for others in MODES
            if others != "none" and (episodes is data or others in ("train", "validation"))
        ]
        kinds.append(("mix validation", {"racs": 1.0, "coverage": 0.5}, {"neighbor_relevance": "validation"}))
    for name, spec, kwargs in kinds:
        for refreshed in (False, True):
            reward = make_reward(spec, episodes, relevance, k=5, model=folder, **kwargs)
            if refreshed and not reward.uses_lists:
                continue
            if refreshed:
                reward.refresh(score(data))
            yield f"{name} refreshed" if refreshed else name, reward, relevance


def paid(data: Dataset, mode: str, policy: DiffusionPolicy, folder: Path) -> dict[str, Any]:
    """By reward: the users that select, and the rewards of the users of episodes for certain scores."""
    found = {}
    for name, reward, relevance in every_reward(data, mode, folder, policy.scorer):
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(data.episodes.num_users, data.num_items, generator=generator)
        users = torch.from_numpy(relevance.users)
        found[name] = (
            reward.selecting,
            (relevance.users.tolist(), reward(scores[users], users).value.tolist()),
        )
    return found


@pytest.mark.parametrize(("task", "mode"), CASES)
def test_no_reward_reads_the_items_that_select(
    task: str, mode: str, policies: dict[str, tuple[DiffusionPolicy, Path]]
) -> None:
    """Other validation items of the users that select, and other test items of anyone: the same rewards."""
    data, (policy, folder) = DATA[task], policies[task]
    everyone = np.arange(data.num_users)
    rewarded = make_relevance("validation", data).sources()
    selecting = np.setdiff1d(everyone, rewarded)
    before = paid(data, mode, policy, folder)
    twins = {
        "test": changed(data, "test", everyone),
        "all": changed(data, "valid", everyone),
        "selecting": changed(data, "valid", selecting),
        "rewarded": changed(data, "valid", rewarded),
    }
    after = {change: paid(twin, mode, policy, folder) for change, twin in twins.items()}
    moved = set()
    for name, (others, rewards) in before.items():
        assert (others is None) == ("validation" not in (mode, *name.split()) and name != "learned"), name
        assert after["test"][name][1] == rewards, name
        assert after["all" if others is None else "selecting"][name][1] == rewards, name
        if after["rewarded"][name][1] != rewards:
            moved.add(name)
    assert all(before[name][0] is not None for name in moved)
    if mode == "validation":  # so that a reward that reads too much would fail
        assert {"ndcg", "recall", "racs", "racs target_list validation"} <= moved
    elif mode != "none" and task == "cf":
        assert "racs neighbor_lists validation refreshed" in moved


def test_the_users_that_select_depend_on_ids_only() -> None:
    relevance = make_relevance("validation", DATA["cf"])
    assert relevance.selecting is not None
    assert 0.3 < len(relevance.selecting) / 60 < 0.7
    assert not set(relevance.selecting.tolist()) & set(relevance.users.tolist())
    data = synthesize(seed=2, num_users=50, num_items=40, num_clusters=4, mean_events=14)  # another world
    other = make_relevance("validation", data, fraction=0.3, seed=5).selecting
    assert other is not None and other.tolist() == [u for u in relevance.selecting.tolist() if u < 50]
    fewer = make_relevance("validation", data, selection_share=0.2).selecting
    assert fewer is not None and set(fewer.tolist()) < set(other.tolist())
    none = make_relevance("validation", data, selection_share=0.0).selecting
    assert none is not None and not none.size
    assert all(make_relevance(mode, data).selecting is None for mode in MODES if mode != "validation")


@pytest.mark.parametrize("task", ["sequential", "poi"])
def test_a_session_selects_or_is_rewarded_as_a_whole(task: str) -> None:
    """Its later rows show the targets of its earlier ones."""
    rows = DATA[task].episodes
    relevance = make_relevance("validation", rows)
    assert relevance.selecting is not None and relevance.groups is not None
    rewarded, selecting = (set(relevance.groups[u].tolist()) for u in (relevance.users, relevance.selecting))
    assert rewarded and selecting and not rewarded & selecting
    assert set(relevance.sources().tolist()) == rewarded
    assert not relevance.visible[relevance.selecting].nnz


def test_a_user_that_selects_starts_no_episode() -> None:
    from refit_env.envs.config import ProblemConfig
    from refit_env.envs.problem import make_problem

    problem = make_problem(ProblemConfig(DATA["cf"], relevance="validation"))
    assert problem.selecting is not None
    with pytest.raises(ValueError, match="is reserved to select models under relevance 'validation'"):
        problem.check_user(int(problem.selecting[0]))


@pytest.mark.parametrize("task", list(DATA))
def test_a_control_can_learn_what_was_rewarded_and_nothing_else(task: str) -> None:
    """``learning_validation_of`` the sources of whom is rewarded: their items, none of those that select."""
    data = DATA[task]
    relevance = make_relevance("validation", data)
    more = data.learning_validation_of(relevance.sources())
    gained = set(np.flatnonzero(more.train.counts - data.train.counts).tolist())
    assert gained == set(relevance.sources().tolist()) & set(data.valid.users.tolist())
    paid_for = relevance.relevant.indices if data.episodes is data else None
    if paid_for is not None:
        assert len(paid_for) == len(more.train) - len(data.train)
    others = more.episodes.valid.users
    assert relevance.selecting is not None and len(others)
    if data.episodes is data:
        assert set(others.tolist()) <= set(relevance.selecting.tolist())
