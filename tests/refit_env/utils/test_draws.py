"""Tests of draws: their share, their independence of a split, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from refit_env.utils.draws import drawn, stream


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("low, high", [(0.0, 0.8), (0.8, 0.9), (0.9, 1.0)])
def test_of_each_part_of_a_split_by_the_usual_generator_the_same_share_is_drawn(
    share: float, low: float, high: float
) -> None:
    chance = np.random.default_rng(0).random(20_000)
    part = np.flatnonzero((chance >= low) & (chance < high))
    assert drawn(part, share, "select").mean() == pytest.approx(share, abs=0.05)


def test_an_id_is_drawn_whichever_others_there_are() -> None:
    ids = np.array([7, 7, 3, 900])
    some = drawn(ids, 0.5, "select")
    assert some[0] == some[1]
    assert np.array_equal(some, drawn(np.arange(5000), 0.5, "select")[ids])
    assert drawn(ids[:0], 0.5, "select").shape == (0,)


def test_purposes_have_different_streams() -> None:
    assert not np.array_equal(stream("select").random(8), stream("held").random(8))
