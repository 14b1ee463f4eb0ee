"""A small subspace of a policy's output layer, for methods that cannot search millions of weights.

The output layer's weights W (D, H) and bias b (D,) move by r * r + r numbers theta = (M, m),

    W = W0 + A M B^T,    b = b0 + A (m - M c),

in words: the hidden units are projected to r directions, z = B^T h - c, and the scores move by A (M z + m)
along r directions of the catalogue. B and c whiten the hidden units over users. A holds the leading item
factors of the train rows, or of the part of them that the reward counts as relevant, or left singular vectors
of W0, scaled so that a standard normal theta moves the
scores of the items that the pretrained policy lists by 1 (root mean square): other items do not decide a
list.

A different theta for each row of a batch costs one product of rank r on top of W h; the one that is kept is
added to the weights, so the result is an ordinary policy.

Letters: N rows, n users of the calibration, K list length, r rank, H hidden units, D size of the diffused
vector, I items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.training.config import BASES
from refit_env.envs.problem import DenoisingProblem
from refit_env.errors import unknown_name
from refit_env.item_factors import item_factors
from refit_env.policy import DiffusionPolicy

CALIBRATION_USERS = 512
"""Users over whom the subspace is scaled."""


@dataclass
class OutputSubspace:
    """The directions in which theta moves the layer.

    Attributes:
        left: A (D, r).
        right: B (H, r).
        centre: c (r,).
    """

    left: Tensor
    right: Tensor
    centre: Tensor

    @torch.no_grad()
    def fold(self, layer: nn.Linear, pretrained: nn.Linear, matrix: Tensor, shift: Tensor) -> None:
        """Write ``pretrained``, moved by M (r, r) and m (r,), into ``layer``."""
        layer.weight.copy_(torch.addmm(pretrained.weight, self.left @ matrix, self.right.T))
        layer.bias.copy_(pretrained.bias + self.left @ (shift - matrix @ self.centre))

    @contextmanager
    def shifted(self, layer: nn.Linear, matrices: Tensor, shifts: Tensor) -> Iterator[None]:
        """Within, row n of what the layer gives is moved by A (M_n z + m_n); its weights stay.

        Args:
            layer: whose output is moved.
            matrices: M (N, r, r), one for each row.
            shifts: m (N, r).

        Raises:
            ValueError: if the layer is given another number of rows than N.
        """

        def move(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            hidden = given[0]  # (N, ..., H)
            if hidden.shape[0] != matrices.shape[0]:
                raise ValueError(
                    f"the output layer was given {hidden.shape[0]} rows for {matrices.shape[0]} episodes: "
                    "this backbone does not run a row an episode, so a population cannot share its passes"
                )
            read = (hidden @ self.right - self.centre).view(hidden.shape[0], -1, self.right.shape[1])
            low = torch.baddbmm(shifts[:, None], read, matrices.mT)  # (N, ., r)
            moved: Tensor = out + low.view(*hidden.shape[:-1], -1) @ self.left.T
            return moved

        handle = layer.register_forward_hook(move)
        try:
            yield
        finally:
            handle.remove()


@torch.no_grad()
def output_subspace(
    policy: DiffusionPolicy, problem: DenoisingProblem, rank: int, basis: str = "factors"
) -> OutputSubspace:
    """Choose and scale the subspace by the last step of the policy's noise-free chain for some users.

    Args:
        policy: a pretrained one whose backbone names its ``output_layer``.
        problem: gives the users, the lists and the train rows.
        rank: r.
        basis: ``factors`` of the train rows, of their ``relevant`` part, or singular vectors of the
            ``weights``.

    Raises:
        ValueError: for an unknown basis, a rank that is not to be had, a layer that does not fit.
    """
    layer = policy.backbone.output_layer
    highest = min(*layer.weight.shape, len(problem.users) - 1)
    if not 1 <= rank <= highest:
        raise ValueError(
            f"rank={rank} must lie in 1..{highest}: the output layer, {tuple(layer.weight.shape)}, and the "
            f"{len(problem.users)} users have no more directions"
        )
    left = _directions(layer, problem, rank, basis)  # (D, r)
    hidden, u0, users = _calibration(policy, problem)
    _, values, rows = torch.linalg.svd(hidden - hidden.mean(0), full_matrices=False)
    deviation = (values[:rank] / math.sqrt(hidden.shape[0])).clamp(min=1e-6)  # (r,)
    right = (rows[:rank] / deviation[:, None]).T.contiguous()  # (H, r)
    square = left.square().sum(1)  # (D,)
    if layer.out_features == problem.num_items:
        square = square[problem.reward_fn.top_k(u0, users)]  # (n, K)
    scale = (rank + 1) * square.mean()  # z and the shift: r + 1 numbers of variance 1
    return OutputSubspace(left / scale.sqrt(), right, hidden.mean(0) @ right)


def _calibration(policy: DiffusionPolicy, problem: DenoisingProblem) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden units (n, H) of the last step, the vectors u_0 (n, D), and the users (n,) that they are of."""
    seen: list[Tensor] = []
    handle = policy.backbone.output_layer.register_forward_hook(
        lambda module, given, out: seen.append(given[0].flatten(0, -2))
    )
    users = torch.as_tensor(problem.users[:CALIBRATION_USERS], device=policy.device)
    u0 = policy.denoise(problem.initial_state(users), problem.context(users))  # (n, D)
    handle.remove()
    return seen[-1], u0, users


def _directions(layer: nn.Linear, problem: DenoisingProblem, rank: int, basis: str) -> Tensor:
    """Return orthonormal directions (D, r) of the catalogue."""
    if basis not in BASES:
        raise unknown_name("basis", basis, BASES)
    if basis == "weights":
        left: Tensor = torch.linalg.svd(layer.weight, full_matrices=False).U[:, :rank]
        return left
    if layer.out_features != problem.num_items:
        raise ValueError(
            f"basis {basis!r} needs an output for each of the {problem.num_items} items, the output layer "
            f"has {layer.out_features}: use basis 'weights'"
        )
    rows = problem.relevance.relevant if basis == "relevant" else problem.dataset.train.csr
    return torch.from_numpy(item_factors(rows, rank).copy()).to(layer.weight.device)
