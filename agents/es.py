"""Evolution strategies on the output layer, in a subspace small enough to search (OpenAI-ES, 1703.03864).

No gradient of the network is taken: parameters are perturbed, chains are run, and what earned more is
approached:

    theta <- theta + lr * Adam( 1 / (n sigma) sum_j f(theta + sigma e_j) e_j ),

with antithetic perturbations (e, -e), fitnesses f shaped by their ranks, and common random numbers: all
members are judged on the same users (and, where the chain is noisy, the same noise). An output layer of a
hundred thousand to millions of weights is far too many to search, so theta = (M, m) moves it in a subspace of
r * r + r numbers,

    W = W0 + A M B^T,    b = b0 + A (m - M c),

in words: the hidden units are read off in r directions, z = B^T h - c, and the scores move by A (M z + m)
along r directions of the catalogue. A holds the leading item factors of the train rows, or left singular
vectors of W0, scaled so that a number of theta counts in units of the scores; B and c whiten the hidden units
over users. A member costs one product of rank r on top of the shared W0 h, and the best theta folds into an
ordinary checkpoint.

With one block, all members run all users of the batch and a fitness is a mean over them. With more, the users
are dealt out to blocks that have perturbations of their own: fewer users a fitness, but more directions seen
for the same number of chains.

Letters: B users in the batch, G members (= episodes of a user), N = B * G, E blocks, r rank, H hidden units,
D size of the diffused vector, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents.config import TrainerConfig
from agents.rollout import Rollout, roll_out
from agents.trainer import FineTuner
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.errors import unknown_name
from refit_env.factors import item_factors
from refit_env.policy import DiffusionPolicy

BASES = ("factors", "weights")
"""Names for ``ESConfig.basis``."""

SHAPINGS = ("ranks", "centred")
"""Names for ``ESConfig.shaping``."""

CALIBRATION_USERS = 512
"""Users over whom the hidden units are whitened."""


@dataclass(frozen=True)
class ESConfig(TrainerConfig):
    """Evolution strategies. Defaults: measured best on validation, see docs/results.md."""

    samples_per_user: int = 8
    """Members of the population, half of them the others' mirror images; each runs its users once."""
    blocks: int = 0
    """Parts of the batch whose users see perturbations of their own; 1 is OpenAI-ES, 0 makes a user one."""
    rank: int = 8
    """r: theta has r * r + r numbers."""
    sigma: float = 0.02
    """Standard deviation of the perturbations, in units of the scores."""
    basis: str = "factors"
    """Directions of the catalogue: ``factors`` of the train rows, or singular vectors of the ``weights``."""
    shaping: str = "ranks"
    """What a fitness counts: ``ranks`` in -1/2 .. 1/2, or ``centred``, less its mean over its deviation."""
    noisy: bool = False
    """Judge the chain with its noise (a member's users share it) instead of the noise-free one."""
    learning_rate: float = 0.005
    """Adam's step size, in units of the scores."""


class EvolutionStrategy(FineTuner):
    """Antithetic evolution strategies with rank-shaped fitness.

    Example:
        >>> from agents.es import EvolutionStrategy, ESConfig
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
        _check(self.config, len(self.env.problem.users))
        rank = self.config.rank
        self.left = self._left()  # A (D, r)
        self.right, self.centre = self._reading()  # B (H, r), c (r,)
        self.matrix = nn.Parameter(torch.zeros(rank, rank, device=self.device))  # M
        self.shift = nn.Parameter(torch.zeros(rank, device=self.device))  # m
        self.optimizer = torch.optim.Adam(
            [self.matrix, self.shift], self.config.learning_rate, maximize=self.maximize, fused=True
        )

    @torch.no_grad()
    def update(self, users: Tensor) -> dict[str, float]:
        """Perturb, run the population's chains, climb the estimated gradient."""
        config = self.config
        blocks = config.blocks or users.numel()  # E
        block = torch.arange(users.numel(), device=self.device) * blocks // users.numel()  # (B,)
        directions = self._directions(blocks)  # (E, G, r, r + 1)
        rollout = self._run(users, directions[block].flatten(0, 1))
        fitness = block_means(rollout.reward.view(users.numel(), -1), block, blocks)  # (E, G)
        shaped = SHAPES[config.shaping](fitness - fitness.mean(1, keepdim=True))  # (E, G)
        slope = torch.einsum("eg,egij->ij", shaped, directions) / (
            shaped.numel() * config.sigma
        )  # (r, r + 1)
        self.matrix.grad, self.shift.grad = slope[:, :-1].contiguous(), slope[:, -1].contiguous()
        norm = self.take_step()
        self._fold()
        return rollout.scalars(self.env.problem.num_items) | {
            "train/gradient_norm": norm,
            "train/theta_norm": math.hypot(float(self.matrix.norm()), float(self.shift.norm())),
            "train/fitness_std": float(fitness.std(1).mean()),
        }

    def _directions(self, blocks: int) -> Tensor:
        """(E, G, r, r + 1) standard normal, half of each population the other half's mirror image."""
        rank, half = self.config.rank, self.config.samples_per_user // 2
        shape = (blocks, half, rank, rank + 1)
        drawn = torch.randn(shape, generator=self.noise_generator, device=self.device)
        return torch.cat([drawn, -drawn], 1)

    def _run(self, users: Tensor, directions: Tensor) -> Rollout:
        """Chains of ``users`` (B,) under theta + sigma * ``directions`` (N, r, r + 1)."""
        moved = self.config.sigma * directions  # (N, r, r + 1); the weights hold theta already
        layer = self.policy.backbone.output_layer
        noise = "user" if self.config.noisy else "none"
        with shifted_output(layer, self.left, self.right, self.centre, moved[:, :, :-1], moved[:, :, -1]):
            return roll_out(
                self.policy,
                self.env,
                users,
                generator=self.noise_generator,
                share_first=False,  # a user's episodes are different members'
                noise=noise,
            )

    @torch.no_grad()
    def _fold(self) -> None:
        """Write theta into the output layer: W0 + A M B^T and b0 + A (m - M c)."""
        layer, pretrained = self.policy.backbone.output_layer, self.reference.backbone.output_layer
        torch.addmm(pretrained.weight, self.left @ self.matrix, self.right.T, out=layer.weight.data)
        layer.bias.copy_(pretrained.bias + self.left @ (self.shift - self.matrix @ self.centre))

    # ------------------------------------------------------------------ the subspace

    def _left(self) -> Tensor:
        """A (D, r): directions of the catalogue, entries of mean square 1 in each."""
        layer, rank = self.reference.backbone.output_layer, self.config.rank
        highest = min(layer.weight.shape)
        if rank > highest:
            raise ValueError(f"rank={rank} must lie in 1..{highest}, the rank of the output layer")
        if self.config.basis == "weights":
            left = torch.linalg.svd(layer.weight, full_matrices=False).U[:, :rank]  # (D, r)
        else:
            dataset = self.env.problem.dataset
            if layer.out_features != dataset.num_items:
                raise ValueError(
                    f"basis 'factors' needs an output for each of the {dataset.num_items} items, the output "
                    f"layer has {layer.out_features}: use basis 'weights'"
                )
            left = torch.from_numpy(item_factors(dataset.train.csr, rank).copy()).to(self.device)
        scaled: Tensor = left * math.sqrt(layer.out_features)
        return scaled

    @torch.no_grad()
    def _reading(self) -> tuple[Tensor, Tensor]:
        """B (H, r) and c (r,): the leading principal components of the hidden units, scaled to variance 1."""
        seen: list[Tensor] = []
        layer = self.policy.backbone.output_layer
        handle = layer.register_forward_hook(lambda module, given, out: seen.append(given[0].flatten(0, -2)))
        users = torch.as_tensor(self.env.problem.users[:CALIBRATION_USERS], device=self.device)
        self.policy.denoise(self.env.problem.initial_state(users), self.env.problem.context(users))
        handle.remove()
        hidden = seen[-1]  # (n, H) at the last step, which decides the list
        mean = hidden.mean(0)  # (H,)
        _, values, rows = torch.linalg.svd(hidden - mean, full_matrices=False)
        deviation = values[: self.config.rank] / math.sqrt(hidden.shape[0])  # (r,)
        right = (rows[: self.config.rank] / deviation.clamp(min=1e-6)[:, None]).T.contiguous()  # (H, r)
        return right, mean @ right

    # ------------------------------------------------------------------ checkpoint

    def own_tensors(self) -> dict[str, Tensor]:
        """Theta and its subspace."""
        theta = {"matrix": self.matrix.detach(), "shift": self.shift.detach()}
        return theta | {"left": self.left, "right": self.right, "centre": self.centre}

    def take_own_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        with torch.no_grad():
            self.matrix.copy_(tensors["matrix"])
            self.shift.copy_(tensors["shift"])
        self.left, self.right, self.centre = (
            tensors[name].to(self.device) for name in ("left", "right", "centre")
        )


@contextmanager
def shifted_output(
    layer: nn.Linear, left: Tensor, right: Tensor, centre: Tensor, matrices: Tensor, shifts: Tensor
) -> Iterator[None]:
    """Within, row n of what the layer gives is moved by A (M_n z + m_n), z = B^T h - c.

    Args:
        layer: whose output is moved; its weights stay.
        left: A (D, r).
        right: B (H, r).
        centre: c (r,).
        matrices: M (N, r, r), one for each row.
        shifts: m (N, r).

    Raises:
        ValueError: if the layer is given another number of rows than N.
    """

    def move(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        hidden = given[0]  # (N, ..., H)
        if hidden.shape[0] != matrices.shape[0]:
            raise ValueError(
                f"the output layer was given {hidden.shape[0]} rows for {matrices.shape[0]} episodes: this "
                "backbone does not run a row an episode, so a population cannot share its passes"
            )
        read = (hidden @ right - centre).view(hidden.shape[0], -1, right.shape[1])  # (N, n, r)
        low = torch.baddbmm(shifts[:, None], read, matrices.mT)  # (N, n, r)
        moved: Tensor = out + low.view(*hidden.shape[:-1], -1) @ left.T
        return moved

    handle = layer.register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


def block_means(reward: Tensor, block: Tensor, blocks: int) -> Tensor:
    """Mean rewards (E, G) of each block's members, from rewards (B, G) and the users' blocks (B,)."""
    total = reward.new_zeros(blocks, reward.shape[1]).index_add(0, block, reward)  # (E, G)
    return total / torch.bincount(block, minlength=blocks)[:, None]


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
    """Fitnesses less their mean, over their deviation; zeros if they are all alike."""
    away = fitness - fitness.mean()
    return away / away.std().clamp(min=1e-8)


SHAPES = {"ranks": centred_ranks, "centred": centred}


def _check(config: ESConfig, users: int) -> None:
    """Refuse settings that have no meaning, before any work is done."""
    if config.basis not in BASES:
        raise unknown_name("basis", config.basis, BASES)
    if config.shaping not in SHAPINGS:
        raise unknown_name("shaping", config.shaping, SHAPINGS)
    if config.samples_per_user < 2 or config.samples_per_user % 2:
        raise ValueError(
            f"samples_per_user={config.samples_per_user} must be even and at least 2: half of the population "
            "are the others' mirror images"
        )
    if not 0 <= config.blocks <= config.users_per_batch:
        raise ValueError(f"blocks={config.blocks} must lie in 0..{config.users_per_batch}, users_per_batch")
    if not config.sigma > 0:
        raise ValueError(f"sigma={config.sigma} must be above 0")
    if not 1 <= config.rank < users:
        raise ValueError(f"rank={config.rank} must be at least 1 and below the number of users, {users}")
