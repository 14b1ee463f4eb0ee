"""The embedded social data are the same on every platform, and friends predict test items."""

from __future__ import annotations

import numpy as np
import pytest

from refit_env.data import synthesize_social


def test_the_ties_depend_on_the_seed() -> None:
    one, two, other = (synthesize_social(seed) for seed in (0, 0, 1))
    assert one.social is not None and two.social is not None and other.social is not None
    assert np.array_equal(one.social, two.social) and not np.array_equal(one.social, other.social)


def test_ties_are_symmetric_without_self_loops() -> None:
    data = synthesize_social(num_users=50, meets=10)
    assert data.social is not None
    ties = set(map(tuple, data.social.tolist()))
    assert len(ties) == len(data.social) and all((b, a) in ties and a != b for a, b in ties)
    assert {a for a, _ in ties} == set(range(50))


def test_friends_share_more_test_items_than_strangers_do() -> None:
    data = synthesize_social()
    assert data.social is not None
    test = data.test.csr
    shared = (test @ test.T).toarray()
    strangers = (shared.sum() - np.trace(shared)) / (data.num_users * (data.num_users - 1))
    assert shared[data.social[:, 0], data.social[:, 1]].mean() > 1.5 * strangers


def test_more_friends_than_people_are_refused() -> None:
    with pytest.raises(ValueError, match="friends=9, meets=5"):
        synthesize_social(friends=9, meets=5)
