"""The tables of docs/wrappers.md are what Gymnasium's wrappers do around the environments."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.sb3 import DiffusionActorCriticPolicy, to_sb3_vec_env

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wrappers.md"
STEPS = 2
SETTINGS: dict[str, Any] = {"id": "ReFiT-Synthetic-v0", "num_steps": STEPS}
PICTURES = {
    "AddRenderObservation",
    "AddWhiteNoise",
    "HumanRendering",
    "ObstructView",
    "RecordVideo",
    "RenderCollection",
}
"""Wrappers that need ``render_mode="rgb_array"``."""
NEEDS = {
    "ArrayConversion": ["array_api_compat"],
    "NumpyToTorch": ["array_api_compat"],
    "HumanRendering": ["pygame", "cv2"],
    "RecordVideo": ["moviepy"],
}
"""What a wrapper needs beyond this package's test extras."""
OF_JAX = {"JaxToNumpy", "JaxToTorch"}
Wrap = Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


SINGLE: dict[str, Wrap] = {
    "AddRenderObservation": lambda e: wrappers.AddRenderObservation(e, render_only=False),
    "AddWhiteNoise": lambda e: wrappers.AddWhiteNoise(e, 0.5),
    "ArrayConversion": lambda e: wrappers.ArrayConversion(e, env_xp=np, target_xp=torch),
    "AtariPreprocessing": lambda e: wrappers.AtariPreprocessing(e),
    "Autoreset": lambda e: wrappers.Autoreset(e),
    "ClipAction": lambda e: wrappers.ClipAction(e),
    "ClipReward": lambda e: wrappers.ClipReward(e, 0.0, 0.5),
    "DelayObservation": lambda e: wrappers.DelayObservation(e, 1),
    "DiscretizeAction": lambda e: wrappers.DiscretizeAction(e, 3),
    "DiscretizeObservation": lambda e: wrappers.DiscretizeObservation(e, 3),
    "DtypeObservation": lambda e: wrappers.DtypeObservation(e, np.float64),
    "FilterObservation": lambda e: wrappers.FilterObservation(e, ["u"]),
    "FlattenObservation": lambda e: wrappers.FlattenObservation(e),
    "FrameStackObservation": lambda e: wrappers.FrameStackObservation(e, 2),
    "GrayscaleObservation": lambda e: wrappers.GrayscaleObservation(e),
    "HumanRendering": lambda e: wrappers.HumanRendering(e),
    "MaxAndSkipObservation": lambda e: wrappers.MaxAndSkipObservation(e, 2),
    "NormalizeObservation": lambda e: wrappers.NormalizeObservation(e),
    "NormalizeReward": lambda e: wrappers.NormalizeReward(e),
    "NumpyToTorch": lambda e: wrappers.NumpyToTorch(e),
    "ObstructView": lambda e: wrappers.ObstructView(e, 0.5, 10),
    "OrderEnforcing": lambda e: wrappers.OrderEnforcing(e),
    "PassiveEnvChecker": lambda e: wrappers.PassiveEnvChecker(e),
    "RecordEpisodeStatistics": lambda e: wrappers.RecordEpisodeStatistics(e),
    "RecordVideo": lambda e: wrappers.RecordVideo(e, "videos", episode_trigger=lambda _: True),
    "RenderCollection": lambda e: wrappers.RenderCollection(e),
    "RepeatAction": lambda e: wrappers.RepeatAction(e, 2),
    "RescaleAction": lambda e: wrappers.RescaleAction(e, np.float32(-1), np.float32(1)),
    "RescaleObservation": lambda e: wrappers.RescaleObservation(e, np.float32(-1), np.float32(1)),
    "ReshapeObservation": lambda e: wrappers.ReshapeObservation(e, (1, *e.observation_space.shape)),
    "ResizeObservation": lambda e: wrappers.ResizeObservation(e, (4, 4)),
    "StickyAction": lambda e: wrappers.StickyAction(e, 0.5),
    "TimeAwareObservation": lambda e: wrappers.TimeAwareObservation(
        wrappers.TimeLimit(e, STEPS), flatten=False
    ),
    "TimeLimit": lambda e: wrappers.TimeLimit(e, STEPS),
    "TransformAction": lambda e: wrappers.TransformAction(e, same, e.action_space),
    "TransformObservation": lambda e: wrappers.TransformObservation(e, same, e.observation_space),
    "TransformReward": lambda e: wrappers.TransformReward(e, lambda r: 2 * r),
}
VECTOR: dict[str, Wrap] = {
    "ArrayConversion": lambda e: vector.ArrayConversion(e, env_xp=namespace(e), target_xp=np),
    "ClipAction": lambda e: vector.ClipAction(e),
    "ClipReward": lambda e: vector.ClipReward(e, 0.0, 0.5),
    "DictInfoToList": lambda e: vector.DictInfoToList(e),
    "DtypeObservation": lambda e: vector.DtypeObservation(e, np.float64),
    "FilterObservation": lambda e: vector.FilterObservation(e, ["u"]),
    "FlattenObservation": lambda e: vector.FlattenObservation(e),
    "GrayscaleObservation": lambda e: vector.GrayscaleObservation(e),
    "HumanRendering": lambda e: vector.HumanRendering(e),
    "NormalizeObservation": lambda e: vector.NormalizeObservation(e),
    "NormalizeReward": lambda e: vector.NormalizeReward(e),
    "NumpyToTorch": lambda e: vector.NumpyToTorch(e),
    "RecordEpisodeStatistics": lambda e: vector.RecordEpisodeStatistics(e),
    "RecordVideo": lambda e: vector.RecordVideo(e, "videos", episode_trigger=lambda _: True),
    "RescaleAction": lambda e: vector.RescaleAction(e, np.float32(-1), np.float32(1)),
    "RescaleObservation": lambda e: vector.RescaleObservation(e, np.float32(-1), np.float32(1)),
    "ReshapeObservation": lambda e: vector.ReshapeObservation(e, (1, *e.single_observation_space.shape)),
    "ResizeObservation": lambda e: vector.ResizeObservation(e, (4, 4)),
    "TransformAction": lambda e: vector.TransformAction(e, same),
    "TransformObservation": lambda e: vector.TransformObservation(e, same),
    "TransformReward": lambda e: vector.TransformReward(e, lambda r: 2 * r),
    "VectorizeTransformAction": lambda e: vector.VectorizeTransformAction(
        e, wrappers.TransformAction, func=same, action_space=e.single_action_space
    ),
    "VectorizeTransformObservation": lambda e: vector.VectorizeTransformObservation(
        e, wrappers.TransformObservation, func=same, observation_space=e.single_observation_space
    ),
    "VectorizeTransformReward": lambda e: vector.VectorizeTransformReward(
        e, wrappers.TransformReward, func=lambda r: 2 * r
    ),
}


def namespace(envs: Any) -> Any:
    return torch if getattr(envs.unwrapped, "backend", "numpy") == "torch" else np


def tables() -> dict[str, dict[str, dict[str, str]]]:
    """Of the page: heading of a section -> wrapper -> column -> cell."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    heading, names = "", []
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading, names = line.removeprefix("## "), []
        if not line.startswith("|") or set(line) <= {"|", "-", " "}:
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not names:
            names = cells
        else:
            found.setdefault(heading, {})[cells[0].strip("`")] = dict(zip(names[1:], cells[1:], strict=True))
    return found


TABLES = tables() if PAGE.exists() else {}
ONE, MANY = "Around one environment", "Around a vector environment"


def rows(wraps: dict[str, Wrap]) -> list[Any]:
    """The names; pictures take seconds to paint."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in PICTURES else []) for name in wraps]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Videos go to a folder of the test, windows nowhere, and Gymnasium's warnings are not the matter."""
    monkeypatch.chdir(tmp_path)
    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        monkeypatch.setenv(name, "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def need(name: str) -> None:
    for module in NEEDS.get(name, []):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}")


def plays(envs: Any, disabled: bool = False) -> None:
    """Two episodes, each of which ends; a failure raises."""
    envs.reset(seed=0)
    ended = 0
    for _ in range(3 * STEPS):
        action = envs.action_space.sample()
        tensors = namespace(envs) is torch and "ArrayConversion" not in str(envs)
        _, reward, terminated, truncated, _ = envs.step(torch.from_numpy(action) if tensors else action)
        assert np.isfinite(np.asarray(reward, dtype=float)).all()
        over = np.asarray(terminated) | np.asarray(truncated)
        ended += int(over.any())
        if over.all() and not isinstance(envs, gym.vector.VectorEnv):
            envs.reset()
        elif disabled and over.any():
            envs.reset(options={"reset_mask": over})
    assert ended


def outcome(make: Callable[[], Any], wrap: Wrap, flatten: Wrap, try_out: Callable[[Any], None]) -> str:
    """yes, flat (after ``FlattenObservation``), or no."""
    for name, prepare in {"yes": same, "flat": flatten}.items():
        try:
            try_out(wrap(prepare(make())))
        except Exception:
            continue
        return name
    return "no"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained policy of the synthetic set's size."""
    from refit_env.backbones import make_backbone
    from refit_env.policy import DiffusionPolicy

    folder = tmp_path_factory.mktemp("run")
    backbone = make_backbone("diffrec", 400, {"hidden": (4,)})
    DiffusionPolicy(backbone, STEPS).save(folder)
    return str(folder)


def acts(run_folder: str) -> Callable[[Any], None]:
    """What tries whether the diffusion policy trains in an environment."""

    def try_out(envs: Any) -> None:
        several = isinstance(envs, gym.vector.VectorEnv)
        adapted = to_sb3_vec_env(envs) if several else DummyVecEnv([lambda: envs])
        settings: dict[str, Any] = {"policy_kwargs": {"actor": {"run": run_folder}}, "device": "cpu"}
        steps = STEPS * adapted.num_envs
        PPO(
            DiffusionActorCriticPolicy, adapted, n_steps=STEPS, batch_size=steps, n_epochs=1, **settings
        ).learn(steps)

    return try_out


@pytest.mark.parametrize("name", rows(SINGLE))
def test_wrappers_of_one_environment(name: str, run_folder: str) -> None:
    if name not in wrappers.__all__:
        pytest.skip(f"this Gymnasium has no {name}")
    need(name)
    kwargs = SETTINGS | ({"render_mode": "rgb_array"} if name in PICTURES else {})
    wrap = SINGLE[name]

    def sync(prepare: Wrap) -> Callable[[], Any]:
        same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
        layers = [prepare, wrap]
        return lambda: gym.make_vec(
            num_envs=2, vectorization_mode="sync", vector_kwargs=same_step, wrappers=layers, **kwargs
        )

    flatten = wrappers.FlattenObservation
    single = outcome(lambda: gym.make(**kwargs), wrap, flatten, plays)
    several = {
        how: outcome(sync(prepare), same, same, plays) for how, prepare in (("yes", same), ("flat", flatten))
    }
    found = {
        "`gym.make`": single,
        "`SyncVectorEnv` of them": next((how for how, out in several.items() if out == "yes"), "no"),
        "diffusion policy": outcome(lambda: gym.make(**kwargs), wrap, flatten, acts(run_folder)),
    }
    row = dict(TABLES[ONE][name])
    row.pop("why not, and what instead")
    assert row == found


@pytest.mark.parametrize("name", rows(VECTOR))
def test_wrappers_of_vector_environments(name: str, run_folder: str) -> None:
    need(name)
    kwargs = SETTINGS | {"num_envs": 2} | ({"render_mode": "rgb_array"} if name in PICTURES else {})

    def sync(mode: str) -> Any:
        chosen = {"autoreset_mode": AutoresetMode(mode)}
        return gym.make_vec(vectorization_mode="sync", vector_kwargs=chosen, **kwargs)

    def ours(mode: str, backend: str = "numpy") -> Any:
        return gym.make_vec(backend=backend, autoreset_mode=mode, **kwargs)

    makers: dict[str, tuple[Callable[[], Any], bool]] = {
        "sync, NextStep": (lambda: sync("NextStep"), False),
        "sync, SameStep": (lambda: sync("SameStep"), False),
        "sync, Disabled": (lambda: sync("Disabled"), True),
        "numpy, SameStep": (lambda: ours("SameStep"), False),
        "numpy, Disabled": (lambda: ours("Disabled"), True),
        "torch, SameStep": (lambda: ours("SameStep", "torch"), False),
        "torch, Disabled": (lambda: ours("Disabled", "torch"), True),
    }
    wrap, flatten = VECTOR[name], vector.FlattenObservation
    found = {
        column: outcome(make, wrap, flatten, lambda e, d=disabled: plays(e, d))  # type: ignore[misc]
        for column, (make, disabled) in makers.items()
    }
    found["diffusion policy"] = outcome(lambda: ours("Disabled"), wrap, flatten, acts(run_folder))
    row = dict(TABLES[MANY][name])
    row.pop("why not, and what instead")
    assert row == found


def test_every_wrapper_has_a_row() -> None:
    assert set(TABLES[ONE]) == set(SINGLE) and set(TABLES[MANY]) == set(VECTOR)
    assert set(wrappers.__all__) - {"vector"} - OF_JAX <= set(SINGLE)
    assert set(vector.__all__) - OF_JAX <= set(VECTOR)
