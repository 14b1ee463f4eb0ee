"""Fine-tunes a diffusion recommender with Stable-Baselines3's PPO; the main lines are in ``fine_tune``.

    python examples/sb3_ppo.py                                         # the embedded data set
    refit pretrain --env ReFiT-ML1M-v0 --out runs/elbo
    python examples/sb3_ppo.py --env-id ReFiT-ML1M-v0 --run runs/elbo  # your run

It prints the test NDCG@20 before and after 50 updates, of the weights that validation selected and of the
last weights, and checks that a loaded model equals the saved one. SB3's ``PPO.load`` can unpickle objects,
which runs code of the file: load only files that you trust.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from stable_baselines3 import PPO

import refit_env  # noqa: F401  # registers the environments
from agents import PretrainConfig, pretrain
from agents.sb3 import (
    DiffusionActorCriticPolicy,
    LeaveOneOutRolloutBuffer,
    RankingEvalCallback,
    evaluate_model,
    to_sb3_vec_env,
)
from refit_env.data import load_dataset
from refit_env.envs.wrappers.vector import GroupedUsers
from refit_env.policy import DiffusionPolicy

GROUP = 8
"""Chains of each user; an advantage is a chain's reward minus the mean of the seven others."""

LEARNING_RATE = 5e-5
"""Learning rate of the actor, chosen on validation; with three times this, ML-1M degrades after ten
updates."""


def fine_tune(
    env_id: str, run: str, updates: int, num_envs: int, seed: int
) -> tuple[PPO, RankingEvalCallback]:
    """Train PPO: an update is one gradient step on ``num_envs`` chains of four denoising steps."""
    envs = gym.make_vec(env_id, num_envs=num_envs, reward="ndcg", autoreset_mode="Disabled")
    model = PPO(
        DiffusionActorCriticPolicy,
        to_sb3_vec_env(GroupedUsers(envs, group_size=GROUP)),
        policy_kwargs={"actor": {"run": run}},
        rollout_buffer_class=LeaveOneOutRolloutBuffer,
        rollout_buffer_kwargs={"group_size": GROUP},
        n_steps=4,
        batch_size=4 * num_envs,
        n_epochs=1,  # one step on the whole rollout: ratios are 1, nothing is clipped
        gamma=1.0,
        gae_lambda=1.0,
        learning_rate=LEARNING_RATE,
        max_grad_norm=10.0,
        seed=seed,
        device="cpu",
    )
    callback = RankingEvalCallback(eval_freq=10 * 4 * num_envs)
    return model.learn(updates * 4 * num_envs, callback=callback), callback


def main(
    env_id: str = "ReFiT-Synthetic-v0",
    run: str | None = None,
    updates: int = 50,
    num_envs: int = 512,
    epochs: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """Fine-tune, and return the test NDCG@20 ``before``, ``after`` (selected weights) and ``last``.

    Args:
        env_id: the environment.
        run: run folder of ``refit pretrain``; without it, DiffRec is pretrained first.
        updates: number of PPO updates.
        num_envs: chains of an update.
        epochs: most epochs of the pretraining.
        seed: seed of the pretraining and of PPO.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if run is None:
            run = str(Path(scratch) / "elbo")
            trained = pretrain(load_dataset("synthetic"), config=PretrainConfig(epochs=epochs), seed=seed)
            DiffusionPolicy(trained.backbone, num_steps=4).save(run)
        model, callback = fine_tune(env_id, run, updates, num_envs, seed)
        found = {"last": evaluate_model(model).means()["ndcg@20"]}
        callback.load_best()
        found["after"] = evaluate_model(model).means()["ndcg@20"]
        observation: Any = model.get_env().reset()  # type: ignore[union-attr]
        model.save(Path(scratch) / "ppo")
        loaded = PPO.load(Path(scratch) / "ppo", device="cpu")
        saved, read = (each.predict(observation, deterministic=True)[0] for each in (model, loaded))
        assert np.array_equal(saved, read)
        model.policy.actor.backbone.load_state_dict(DiffusionPolicy.load(run).backbone.state_dict())  # type: ignore[union-attr]
        found["before"] = evaluate_model(model).means()["ndcg@20"]
    values = [round(row["valid/ndcg@20"], 4) for row in callback.history]
    print(f"validation NDCG@20: {values}")
    print(f"test NDCG@20: {found['before']:.4f} -> {found['after']:.4f} (last weights: {found['last']:.4f})")
    return found


if __name__ == "__main__":
    tyro.cli(main)
