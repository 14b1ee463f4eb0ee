"""Letters: n users, K list length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.reports.explorer import (
    bin_edges,
    chains,
    choose_users,
    episodes_of,
    explorer,
    kept_states,
    label_of,
    session_of,
)
from agents.reports.measured import (
    Measured,
    by_activity,
    cold_users,
    counts_of_gains,
    measure_lists,
    movers,
    popularity_shares,
)
from refit_env.backbones import backbone_class, backbone_for, backbone_names
from refit_env.backbones.closed_form import ClosedForm
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy


@pytest.fixture
def pair(small_data: Dataset) -> tuple[DiffusionPolicy, DiffusionPolicy]:
    return tuple(  # type: ignore[return-value]
        DiffusionPolicy(backbone_for(small_data, "diffrec", {"hidden": (8,)}, seed=seed), 3).eval()
        for seed in (0, 1)
    )


@pytest.fixture
def measured(pair: tuple[DiffusionPolicy, DiffusionPolicy], small_data: Dataset) -> Measured:
    return measure_lists(*pair, small_data)


def test_groups_of_activity_hold_every_user_once_and_average_to_the_whole(measured: Measured) -> None:
    groups = by_activity(measured, 4)
    sizes = np.array([group.difference.num_users for group in groups])
    means = np.array([group.difference.mean_difference for group in groups])
    assert sizes.sum() == len(measured.after.users) and sizes.max() - sizes.min() <= 1
    assert (sizes @ means) / sizes.sum() == pytest.approx(measured.gain.mean(), abs=1e-12)
    lows = [int(group.name.partition("-")[0]) for group in groups]
    assert lows == sorted(lows)
    assert sum(counts_of_gains(measured)) == len(measured.after.users)


def test_cold_users_have_fewer_than_five_train_items(measured: Measured) -> None:
    few = measured.counts < 5
    group = cold_users(measured)
    assert (group is None) == (not few.any())
    if group is not None:
        assert group.difference.num_users == few.sum()
        assert group.difference.mean_difference == pytest.approx(measured.gain[few].mean())


def test_popularity_shares_count_every_place_of_the_lists(measured: Measured) -> None:
    shares = popularity_shares(measured, 5)
    assert set(shares) == {"train", "before", "after"}
    assert all(sum(part) == pytest.approx(1) for part in shares.values())
    assert shares["train"] == sorted(shares["train"], reverse=True)


def test_movers_are_the_items_with_the_largest_changes(measured: Measured) -> None:
    assert measured.before is not None
    up, down = movers(measured, 3)
    counts = {
        name: np.bincount(found.lists[found.lists >= 0], minlength=found.num_items)
        for name, found in (("before", measured.before), ("after", measured.after))
    }
    change = counts["after"] - counts["before"]
    assert [m.after - m.before for m in up] == sorted(change[change > 0], reverse=True)[:3]
    assert [m.after - m.before for m in down] == sorted(change[change < 0])[:3]
    assert all(counts["after"][m.item] == m.after for m in up + down)


def test_a_model_without_a_start_has_no_gains(pair: tuple[DiffusionPolicy, ...], small_data: Dataset) -> None:
    alone = measure_lists(None, pair[1], small_data)
    assert by_activity(alone) == [] and cold_users(alone) is None and movers(alone) == ([], [])
    assert set(popularity_shares(alone)) == {"train", "after"}
    shown = explorer(alone, None, pair[1], choose_users(alone, 5))
    assert all("before" not in user and user["metric"][0] is None for user in shown["users"])


# ---------------------------------------------------------------------- the explorer


def test_the_last_list_of_a_chain_is_the_evaluated_one(
    measured: Measured, pair: tuple[DiffusionPolicy, ...], small_data: Dataset
) -> None:
    users = measured.after.users[:7].tolist()
    lists, strips = chains(pair[1], small_data, users)
    assert [chain[-1] for chain in lists] == measured.after.lists[:7, :20].tolist()
    assert all(len(chain) == 4 for chain in lists) and all(len(chain) == 4 for chain in strips)
    assert all(chain[0] == [] for chain in lists)  # u_T is the history: all unseen items have 0
    assert all(len(items) == 20 for chain in lists for items in chain[1:])


def test_hits_are_the_held_out_items(
    measured: Measured, pair: tuple[DiffusionPolicy, DiffusionPolicy], small_data: Dataset
) -> None:
    sample = choose_users(measured, 12)
    shown = explorer(measured, *pair, sample)
    for user, entry in zip(sample.users, shown["users"], strict=True):
        held = set(small_data.test.of(user).tolist())
        numbers = [int(name.removeprefix("item ")) for name in shown["items"]]
        for chain in (entry["before"], entry["after"]):
            for items, hits in zip(chain["lists"], chain["hits"], strict=True):
                assert [numbers[place] in held for place in items] == [bool(hit) for hit in hits]
        assert entry["heldCount"] == len(held) and entry["train"] == small_data.train.counts[user]


def test_named_users_come_first_and_groups_are_what_they_say(measured: Measured) -> None:
    last = int(measured.after.users[-1])
    sample = choose_users(measured, 10, [last])
    assert (sample.users[0], sample.groups[0]) == (last, "chosen by --users")
    assert len(set(sample.users)) == len(sample.users) == 11
    gain = dict(zip(measured.after.users.tolist(), measured.gain.tolist(), strict=True))
    for user, group in zip(sample.users[1:], sample.groups[1:], strict=True):
        assert group != "largest gains" or gain[user] > 0
        assert group != "largest losses" or gain[user] < 0
    everyone = choose_users(measured, 10_000)
    assert sorted(everyone.users) == measured.after.users.tolist()
    assert choose_users(measured, 0).users == []


def test_bins_hold_every_number_once() -> None:
    for size in (1, 3, 71, 72, 73, 80, 100, 5000):
        edges = bin_edges(size)
        assert edges[0] == 0 and edges[-1] == size and (np.diff(edges) > 0).all()
        assert len(edges) == min(size, 72) + 1


def test_kept_states_begin_and_end_with_the_chain() -> None:
    for steps in (1, 2, 7, 8, 9, 200):
        states = kept_states(steps)
        assert states[0] == 0 and states[-1] == steps and len(set(states)) == len(states) <= 8


@pytest.mark.parametrize("name", backbone_names())
def test_chains_of_every_backbone_end_in_the_evaluated_lists(
    task_data: dict[str, Dataset], small_configs: dict[str, dict[str, Any]], name: str
) -> None:
    data = task_data[next(iter(backbone_class(name).tasks))]
    backbone = backbone_for(data, name, small_configs[name])
    if isinstance(backbone, ClosedForm):
        backbone.fit(data)
    policy = DiffusionPolicy(backbone, 2).eval()
    found = measure_lists(None, policy, data)
    sample = choose_users(found, 6)
    shown = explorer(found, None, policy, sample)
    row_of = {user: row for row, user in enumerate(found.after.users.tolist())}
    numbers = [int(text.removeprefix("item ")) for text in shown["items"]]
    for user, entry in zip(sample.users, shown["users"], strict=True):
        last = [numbers[place] for place in entry["after"]["lists"][-1]]
        assert last == [item for item in found.after.lists[row_of[user]][:20].tolist() if item >= 0]
        assert [len(strip) for strip in entry["after"]["strips"]] == [min(policy.backbone.dim, 72)] * 3


@pytest.mark.parametrize("task", ["cf", "sequential", "social", "poi"])
def test_episodes_of_each_task_are_named_by_their_user(task_data: dict[str, Dataset], task: str) -> None:
    data = task_data[task]
    tested = int(data.episodes.test.users[-1])
    label = label_of(data, tested)
    if data.episodes is data:
        assert episodes_of(data, label) == tested
    else:
        user, _, event = label.partition(", event ")
        assert label_of(data, episodes_of(data, user)).startswith(f"{user}, event")
        assert int(event) >= 2 and session_of(data.episodes, tested) == data.users_by_id.number(user)
    with pytest.raises(ValueError, match="must lie in 0"):
        episodes_of(data, "100000")
