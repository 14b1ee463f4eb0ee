from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from refit_env.data import Dataset, synthesize
from refit_env.data.interactions import SPLITS
from refit_env.data.synthetic import LEAST_ITEMS
from refit_env.errors import SettingError

PINNED = "e64bd14f4c45a73c9db0541d4c54cc52a9f4238b62336d1d861a0ee95b2ae172"


def fingerprint(data: Dataset) -> str:
    """Hash every value, in little-endian bytes of fixed types."""
    digest = hashlib.sha256()
    for split in SPLITS:
        part = data.split(split)
        assert part.timestamps is not None
        for values, kind in ((part.indptr, "<i8"), (part.items, "<i4"), (part.timestamps, "<f8")):
            digest.update(values.astype(kind).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthesize()


def test_a_seed_gives_the_same_bytes_on_any_platform(data: Dataset) -> None:
    assert fingerprint(data) == PINNED


def test_seeds_differ_and_repeat() -> None:
    sizes = {"num_users": 30, "num_items": 40}
    assert fingerprint(synthesize(1, **sizes)) == fingerprint(synthesize(1, **sizes))
    assert fingerprint(synthesize(1, **sizes)) != fingerprint(synthesize(2, **sizes))


def test_split_by_time_within_each_user(data: Dataset) -> None:
    assert data.time_ordered
    parts = [data.split(split) for split in SPLITS]
    total = sum(part.counts for part in parts)
    assert np.all(np.abs(parts[2].counts - 0.2 * total) <= 0.5)
    assert np.all(np.abs(parts[1].counts - 0.1 * total) <= 0.5)
    for user in range(data.num_users):
        times = [p.timestamps[p.indptr[user] : p.indptr[user + 1]] for p in parts if p.timestamps is not None]
        assert np.all(np.diff(np.concatenate(times)) > 0)
        items = np.concatenate([part.of(user) for part in parts])
        assert len(set(items.tolist())) == items.size


def test_activity_is_skewed_and_popularity_is_steep(data: Dataset) -> None:
    counts = data.train.counts
    assert counts.mean() > 1.05 * np.median(counts)  # log-normal: the mean is above the median
    popularity = np.sort(np.bincount(data.train.items, minlength=data.num_items))[::-1]
    assert popularity[: data.num_items // 10].sum() > 0.25 * popularity.sum()


def test_neighbours_beat_popularity(data: Dataset) -> None:
    train = data.train.csr.toarray()
    popularity = recall(data, np.tile(train.sum(0), (data.num_users, 1)))
    together = train.T @ train
    size = np.sqrt(np.diag(together)) + 1e-9
    similar = together / size / size[:, None]
    np.fill_diagonal(similar, 0)
    neighbours = recall(data, train @ similar)
    assert 2 * popularity < neighbours < 0.7


def test_late_items_predict_the_next_ones(data: Dataset) -> None:
    """The last third of a row predicts the test items better than the first third."""
    train, users = data.train, data.train.users
    place = (np.arange(len(train)) - train.indptr[users]) / train.counts[users]
    full = train.csr.toarray()
    together = full.T @ full
    np.fill_diagonal(together, 0)
    late, early = (train.select(keep).csr.toarray() @ together for keep in (place >= 2 / 3, place < 1 / 3))
    assert recall(data, late) > 1.1 * recall(data, early)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_items": 20}, "num_items must be >= 24, 18 and 3 a cluster, found 20"),
        ({"num_items": 17, "num_clusters": 1}, "num_items must be >= 18"),
        ({"num_users": 0}, "num_users must be >= 1"),
    ],
)
def test_sizes_that_leave_a_split_empty_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        synthesize(**sizes)  # type: ignore[arg-type]


def test_the_least_sizes_leave_no_split_empty() -> None:
    for seed in range(20):
        data = synthesize(seed, num_users=1, num_items=LEAST_ITEMS, num_clusters=1)
        assert all(len(data.split(split)) for split in SPLITS)


def recall(data: Dataset, scores: npt.NDArray[np.float32], k: int = 20) -> float:
    seen = (data.train.csr + data.valid.csr).toarray() > 0
    scores = np.where(seen, -np.inf, scores)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    relevant = data.test.csr.toarray()
    return float((np.take_along_axis(relevant, top, 1).sum(1) / relevant.sum(1).clip(1)).mean())
