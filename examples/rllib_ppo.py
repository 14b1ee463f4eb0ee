"""Ray RLlib on a denoising chain: an RLModule around the diffusion policy, PPO with two workers.

    pip install -e '.[rllib]'
    python examples/rllib_ppo.py

It pretrains DiffRec on the embedded data set (or loads a checkpoint), fine-tunes it by RLlib's PPO (the new
API stack), and prints the test NDCG@20 before and after. Letters: B states in a batch, D size of the
diffused vector, T steps.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics

import gymnasium as gym
import ray
import torch
import tyro
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from agents import PretrainConfig, pretrain
from refit_env.data import Dataset
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


class FixedStdGaussian(TorchDiagGaussian):
    """N(loc, scale^2 I), one standard deviation per state; log-probability, KL and entropy are means over D.

    With sums over thousands of items every PPO ratio would leave its clip range at the first step.
    """

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: Any) -> FixedStdGaussian:
        """Build the distribution from (B, D + 1): the mean, and the logarithm of the standard deviation."""
        return cls(loc=logits[..., :-1], scale=logits[..., -1:].exp().expand_as(logits[..., :-1]))

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Return the log-density (B,), divided by D."""
        out: Tensor = super().logp(value) / self.loc.shape[-1]
        return out

    def entropy(self) -> Tensor:
        """Return the entropy (B,), divided by D; constant, because the standard deviation is the chain's."""
        out: Tensor = super().entropy() / self.loc.shape[-1]
        return out

    def kl(self, other: FixedStdGaussian) -> Tensor:
        """Return the KL divergence (B,), divided by D."""
        out: Tensor = super().kl(other) / self.loc.shape[-1]
        return out


class DiffusionModule(TorchRLModule, ValueFunctionAPI):
    """The pretrained diffusion policy as actor, a small network as critic.

    ``model_config={"checkpoint": FOLDER}`` names the run folder, which every worker loads.
    """

    def setup(self) -> None:
        """Load the policy and build the critic.

        Raises:
            ValueError: if the policy does not fit the environment's spaces.
        """
        self.policy = DiffusionPolicy.load(self.model_config["checkpoint"])
        check_fit(self.policy, self.observation_space, self.model_config["checkpoint"])
        self.critic = nn.Sequential(nn.Linear(self.policy.backbone.dim + 1, 64), nn.Tanh(), nn.Linear(64, 1))
        self.action_dist_cls = FixedStdGaussian

    def train(self, mode: bool = True) -> DiffusionModule:
        """Set the mode of the critic only: with dropout, samples and log-probabilities would not agree."""
        super().train(mode)
        self.policy.eval()
        return self

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the distribution's inputs (B, D + 1)."""
        t, u = batch[Columns.OBS]["t"], batch[Columns.OBS]["u"]  # (B, 1), (B, D)
        step = t.squeeze(-1).long().clamp(max=self.policy.num_steps - 1)  # (B,) RLlib appends the last state
        std = self.policy.step_std(step)  # (B, 1)
        return {Columns.ACTION_DIST_INPUTS: torch.cat([self.policy.mean(u, step), std.log()], -1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Return the expected terminal reward (B,); the vector identifies the user."""
        t, u = batch[Columns.OBS]["t"], batch[Columns.OBS]["u"]  # (B, 1), (B, D)
        values: Tensor = self.critic(torch.cat([t / self.policy.num_steps, u], -1)).squeeze(-1)
        return values


class TwoRates(PPOTorchLearner):
    """PPO's learner with a separate learning rate for the critic, which is not pretrained."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register Adam for the policy with the configured rate, and Adam for the critic with 1e-3."""
        module = self.module[module_id].unwrapped()
        for name, part, rate in (("policy", module.policy, config.lr), ("critic", module.critic, 1e-3)):
            parameters = list(part.parameters())
            optimizer = torch.optim.Adam(parameters)
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=optimizer,
                params=parameters,
                lr_or_lr_schedule=rate,
            )


def check_fit(policy: DiffusionPolicy, space: Any, checkpoint: Any) -> None:
    """Raise an error for a policy with another number of items or another chain length.

    Raises:
        ValueError: naming both sides.
    """
    dim, steps = space["u"].shape[0], int(space["t"].high[0])
    if (policy.backbone.dim, policy.num_steps) != (dim, steps):
        raise ValueError(
            f"checkpoint {checkpoint} diffuses {policy.backbone.dim} numbers in {policy.num_steps} steps, "
            f"the environment {dim} in {steps}: pretrain for this environment, or pass its num_steps"
        )


def make_env(config: dict[str, Any]) -> gym.Env[Any, Any]:
    """Make the environment in a worker, where refit_env must be imported to register its ids."""
    import refit_env  # noqa: F401

    settings = dict(config)
    return gym.make(settings.pop("id"), **settings)


def make_config(env_id: str, checkpoint: Path | str, seed: int = 0, **env_kwargs: Any) -> PPOConfig:
    """Return the configuration of PPO with two workers, with the checkpoint's policy as actor.

    Raises:
        ValueError: if the checkpoint does not fit the environment; no worker has been started.
    """
    policy = DiffusionPolicy.load(checkpoint)
    settings = {"id": env_id, "num_steps": policy.num_steps} | env_kwargs
    check_fit(policy, make_env(settings).observation_space, checkpoint)
    tune.register_env(env_id, make_env)
    return (
        PPOConfig()
        .environment(
            env_id,
            env_config=settings,
            normalize_actions=False,  # otherwise RLlib would scale the vectors to the bounds
            clip_actions=False,  # the environment accepts actions beyond its bounds of five deviations
        )
        .env_runners(num_env_runners=2, num_envs_per_env_runner=16, batch_mode="complete_episodes")
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=DiffusionModule, model_config={"checkpoint": str(Path(checkpoint).resolve())}
            )
        )
        .learners(num_learners=0, learner_class=TwoRates)
        .training(
            gamma=1.0,  # the only reward is at the end
            lambda_=1.0,
            lr=2e-5,
            train_batch_size_per_learner=512 * policy.num_steps,
            minibatch_size=128 * policy.num_steps,
            num_epochs=1,
            clip_param=0.01,
            use_kl_loss=False,
            entropy_coeff=0.0,
        )
        .debugging(seed=seed)
    )


def train(config: PPOConfig, iterations: int) -> DiffusionPolicy:
    """Run RLlib on two CPUs, without its dashboard, and return the fine-tuned policy."""
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        algorithm = config.build_algo()
        for iteration in range(iterations):
            found = algorithm.train()
            print(f"iteration {iteration:3d}  reward {found['env_runners']['episode_return_mean']:.4f}")
        policy: DiffusionPolicy = algorithm.get_module().policy
        algorithm.stop()
    finally:
        ray.shutdown()
    return policy


def ndcg(policy: DiffusionPolicy, data: Dataset) -> float:
    """Return the test NDCG@20 of the noise-free chain, by full ranking."""
    return evaluate(policy.scorer(data), data, "test").means()["ndcg@20"]


def main(
    env_id: str = "ReFiT-Synthetic-v0",
    checkpoint: Path | str | None = None,
    iterations: int = 20,
    epochs: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Fine-tune a pretrained policy, and return the test NDCG@20 before and after.

    Args:
        env_id: the environment.
        checkpoint: run folder of ``refit pretrain``; without it, DiffRec is pretrained first.
        iterations: number of batches of 512 episodes.
        epochs: most epochs of the pretraining.
        seed: seed of the pretraining and of RLlib.
    """
    env: Any = make_env({"id": env_id}).unwrapped
    data = env.problem.dataset
    if checkpoint is None:
        checkpoint = tempfile.mkdtemp(prefix="refit-pretrained-")
        trained = pretrain(data, config=PretrainConfig(epochs=epochs), seed=seed, device="cpu")
        DiffusionPolicy(trained.backbone, num_steps=4).save(checkpoint, data)
    config = make_config(env_id, checkpoint, seed)
    before = ndcg(DiffusionPolicy.load(checkpoint), data)
    after = ndcg(train(config, iterations), data)
    print(f"test NDCG@20: {before:.4f} -> {after:.4f}")
    return before, after


if __name__ == "__main__":
    tyro.cli(main)
