"""The denoising chain in Gaussian steps: pi(a | s) = N(mean(u, t), std_t^2 I), its samples and densities.

A ``context`` is the part of an observation besides u (a history), or its encoding by ``encode``, which is
then computed once for all steps of a chain. None where an observation holds u only.

Letters: B users in a batch, D size of the diffused vector, C size of a context, H size of its encoding, T
denoising steps, t = 0..T-1 the episode's step, k = T-1-t the diffusion literature's index.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from refit_env.backbones.base import Backbone, Condition, Context
from refit_env.errors import SettingError
from refit_env.settings import check_setting
from refit_env.utils.text import shown

Reduction = Literal["mean", "sum"]


class GaussianChain(nn.Module):
    """The denoiser and its schedule as Gaussian steps from u_T to u_0.

    The mean is the posterior mean of the reverse process, c1_k x0_hat(u, k) + c2_k u (DDPM, Eq. 7), or
    DDIM's; the standard deviation is ``max(posterior_share * posterior_std, exploration_std)``. Without the
    floor a policy would not explore: published recommenders have posterior deviations of 0.001 to 0.01 (and 0
    at k = 0, which has that of k = 1, as in the reference code), too small to change a top-K list, while the
    score function grows as 1 / std.

    Chains of embeddings have large deviations: there a ``posterior_share`` below 1 keeps exploration near the
    noise-free chain, by which evaluation ranks.

    Evaluation never samples: ``denoise`` is the noise-free chain.

    Attributes:
        backbone: the network that predicts x0; its parameters are what fine-tuning changes.
        diffusion: the (possibly respaced) schedule of the chain.
        exploration_std: floor of the standard deviation, in units of the scores.
        posterior_share: factor of the posterior's deviation.
        std: (T,) float32, indexed by the episode's step t.
        product_dtype: number format of the network's matrix products; None is that of the weights. Means have
            the format of u in every case.
    """

    std: Tensor
    product_dtype: torch.dtype | None = None

    def __init__(
        self,
        backbone: Backbone,
        num_steps: int | None = None,
        exploration_std: float = 0.05,
        eta: float = 1.0,
        posterior_share: float = 1.0,
    ) -> None:
        """Wrap a backbone.

        Args:
            backbone: a (pretrained) denoiser with its schedule.
            num_steps: T, length of the chain; fewer than the backbone's steps respaces it. None keeps them.
            exploration_std: floor of the policy's standard deviation; 0 keeps the posterior's own.
            eta: 1 is DDPM's reverse step; less is DDIM's, whose means follow the straight line from u_T and
                whose noise is ``eta`` times as large (0: none). It matters where a long chain is respaced.
            posterior_share: factor of the posterior's standard deviation.

        Raises:
            ValueError: if ``num_steps`` is not in 1..backbone steps, ``exploration_std`` not in 0..inf, or
                ``eta`` or ``posterior_share`` not in 0..1.
        """
        super().__init__()
        self.backbone = backbone
        own = backbone.diffusion.num_steps
        steps = own if num_steps is None else num_steps
        check_setting("num_steps", steps, int)
        if not 1 <= steps <= own:
            raise SettingError(
                "num_steps",
                f"must lie in 1..{own}, the steps that the backbone was trained on, found {steps}",
            )
        chain = backbone.diffusion if steps == own else backbone.diffusion.respace(steps)
        self.diffusion = chain.with_eta(eta)
        self.register_buffer("std", torch.zeros(steps), persistent=False)
        self.posterior_share = float(posterior_share)
        self.set_exploration(exploration_std)

    def set_exploration(self, exploration_std: float, posterior_share: float | None = None) -> None:
        """Set the standard deviations.

        Args:
            exploration_std: their floor, in units of the scores.
            posterior_share: factor of the posterior's, in 0..1; 0: every step has the floor. None keeps it.

        Raises:
            ValueError: if one is out of range.
        """
        posterior_share = self.posterior_share if posterior_share is None else posterior_share
        if not 0 <= posterior_share <= 1:
            raise ValueError(f"posterior_share={posterior_share} must lie in 0..1")
        if not (math.isfinite(exploration_std) and exploration_std >= 0):
            raise ValueError(f"exploration_std={exploration_std} must be a finite number >= 0")
        self.exploration_std, self.posterior_share = float(exploration_std), float(posterior_share)
        posterior = torch.as_tensor(self.diffusion.posterior_std.copy())  # (T,) by k
        posterior[0] = posterior[min(1, self.num_steps - 1)]  # as DiffRec's code clips its log-variance
        self.std.copy_((self.posterior_share * posterior.flip(0)).clamp(min=self.exploration_std))

    def respaced(self, num_steps: int | None = None, eta: float | None = None) -> Self:
        """Return the same network with another chain; None does not change a setting.

        Args:
            num_steps: T.
            eta: see the constructor.

        Returns:
            A new object that shares the backbone; ``self`` does not change.

        Raises:
            ValueError: if one is out of range.
        """
        changes = {"num_steps": num_steps, "eta": eta}
        chain = self.chain | {name: value for name, value in changes.items() if value is not None}
        other = type(self)(self.backbone, **chain)
        other.std = other.std.to(self.std)  # only std: the backbone's tables have other dtypes
        other.training = self.training  # the shared backbone keeps its own mode
        return other

    @property
    def chain(self) -> dict[str, Any]:
        """The arguments of the constructor besides the backbone, JSON-plain, to make an equal chain.

        Example:
            >>> from refit_env.backbones import make_backbone
            >>> chain = GaussianChain(make_backbone("diffrec", 5), 3, eta=0.0)
            >>> chain.chain == GaussianChain(chain.backbone, **chain.chain).chain
            True
        """
        return {
            "num_steps": self.num_steps,
            "exploration_std": self.exploration_std,
            "posterior_share": self.posterior_share,
            "eta": self.diffusion.eta,
        }

    @property
    def num_steps(self) -> int:
        """T, the length of an episode."""
        return self.diffusion.num_steps

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.std.device

    def timestep(self, t: int | Tensor) -> int | Tensor:
        """K = T-1-t, the diffusion literature's index of the episode's step t.

        Raises:
            ValueError: if t is one number outside 0..T-1; a tensor is not checked.
        """
        self._check_step(t)
        return self.num_steps - 1 - t

    def _check_step(self, t: Any) -> None:
        """Raise a ValueError if t is one number outside 0..T-1, or no number; a tensor is not checked."""
        if not isinstance(t, Tensor) and not (isinstance(t, Integral) and 0 <= int(t) < self.num_steps):
            raise ValueError(
                f"t={t} must lie in 0..{self.num_steps - 1}, the steps of this policy's chain; its "
                f"environment is made with num_steps={self.num_steps}"
            )

    def encode(self, context: Context) -> Condition | None:
        """Return the encoding of a context for all steps of a chain, with the graph of its weights."""
        return self.backbone.encode(context) if isinstance(context, Tensor) else context

    def mean(self, u: Tensor, t: int | Tensor, context: Context = None) -> Tensor:
        """Mean of the next vector.

        Args:
            u: (B, D) the current vectors.
            t: the episode's step, one for all or (B,) int64.
            context: (B, C) the condition of the network, plain or encoded, or None.

        Returns:
            (B, D); at t = T-1 it is the network's x0 prediction itself.

        Raises:
            ValueError: if u is no tensor of vectors of size D.
        """
        self._check_vectors(u)
        k = self.timestep(t)
        with self._products(u.device):
            condition = self.encode(context)  # (B, H) or None
            x0 = self.backbone.predict_x0(u, self.diffusion.network_timestep(k), condition)  # (B, D)
        x0 = x0.to(u.dtype)
        return self.diffusion.posterior_mean(x0, u, k)  # (B, D)

    def _check_vectors(self, u: Any) -> None:
        """Raise a ValueError if u is no tensor (B, D)."""
        if not (isinstance(u, Tensor) and u.dim() == 2 and u.shape[1] == self.backbone.dim):
            found = f"a tensor {tuple(u.shape)}" if isinstance(u, Tensor) else shown(u)
            raise ValueError(
                f"u must be a tensor (B, {self.backbone.dim}), the current vectors; found {found}"
            )
        if not u.is_floating_point():
            raise ValueError(
                f"u must be of floating-point numbers; found {str(u.dtype).removeprefix('torch.')}"
            )

    def _products(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return a context in which matrix products are computed in ``product_dtype``."""
        dtype = self.product_dtype
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def step_std(self, t: int | Tensor) -> Tensor:
        """Standard deviation at step t: a scalar tensor, or (B, 1) for t of shape (B,)."""
        self._check_step(t)
        return self.std[t].unsqueeze(-1) if isinstance(t, Tensor) else self.std[t]

    def sample(
        self,
        u: Tensor,
        t: int | Tensor,
        context: Context = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw the next vector, (B, D)."""
        mean = self.mean(u, t, context)  # (B, D)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + self.step_std(t) * noise

    def log_prob(
        self,
        action: Tensor,
        u: Tensor,
        t: int | Tensor,
        context: Context = None,
        reduction: Reduction = "sum",
    ) -> Tensor:
        """Log-density of the action.

        Args:
            action: (B, D) the next vectors.
            u: (B, D) the current vectors.
            t: the episode's step, one for all or (B,) int64.
            context: (B, C) or None.
            reduction: ``"sum"`` is the density's logarithm; ``"mean"`` divides it by D, which keeps
                learning rates and clip ranges comparable between catalogues (as DDPO's code does).

        Returns:
            (B,) float32.

        Raises:
            ValueError: if the standard deviation is 0 at a step (no density), or the reduction is unknown.
        """
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction={reduction!r} must be 'mean' or 'sum'")
        self._check_vectors(u)
        if not isinstance(action, Tensor):
            raise ValueError(f"action must be a tensor (B, {self.backbone.dim}); found {shown(action)}")
        if action.shape != u.shape:
            raise ValueError(
                f"action has the shape {tuple(action.shape)}, u has {tuple(u.shape)}: they must agree"
            )
        std = self.step_std(t)  # () or (B, 1)
        if bool((std <= 0).any()):
            raise ValueError("the policy is deterministic at this step (std 0): set an exploration_std > 0")
        z = (action - self.mean(u, t, context)) / std  # (B, D)
        each = -0.5 * z.square() - std.log() - 0.5 * math.log(2 * math.pi)  # (B, D)
        return each.sum(1) if reduction == "sum" else each.mean(1)

    def denoise(self, u: Tensor, context: Context = None) -> Tensor:
        """Run the noise-free chain from u_T (B, D) to u_0 (B, D)."""
        if not torch.is_grad_enabled():
            whole = self.backbone.denoise(u, self.diffusion)  # (B, D) or None
            if whole is not None:
                return whole
        condition = self.encode(context)  # (B, H) or None
        for t in range(self.num_steps):
            u = self.mean(u, t, condition)  # (B, D)
        return u
