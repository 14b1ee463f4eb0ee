"""Rendering: texts, pictures and videos of chains."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import RecordVideo

from refit_env.data import synthesize
from tests.refit_env.envs.test_denoising import finish


def test_pictures_and_texts_of_every_id(case: Any) -> None:
    for mode in ("ansi", "rgb_array"):
        env = case.make(render_mode=mode)
        env.reset(seed=0)
        first = env.render()
        finish(env)
        last = env.render()
        if mode == "ansi":
            assert isinstance(first, str) and last.startswith(first)
        else:
            assert first.shape == last.shape == (450, 800, 3) and first.dtype == np.uint8
            assert not np.array_equal(first, last)


def test_a_chain_is_not_rendered_before_it_began() -> None:
    single = gym.make("ReFiT-Synthetic-v0", render_mode="ansi").unwrapped
    for env in (single, gym.make_vec("ReFiT-Synthetic-v0", 2, render_mode="ansi")):
        with pytest.raises(ResetNeeded, match="reset the environment"):
            env.render()


@pytest.mark.parametrize("kwargs", [{"relevance": "train"}, {"num_steps": 40}, {"k": 3}, {"k": 100}])
def test_pictures_of_unusual_environments(synthetic: Any, kwargs: dict[str, Any]) -> None:
    env = synthetic.make(render_mode="rgb_array", **kwargs)
    env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = env.render()
        env.step(env.action_space.sample())
        assert env.render().shape == first.shape == (450, 800, 3)


def test_texts_mark_the_hits(synthetic: Any) -> None:
    env = synthetic.make(render_mode="ansi", k=5)
    _, info = env.reset(seed=0)
    relevant = env.unwrapped.problem.relevance.relevant[info["user"]]
    env.step(relevant.toarray()[0].astype(np.float32))
    head, *lines = env.render().splitlines()
    assert f"user {info['user']}" in head and len(lines) == 2
    items = re.split(r" hits? ", lines[1])[1].split()
    assert len(items) == 5 and lines[1].count("*") == min(5, relevant.nnz)
    assert {int(item[:-1]) for item in items if item.endswith("*")} <= set(relevant.indices.tolist())


def test_one_hit_is_one_hit(synthetic: Any) -> None:
    env = synthetic.make(render_mode="ansi", k=5)
    _, info = env.reset(seed=0)
    item = env.unwrapped.problem.relevance.relevant[info["user"]].indices[0]
    scores = np.zeros(400, np.float32)
    scores[item] = 5.0
    free = np.setdiff1d(np.arange(400), env.unwrapped.problem.relevance.relevant[info["user"]].indices)
    scores[free] += 1.0
    env.step(scores)
    assert "  1 hit  " in env.render().splitlines()[2]


def test_one_colour_scale_over_a_chain(synthetic: Any) -> None:
    env = synthetic.make(render_mode="rgb_array")
    env.reset(seed=0)
    bars = [env.render()[60:320, 690:]]  # right of the heat map
    for size in (1.0, 3.0, 0.1):
        env.step(size * env.action_space.sample())
        bars.append(env.render()[60:320, 690:])
    assert len(np.unique(bars[0])) > 50 and all(np.array_equal(bars[0], bar) for bar in bars)


def test_items_are_shown_by_their_names() -> None:
    data = synthesize(num_users=40, num_items=60)
    names = np.array([f"Film {n}, part {n % 3}" for n in range(60)], dtype=object)
    env = gym.make(
        "ReFiT-Custom-v0", data=replace(data, item_features={"title": names}), render_mode="ansi", k=5
    )
    env.reset(seed=0)
    shown = re.split(r" hits?  ", env.render().splitlines()[1])[1].split(", F")
    assert len(shown) == 5 and shown[0].startswith("Film ")
    picture = gym.make(
        "ReFiT-Custom-v0", data=replace(data, item_features={"title": names}), render_mode="rgb_array"
    )
    picture.reset(seed=0)
    plain = gym.make("ReFiT-Custom-v0", data=data, render_mode="rgb_array")
    plain.reset(seed=0)
    tiles = slice(360, 450)  # the list
    assert not np.array_equal(picture.render()[tiles], plain.render()[tiles])
    assert np.array_equal(picture.render()[:300], plain.render()[:300])


def test_recorded_videos_can_be_played(synthetic: Any, tmp_path: Path) -> None:
    moviepy = pytest.importorskip("moviepy", reason="RecordVideo needs the extra `video`")
    env = RecordVideo(synthetic.make(render_mode="rgb_array"), str(tmp_path / "films"), name_prefix="chain")
    env.reset(seed=0)
    finish(env)
    env.close()
    (film,) = (tmp_path / "films").glob("chain*.mp4")
    with moviepy.VideoFileClip(str(film)) as clip:
        frames = list(clip.iter_frames())
    assert len(frames) >= 5 and frames[0].std() > 1
    assert not np.array_equal(frames[0], frames[-1])
