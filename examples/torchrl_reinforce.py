"""TorchRL on the batched environment: ``GymWrapper``, a probabilistic actor, ``GAE`` and ``ReinforceLoss``.

    pip install -e '.[torchrl]'
    python examples/torchrl_reinforce.py

It pretrains DiffRec on the embedded data set (or loads a checkpoint), fine-tunes it with TorchRL's loss and
value estimator, and prints the test NDCG@20 before and after. Letters: N episodes in a batch, D size of the
diffused vector, T steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import tyro
from tensordict.nn import InteractionType, TensorDictModule
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ReinforceLoss
from torchrl.objectives.value import GAE

import refit_env  # noqa: F401  # registers the environments
from agents import PretrainConfig, pretrain
from refit_env.data import Dataset
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


class MeanGaussian(Independent[Normal]):
    """N(loc, scale^2 I) whose log-probability is divided by D, so that one learning rate fits any D."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        """Create the distribution from ``loc`` (..., D) and ``scale`` (..., 1)."""
        super().__init__(Normal(loc, scale.expand_as(loc), validate_args=False), 1, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the mean over D of the log-densities (...)."""
        total: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]  # of torch
        return total / value.shape[-1]


class Chain(nn.Module):
    """The diffusion policy as a map from observations to the parameters of the distribution."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Store the policy, whose weights are trained."""
        super().__init__()
        self.policy = policy.eval()  # no dropout: samples and log-probabilities must use the same network

    def forward(self, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (N, D) and standard deviation (N, 1) of the next vectors for t (N, 1), u (N, D)."""
        step = t.squeeze(-1).long()  # (N,)
        return self.policy.mean(u, step), self.policy.step_std(step)


class Critic(nn.Module):
    """The expected terminal reward of a state; the vector identifies the user."""

    def __init__(self, dim: int, num_steps: int) -> None:
        """Build a network of one hidden layer on D = ``dim`` numbers and the step."""
        super().__init__()
        self.num_steps = num_steps
        self.net = nn.Sequential(nn.Linear(dim + 1, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        """Return values (..., 1)."""
        out: Tensor = self.net(torch.cat([t / self.num_steps, u], -1))
        return out


def make_env(env_id: str, num_envs: int, policy: DiffusionPolicy, **kwargs: Any) -> GymWrapper:
    """Make the batched environment of the policy's chain for TorchRL.

    TorchRL resets by masks, which is Gymnasium's mode ``Disabled``; its support of the other mode,
    ``SameStep``, expects the same infos at every step and loses the last observation of ``Dict`` spaces.

    Raises:
        ValueError: if the policy has another number of items.
    """
    env: Any = gym.make_vec(
        env_id,
        num_envs=num_envs,
        num_steps=policy.num_steps,
        backend="torch",
        autoreset_mode="Disabled",
        **kwargs,
    )
    policy.scorer(env.problem.dataset)  # raises an error for another number of items
    return GymWrapper(env, device="cpu")


def make_actor(policy: DiffusionPolicy, env: GymWrapper) -> ProbabilisticActor:
    """Return the policy as a TorchRL actor: (t, u) -> (loc, scale) -> action."""
    return ProbabilisticActor(
        TensorDictModule(Chain(policy), in_keys=["t", "u"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        out_keys=["action"],
        spec=env.action_spec,
        distribution_class=MeanGaussian,
        default_interaction_type=InteractionType.RANDOM,  # TorchRL's default is the mean
        return_log_prob=True,
    )


def train(policy: DiffusionPolicy, env: GymWrapper, iterations: int, learning_rate: float) -> list[float]:
    """Fine-tune the policy in place, and return each iteration's mean reward."""
    actor = make_actor(policy, env)
    critic = ValueOperator(Critic(env.action_spec.shape[-1], policy.num_steps), in_keys=["t", "u"])
    advantage = GAE(gamma=1.0, lmbda=1.0, value_network=critic, average_gae=True)  # one reward, at the end
    loss_module = ReinforceLoss(actor, critic)
    optimizer = torch.optim.Adam(
        [
            {"params": policy.parameters(), "lr": learning_rate},
            {"params": critic.parameters(), "lr": 1e-3},
        ]
    )
    rewards = []
    for iteration in range(iterations):
        with torch.no_grad():
            chains = env.rollout(policy.num_steps, actor, break_when_any_done=False)  # N x T whole episodes
            advantage(chains)
        losses = loss_module(chains.reshape(-1))
        optimizer.zero_grad()
        (losses["loss_actor"] + losses["loss_value"]).backward()
        optimizer.step()
        rewards.append(float(chains["next", "reward"].sum(1).mean()))
        if iteration % 20 == 0:
            print(f"iteration {iteration:3d}  reward {rewards[-1]:.4f}")
    return rewards


def ndcg(policy: DiffusionPolicy, data: Dataset) -> float:
    """Return the test NDCG@20 of the noise-free chain, by full ranking."""
    return evaluate(policy.scorer(data), data, "test").means()["ndcg@20"]


def main(
    env_id: str = "ReFiT-Synthetic-v0",
    checkpoint: Path | str | None = None,
    iterations: int = 100,
    num_envs: int = 512,
    learning_rate: float = 2e-5,
    epochs: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Fine-tune a pretrained policy, and return the test NDCG@20 before and after.

    Args:
        env_id: the environment.
        checkpoint: run folder of ``refit pretrain``; without it, DiffRec is pretrained first.
        iterations: number of updates.
        num_envs: N.
        learning_rate: learning rate of the policy.
        epochs: most epochs of the pretraining.
        seed: seed of the pretraining, the users and the noise.
    """
    torch.manual_seed(seed)
    if checkpoint is None:
        single: Any = gym.make(env_id).unwrapped
        data = single.problem.dataset
        trained = pretrain(data, config=PretrainConfig(epochs=epochs), seed=seed, device="cpu")
        policy = DiffusionPolicy(trained.backbone, num_steps=4)
    else:
        policy = DiffusionPolicy.load(checkpoint)
    env = make_env(env_id, num_envs, policy)
    env.set_seed(seed)
    data = env.problem.dataset
    before = ndcg(policy, data)
    train(policy, env, iterations, learning_rate)
    after = ndcg(policy, data)
    print(f"test NDCG@20: {before:.4f} -> {after:.4f}")
    return before, after


if __name__ == "__main__":
    tyro.cli(main)
