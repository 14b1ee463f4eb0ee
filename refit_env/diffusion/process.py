"""The forward process and its posterior, from float64 tables.

Letters: B rows in a batch, D size of the diffused vector, T steps; k = 0 is the least noisy step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Diffusion:
    """A Gaussian diffusion of T steps (Ho et al., 2020), possibly a respaced one.

    Attributes:
        betas: (T,) float64.
        timesteps: (T,) int64, the original chain's index of each step, the network's timestep input.
        eta: share of the posterior's noise that the reverse process adds (DDIM, Song et al., 2021, Eq. 16):
            1 is DDPM's posterior, 0 the deterministic chain; the mean of each step depends on it, too.
    """

    betas: FloatArray
    timesteps: npt.NDArray[np.int64]
    eta: float = 1.0

    def __post_init__(self) -> None:
        """Raise an error for an ``eta`` outside 0..1, for which a variance would be negative."""
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(
                f"eta={self.eta} must lie in 0..1: 1 is DDPM's posterior, 0 is DDIM without noise"
            )

    @classmethod
    def from_betas(cls, betas: FloatArray) -> Diffusion:
        """Create an original (not respaced) chain."""
        return cls(np.asarray(betas, dtype=np.float64), np.arange(len(betas), dtype=np.int64))

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.betas)

    @cached_property
    def abar(self) -> FloatArray:
        """(T,) cumulative product of 1 - beta: the remaining share of the signal's variance."""
        return np.cumprod(1.0 - self.betas, dtype=np.float64)

    @cached_property
    def abar_previous(self) -> FloatArray:
        """(T,) abar of the previous step; 1 at k = 0."""
        return np.append(1.0, self.abar[:-1])

    @cached_property
    def snr(self) -> FloatArray:
        """(T,) signal-to-noise ratio abar / (1 - abar)."""
        return self.abar / (1.0 - self.abar)

    @cached_property
    def mean_x0(self) -> FloatArray:
        """(T,) c1_k, the weight of x0 in the mean of a reverse step; 1 at k = 0."""
        if self.eta == 1.0:
            return self.betas * np.sqrt(self.abar_previous) / (1.0 - self.abar)
        return np.sqrt(self.abar_previous) - self.mean_u * np.sqrt(self.abar)

    @cached_property
    def mean_u(self) -> FloatArray:
        """(T,) c2_k, the weight of the noisy vector in the mean of a reverse step; 0 at k = 0.

        DDIM's mean is sqrt(abar_{k-1}) x0 + sqrt(1 - abar_{k-1} - std^2) eps, where x0 and u_k determine eps,
        so it is also linear in x0 and u_k.
        """
        if self.eta == 1.0:
            return (1.0 - self.abar_previous) * np.sqrt(1.0 - self.betas) / (1.0 - self.abar)
        left = np.clip(1.0 - self.abar_previous - self.posterior_std**2, 0.0, None)
        return np.sqrt(left / (1.0 - self.abar))

    @cached_property
    def posterior_std(self) -> FloatArray:
        """(T,) standard deviation of a reverse step, ``eta`` times the posterior's; 0 at k = 0."""
        return self.eta * np.sqrt(self.betas * (1.0 - self.abar_previous) / (1.0 - self.abar))

    def q_sample(self, x0: Tensor, k: int | Tensor, noise: Tensor) -> Tensor:
        """Diffuse clean vectors to step k: sqrt(abar_k) x0 + sqrt(1 - abar_k) noise.

        Args:
            x0: (B, D).
            k: one step for all, or (B,) int64.
            noise: (B, D) standard normal.

        Returns:
            (B, D) in the dtype of ``x0``.
        """
        return _at(np.sqrt(self.abar), k, x0) * x0 + _at(np.sqrt(1.0 - self.abar), k, x0) * noise

    def posterior_mean(self, x0: Tensor, u: Tensor, k: int | Tensor) -> Tensor:
        """Return the mean of q(u_{k-1} | u_k, x0), c1_k x0 + c2_k u (DDPM, Eq. 7; DDIM, Eq. 12).

        At k = 0 this is x0.

        Args:
            x0: (B, D) clean vectors, or the network's prediction of them.
            u: (B, D) vectors at step k.
            k: one step for all, or (B,) int64.
        """
        if isinstance(k, int) and k == 0:
            return x0
        if isinstance(k, int):  # one pass over memory fewer than with weights per row
            return torch.add(self.mean_u[k] * u, x0, alpha=float(self.mean_x0[k]))
        return _at(self.mean_x0, k, u) * x0 + _at(self.mean_u, k, u) * u

    def x0_from_eps(self, u: Tensor, eps: Tensor, k: int | Tensor) -> Tensor:
        """Return the clean vectors (B, D) from which noise ``eps`` (B, D) at step k makes ``u``."""
        root = np.sqrt(1.0 / self.abar)
        return _at(root, k, u) * u - _at(np.sqrt(1.0 / self.abar - 1.0), k, u) * eps

    def network_timestep(self, k: int | Tensor) -> int | Tensor:
        """Return the network's timestep input at step k of this chain: the original chain's index."""
        if isinstance(k, Tensor):
            return torch.as_tensor(self.timesteps, device=k.device)[k]
        return int(self.timesteps[k])

    def respace(self, num_steps: int) -> Diffusion:
        """Return a chain of ``num_steps`` evenly spaced steps, the first and the noisiest included.

        Each step keeps its abar, so the network's inputs have the noise levels of its training; the betas
        are recomputed (Nichol and Dhariwal, 2021, section 4).

        Args:
            num_steps: 1..T. One step is the least noisy one: u_0 is the network's x0 prediction from u_T.

        Raises:
            ValueError: if ``num_steps`` is outside 1..T.

        Example:
            >>> chain = Diffusion.from_betas(np.full(10, 0.01)).respace(4)
            >>> chain.timesteps.tolist()
            [0, 3, 6, 9]
        """
        if not 1 <= num_steps <= self.num_steps:
            raise ValueError(f"num_steps={num_steps} must lie in 1..{self.num_steps}, the steps of the chain")
        kept = np.round(np.linspace(0, self.num_steps - 1, num_steps)).astype(np.int64)
        abar = self.abar[kept]
        return Diffusion(1.0 - abar / np.append(1.0, abar[:-1]), self.timesteps[kept], self.eta)

    def with_eta(self, eta: float) -> Diffusion:
        """Return the same chain with another ``eta``."""
        return self if eta == self.eta else replace(self, eta=eta)


def _at(table: FloatArray, k: int | Tensor, like: Tensor) -> Tensor | float:
    """Return the table's value at k: a float, or (B, 1) in the dtype and on the device of ``like``."""
    if isinstance(k, Tensor):
        values = torch.as_tensor(table, device=like.device)[k].to(like.dtype)  # (B,)
        return values.unsqueeze(-1)
    return float(table[k])
