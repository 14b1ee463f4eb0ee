"""Evolution strategies on the output layer (OpenAI-ES, arXiv 1703.03864).

No gradient of the network is computed: parameters are perturbed, chains are run, and the parameters move in
the direction of the perturbations with high rewards:

    theta <- theta + lr * Adam( 1 / (n sigma) sum_j f(theta + sigma e_j) e_j ),

with antithetic perturbations (e, -e), fitnesses f shaped by their ranks, and common random numbers: the
members of a population are evaluated on the same users (and, where the chain is noisy, the same noise). theta
are the r * r + r numbers of ``agents.training.output_subspace``, so a member costs little more than its
chains, and the result is an ordinary policy.

With one block, all members run all users of the batch and a fitness is a mean over them. With more blocks,
the users are divided among blocks with perturbations of their own: fewer users for a fitness, but more
directions for the same number of chains. The estimate is a mean over users and directions of f e, and its
variance falls with the number of independent pairs; so by default each user is a block.

Letters: B users in the batch, G members (= episodes of a user), N = B * G, E blocks, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents.algorithms.configs import ESConfig
from agents.gradients.episodes import Rollout
from agents.rollouts.rollout import Noise
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from agents.training.output_subspace import OutputSubspace, output_subspace
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.policy import DiffusionPolicy


def centred_ranks(fitness: Tensor) -> Tensor:
    """Ranks over all entries, scaled to -1/2 .. 1/2; equal fitnesses share theirs, so ties decide nothing.

    Example:
        >>> centred_ranks(torch.tensor([[3.0, 1.0, 1.0]])).tolist()
        [[0.5, -0.25, -0.25]]
    """
    flat = fitness.flatten().contiguous()
    ordered = flat.sort().values
    below = torch.searchsorted(ordered, flat)  # how many are less
    upto = torch.searchsorted(ordered, flat, right=True)  # how many are not more
    rank = (below + upto - 1) / 2  # 0 .. n - 1
    return (rank / max(flat.numel() - 1, 1) - 0.5).view_as(fitness)


def centred(fitness: Tensor) -> Tensor:
    """Return the fitnesses less their mean, over their deviation; zeros if they are all alike."""
    away = fitness - fitness.mean()
    return away / away.std().clamp(min=1e-8)


SHAPES = {"ranks": centred_ranks, "centred": centred}
"""Name of ``ESConfig.shaping`` -> the function that shapes the rewards."""


class EvolutionStrategy(FineTuner):
    """Antithetic evolution strategies with rank-shaped fitness.

    Example:
        >>> from agents import EvolutionStrategy
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> EvolutionStrategy(policy, "ReFiT-ML1M-v0").learn("runs/finetuned")  # doctest: +SKIP
    """

    name: ClassVar[str] = "es"
    config_class: ClassVar[type[TrainerConfig]] = ESConfig
    maximize: ClassVar[bool] = True  # the estimate is the fitness's gradient
    config: ESConfig

    def __init__(
        self,
        policy: DiffusionPolicy,
        env: str | DenoisingVectorEnv,
        config: TrainerConfig | None = None,
        **kwargs: Any,
    ) -> None:
        """Prepare; arguments as in ``FineTuner``.

        Raises:
            ValueError: for a wrong setting, a backbone without a linear output layer, a rank that it has not.
        """
        super().__init__(policy, env, config, **kwargs)
        rank = self.config.rank
        self.subspace = output_subspace(self.policy, self.env.problem, rank, self.config.basis)
        self.matrix = nn.Parameter(torch.zeros(rank, rank, device=self.device))  # M
        self.shift = nn.Parameter(torch.zeros(rank, device=self.device))  # m
        self.optimizer = torch.optim.Adam(
            [self.matrix, self.shift], self.config.learning_rate, maximize=self.maximize, fused=True
        )

    @torch.no_grad()
    def update(self, users: Tensor) -> dict[str, float]:
        """Perturb, run the population's chains, and follow the estimated gradient."""
        config = self.config
        blocks = config.blocks or users.numel()  # E
        block = torch.arange(users.numel(), device=self.device) * blocks // users.numel()  # (B,)
        directions = self._directions(blocks)  # (E, G, r, r + 1)
        rollout = self._run(users, directions[block].flatten(0, 1))
        fitness = block_means(rollout.reward.view(users.numel(), -1), block, blocks)  # (E, G)
        shaped = SHAPES[config.shaping](fitness - fitness.mean(1, keepdim=True))  # (E, G)
        shaped /= shaped.numel() * config.sigma
        slope = torch.einsum("eg,egij->ij", shaped, directions)  # (r, r + 1)
        self.matrix.grad, self.shift.grad = slope[:, :-1].contiguous(), slope[:, -1].contiguous()
        norm = self.take_step()
        layer, pretrained = self.policy.backbone.output_layer, self.reference.backbone.output_layer
        self.subspace.fold(layer, pretrained, self.matrix, self.shift)
        return rollout.scalars(self.env.problem.num_items) | {
            "train/gradient_norm": norm,
            "train/theta_norm": math.hypot(float(self.matrix.norm()), float(self.shift.norm())),
            "train/fitness_std": float(fitness.std(1).mean()),
        }

    def _directions(self, blocks: int) -> Tensor:
        """Return (E, G, r, r + 1) standard normal, half of each population the other half's mirror image."""
        rank, half = self.config.rank, self.config.samples_per_user // 2
        shape = (blocks, half, rank, rank + 1)
        drawn = torch.randn(shape, generator=self.noise_generator, device=self.device)
        return torch.cat([drawn, -drawn], 1)

    def _run(self, users: Tensor, directions: Tensor) -> Rollout:
        """Return the chains of ``users`` (B,) under theta + sigma * ``directions`` (N, r, r + 1)."""
        moved = self.config.sigma * directions  # (N, r, r + 1); the weights hold theta already
        layer = self.policy.backbone.output_layer
        with self.subspace.shifted(layer, moved[:, :, :-1], moved[:, :, -1]):
            noise = Noise.OF_USER if self.config.noisy else Noise.NONE
            return self.roll_out(users, noise=noise, share_first=False)  # an episode each member

    # ------------------------------------------------------------------ checkpoint

    def own_tensors(self) -> dict[str, Tensor]:
        """Theta and its subspace."""
        theta = {"matrix": self.matrix.detach(), "shift": self.shift.detach()}
        return theta | vars(self.subspace)

    def take_own_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        with torch.no_grad():
            self.matrix.copy_(tensors["matrix"])
            self.shift.copy_(tensors["shift"])
        names = ("left", "right", "centre")
        self.subspace = OutputSubspace(*(tensors[name].to(self.device) for name in names))


def block_means(reward: Tensor, block: Tensor, blocks: int) -> Tensor:
    """Return the mean rewards (E, G) of a block's members, from rewards (B, G) and users' blocks (B,)."""
    total = reward.new_zeros(blocks, reward.shape[1]).index_add(0, block, reward)  # (E, G)
    return total / torch.bincount(block, minlength=blocks)[:, None]
