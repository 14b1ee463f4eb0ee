"""REINFORCE on a denoising chain in one file, in the style of CleanRL: the whole algorithm is visible.

    python examples/cleanrl_reinforce.py --env-id ReFiT-Synthetic-v0 --seed 1
    tensorboard --logdir runs

This file contains the policy's mean and standard deviation, the log-probability, the advantage, the loop, the
logs and the selection, on ``gym.make_vec`` and a pretrained network. ``agents.algorithms.reinforce`` with the
preset ``score`` is the library's version of the same algorithm: with the same seed both draw the same users
and the same noise, and a test compares their rewards number by number.

Letters: B users in a batch, G episodes of each, N = B * G, D size of the diffused vector, T steps.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import refit_env  # noqa: F401  # registers the environments
from agents import PretrainConfig, pretrain
from refit_env.backbones import Backbone
from refit_env.data import Dataset
from refit_env.data.rows import SparseRows
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


@dataclass
class Args:
    """REINFORCE with a leave-one-out baseline. Each field is an option of the command line."""

    exp_name: str = "cleanrl_reinforce"
    """Name of the experiment, part of the folder's name."""
    seed: int = 1
    """Seed of the pretrained weights, the users and the noise."""
    torch_deterministic: bool = True
    """Whether PyTorch may only use deterministic algorithms of cuDNN."""
    device: str = "cpu"
    """Device of the network and the environments: ``cpu``, ``cuda`` ..."""
    runs: Path = Path("runs")
    """Folder for TensorBoard's files; each run has a subfolder."""

    env_id: str = "ReFiT-Synthetic-v0"
    """The environment."""
    checkpoint: Path | None = None
    """Run folder of ``refit pretrain`` to start from; without it, DiffRec is pretrained first."""
    pretrain_epochs: int = 200
    """Most epochs of that pretraining (it stops early)."""
    num_steps: int = 4
    """T, the length of an episode: the denoising chain is respaced to it."""
    reward: str = "racs"
    """Reward by name."""

    iterations: int = 300
    """Updates of the weights."""
    users_per_batch: int = 64
    """Users in a batch."""
    samples_per_user: int = 16
    """Episodes of each user in a batch; the mean reward of the others is the baseline, so at least 2."""
    learning_rate: float = 2e-5
    """Learning rate of Adam."""
    exploration_std: float = 0.05
    """Floor of the policy's standard deviation, in units of the scores."""
    eval_every: int = 25
    """Iterations between two validations; the best weights are selected."""


@dataclass
class Result:
    """The result of a run."""

    before: float
    """Test NDCG@20 of the pretrained network."""
    after: float
    """Test NDCG@20 of the weights that validation selected."""
    rewards: list[float]
    """Mean reward of each iteration's episodes."""
    actor: Actor
    """The policy with the selected weights."""


class Actor(nn.Module):
    """pi(a | s_t) = N(mean(u, t), std_t^2 I): the network's x0 prediction, mixed with u as in DDPM, Eq. 7."""

    def __init__(self, network: Backbone, num_steps: int, exploration_std: float) -> None:
        """Respace the network's noise schedule to T = ``num_steps`` and tabulate the posterior."""
        super().__init__()
        self.network, self.num_steps = network, num_steps
        betas = network.diffusion.betas
        kept = np.round(np.linspace(0, len(betas) - 1, num_steps)).astype(int)  # (T,) evenly spaced steps
        abar = np.cumprod(1.0 - betas)[kept]  # (T,) remaining share of the signal's variance
        before = np.append(1.0, abar[:-1])  # (T,) the same one step earlier
        beta = 1.0 - abar / before  # (T,) betas of the respaced chain
        self.timesteps = [int(k) for k in kept]  # the network's timestep inputs
        self.weight_x0 = beta * np.sqrt(before) / (1.0 - abar)  # (T,)
        self.weight_u = (1.0 - before) * np.sqrt(1.0 - beta) / (1.0 - abar)  # (T,)
        std = np.sqrt(beta * (1.0 - before) / (1.0 - abar))  # (T,) the posterior's
        std[0] = std[min(1, num_steps - 1)]  # 0 at the last step would have no density: use its neighbour's
        self.std = np.maximum(std, exploration_std)  # (T,) too little noise never changes a top-K list

    def mean(self, u: Tensor, t: int) -> Tensor:
        """Return the mean of the next vector (N, D) in state (t, u); the step k counts backwards."""
        k = self.num_steps - 1 - t
        x0 = self.network.predict_x0(u, self.timesteps[k])  # (N, D)
        return float(self.weight_x0[k]) * x0 + float(self.weight_u[k]) * u

    def step_std(self, t: int) -> float:
        """Return the standard deviation of the next vector at step t."""
        return float(np.float32(self.std[self.num_steps - 1 - t]))

    def log_prob(self, action: Tensor, mean: Tensor, t: int) -> Tensor:
        """Return the log-density (N,) of the actions, divided by D so that one learning rate fits any D."""
        std = self.step_std(t)
        z = (action - mean) / std  # (N, D)
        return (-0.5 * z.square() - math.log(std) - 0.5 * math.log(2 * math.pi)).mean(1)

    @torch.no_grad()
    def denoise(self, u: Tensor) -> Tensor:
        """Return u_0 (N, D) of the noise-free chain from u_T, for evaluation."""
        for t in range(self.num_steps):
            u = self.mean(u, t)  # (N, D)
        return u


def leave_one_out(reward: Tensor) -> Tensor:
    """Return each episode's reward (B, G) minus the mean of the same user's other episodes."""
    others = (reward.sum(1, keepdim=True) - reward) / (reward.shape[1] - 1)  # (B, G)
    return reward - others


def ndcg(actor: Actor, data: Dataset, split: str) -> float:
    """Return the NDCG@20 by full ranking; the user's train items are the input and are masked."""
    device = next(actor.parameters()).device
    rows = SparseRows(data.train.csr, device)
    scores = evaluate(lambda users: actor.denoise(rows.dense(users)), data, split, device=device)
    return scores.means()["ndcg@20"]


def load_network(args: Args, data: Dataset) -> Backbone:
    """Return the pretrained network: the checkpoint's, or one that is trained now.

    Raises:
        CheckpointError: if the folder holds no complete checkpoint.
        ValueError: if the network has another number of items, or its chains do not start from the history.
    """
    if args.checkpoint is None:
        config = PretrainConfig(epochs=args.pretrain_epochs)
        return pretrain(data, config=config, seed=args.seed, device=args.device).backbone
    network = DiffusionPolicy.load(args.checkpoint, args.device).backbone
    if network.num_items != data.num_items:
        raise ValueError(
            f"checkpoint {args.checkpoint} ranks {network.num_items} items, "
            f"{args.env_id} has {data.num_items}"
        )
    if network.dim != network.num_items or network.conditional:
        raise ValueError(f"checkpoint {args.checkpoint} is of {network.name!r}; this file needs u_0 = scores")
    return network


def main(args: Args) -> Result:
    """Train, and return the test NDCG@20 before and after, and the rewards."""
    run = args.runs / f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}"
    writer = SummaryWriter(str(run))
    table = "\n".join(f"|{name}|{value}|" for name, value in asdict(args).items())
    writer.add_text("hyperparameters", f"|param|value|\n|-|-|\n{table}")

    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    user_generator = torch.Generator().manual_seed(args.seed)
    noise_generator = torch.Generator(args.device).manual_seed(args.seed + 1)

    batch, group = args.users_per_batch, args.samples_per_user
    if group < 2:
        raise ValueError(f"samples_per_user={group} must be at least 2: the other episodes are the baseline")
    env: Any = gym.make_vec(
        args.env_id,
        num_envs=batch * group,
        num_steps=args.num_steps,
        reward=args.reward,
        backend="torch",
        device=args.device,
    )
    data, everyone = env.problem.dataset, torch.as_tensor(env.problem.users)
    if batch > len(everyone):
        raise ValueError(f"users_per_batch={batch}: {args.env_id} has {len(everyone)} users to draw from")

    actor = Actor(load_network(args, data), args.num_steps, args.exploration_std).to(args.device)
    actor.eval()  # no dropout: samples and log-probabilities must use the same network
    optimizer = torch.optim.Adam(actor.parameters(), lr=args.learning_rate)
    before = ndcg(actor, data, "test")
    best, best_weights = ndcg(actor, data, "valid"), copy.deepcopy(actor.state_dict())
    writer.add_scalar("valid/ndcg@20", best, 0)
    rewards: list[float] = []
    start = time.time()

    for iteration in range(1, args.iterations + 1):
        # One episode in each sub-environment is the chain of a user, from the history to the scores.
        users = everyone[torch.randperm(len(everyone), generator=user_generator)[:batch]]  # (B,)
        obs, _ = env.reset(options={"user": users.repeat_interleave(group)})
        log_prob = torch.zeros(batch * group, device=args.device)  # (N,) summed over the chain
        for t in range(args.num_steps):
            mean = actor.mean(obs["u"], t)  # (N, D)
            noise = torch.randn(mean.shape, generator=noise_generator, device=args.device)  # (N, D)
            action = mean.detach() + actor.step_std(t) * noise  # (N, D)
            log_prob = log_prob + actor.log_prob(action, mean, t)
            obs, reward, _, _, _ = env.step(action)  # 0 before the last step

        # grad J = E[ sum_t grad log pi(a_t | s_t) * A ]
        advantage = leave_one_out(reward.view(batch, group)).flatten()  # (N,)
        loss = -(advantage * log_prob).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        rewards.append(float(reward.mean()))
        writer.add_scalar("charts/episodic_return", rewards[-1], iteration)
        writer.add_scalar("losses/policy_loss", loss.item(), iteration)
        steps = iteration * batch * group * args.num_steps
        writer.add_scalar("charts/SPS", int(steps / (time.time() - start)), iteration)
        if iteration % args.eval_every == 0 or iteration == args.iterations:
            value = ndcg(actor, data, "valid")
            writer.add_scalar("valid/ndcg@20", value, iteration)
            print(f"iteration {iteration:4d}  reward {rewards[-1]:.4f}  valid NDCG@20 {value:.4f}")
            if value > best:
                best, best_weights = value, copy.deepcopy(actor.state_dict())

    actor.load_state_dict(best_weights)
    after = ndcg(actor, data, "test")
    writer.add_scalar("test/ndcg@20", after, args.iterations)
    writer.close()
    env.close()
    print(f"test NDCG@20: {before:.4f} -> {after:.4f}")
    return Result(before, after, rewards, actor)


if __name__ == "__main__":
    main(tyro.cli(Args))
