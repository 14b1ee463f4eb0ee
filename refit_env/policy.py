"""A pretrained diffusion recommender as a policy: pi(a | s) = N(mean(u, t), std_t^2 I).

A ``context`` is the part of an observation besides u (a history), or its encoding by ``encode``, which is
then computed once for all steps of a chain. None where an observation holds u only.

Letters: B users in a batch, D size of the diffused vector, C size of a context, I items, T denoising steps,
t = 0..T-1 the episode's step, k = T-1-t the diffusion literature's index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from refit_env.backbones.base import Backbone, Condition, Context, Lookup, check_task
from refit_env.backbones.carry_over import carry_over
from refit_env.backbones.graphs import hold
from refit_env.backbones.restore import restore_backbone
from refit_env.checkpoint import POLICY, PolicyMeta, load_checkpoint, save_checkpoint
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity, check_same_data
from refit_env.data.known_ids import IDS, KnownIds
from refit_env.errors import CheckpointError, SettingError

Reduction = Literal["mean", "sum"]


class DiffusionPolicy(nn.Module):
    """The denoiser and its schedule as a Gaussian policy over the next vector of the chain.

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

    def respaced(self, num_steps: int | None = None, eta: float | None = None) -> DiffusionPolicy:
        """Return the same network with another chain; None does not change a setting.

        Args:
            num_steps: T.
            eta: see the constructor.

        Returns:
            A policy that shares the backbone; the chain of ``self`` does not change.

        Raises:
            ValueError: if one is out of range.
        """
        changes = {"num_steps": num_steps, "eta": eta}
        chain = self.chain | {name: value for name, value in changes.items() if value is not None}
        policy = DiffusionPolicy(self.backbone, **chain)
        policy.std = policy.std.to(self.std)  # only std: the backbone's tables have other dtypes
        policy.training = self.training  # the shared backbone keeps its own mode
        return policy

    @property
    def chain(self) -> dict[str, Any]:
        """The arguments of the constructor besides the backbone, JSON-plain, to make an equal policy.

        Example:
            >>> from refit_env.backbones import make_backbone
            >>> policy = DiffusionPolicy(make_backbone("diffrec", 5), 3, eta=0.0)
            >>> policy.chain == DiffusionPolicy(policy.backbone, **policy.chain).chain
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

    def _check_step(self, t: int | Tensor) -> None:
        """Raise a ValueError if t is one number outside 0..T-1; a tensor is not checked."""
        if not isinstance(t, Tensor) and not 0 <= t < self.num_steps:
            raise ValueError(f"t={t} must lie in 0..{self.num_steps - 1}, the steps of this policy's chain")

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
        """
        k = self.timestep(t)
        with self._products(u.device):
            condition = self.encode(context)  # (B, H) or None
            x0 = self.backbone.predict_x0(u, self.diffusion.network_timestep(k), condition)  # (B, D)
        x0 = x0.to(u.dtype)
        return self.diffusion.posterior_mean(x0, u, k)  # (B, D)

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

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Return the noise-free action for an environment's observation.

        Args:
            observation: of ``gym.make`` or ``gym.make_vec``: ``u`` (D,) or (B, D), ``t`` (1,) or (B, 1), and
                ``history`` where there is one.

        Returns:
            (D,) or (B, D) float32, the mean of the next vector.

        Raises:
            ValueError: if an episode has ended, or has more steps than the policy.

        Example:
            >>> import gymnasium as gym, refit_env
            >>> policy = refit_env.load_policy("ReFiT-Synthetic-v0")
            >>> observation, _ = gym.make("ReFiT-Synthetic-v0", backbone="linear").reset(seed=0)
            >>> policy.act(observation).shape
            (400,)
        """
        seen = {
            name: torch.as_tensor(np.asarray(value), dtype=torch.float32, device=self.device)
            for name, value in observation.items()
        }
        single = seen["u"].dim() == 1
        u, t = seen["u"].view(-1, self.backbone.dim), seen["t"].view(-1).long()  # (B, D), (B,)
        history = seen.get("history")
        context = None if history is None else history.view(len(u), -1)  # (B, C)
        first, last = int(t.min()), int(t.max())
        for place in (first, last):
            self._check_step(place)  # refuses an episode that has ended
        step: int | Tensor = first if first == last else t
        action: npt.NDArray[np.float32] = self.mean(u, step, context).cpu().numpy()  # (B, D)
        return action[0] if single else action

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

    def scores(self, users: Tensor, shown: Tensor) -> Tensor:
        """(B, I) scores by the noise-free chain, with their whole graph.

        Args:
            users: (B,) int64.
            shown: (B, ...) the backbone's input: rows or histories.
        """
        dtype = self.std.dtype  # the input may be float32 in a float64 policy
        start = self.backbone.initial_state(users, shown).to(dtype)  # (B, D)
        context = self.backbone.context(users, shown)  # (B, C) or None
        context = None if context is None else context.to(dtype)
        return self.backbone.scores(self.denoise(start, context), users, context)

    @torch.no_grad()
    def recommend_scores(self, users: Tensor, shown: Tensor) -> Tensor:
        """(B, I) scores of ``users`` (B,) with the input ``shown`` (rows or histories); deterministic."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        scores = self.scores(users, shown)
        for module, training in modes:  # a backbone may be in another mode than its policy
            module.training = training
        return scores

    @contextmanager
    def held(self) -> Iterator[None]:
        """Return a context in which no weight changes: backbones keep what they compute of the weights."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        hold(trained, True)
        try:
            yield
        finally:
            hold(trained, False)

    def scorer(self, dataset: Dataset) -> Scorer:
        """Make the function users (B,) -> scores (B, I) for ``refit_env.evaluation.ranking.evaluate``.

        The input for users (``dataset.episodes``) is their train rows, or the histories of rows, as in the
        published protocols.

        Raises:
            ValueError: if the data set has another number of items than the policy, or another task.
            DataError: if it is another data set than the policy was trained on.
        """
        return Scorer(self, self.inputs(dataset))

    def inputs(self, dataset: Dataset) -> Lookup:
        """Make the function users (B,) -> the network's input for them, checked as ``scorer`` does.

        Raises:
            ValueError: if the data set has another number of items than the policy, or another task.
            DataError: if it is another data set than the policy was trained on.
        """
        known = self.backbone.trained_on
        if dataset.num_items != self.backbone.num_items:
            raise ValueError(
                f"the policy ranks {self.backbone.num_items} items{f' of {known.name!r}' if known else ''}, "
                f"data set {dataset.name!r} has {dataset.num_items}; 'refit pretrain --init RUN --data NEW "
                "--new-data' carries a model over to later data"
            )
        check_task(type(self.backbone), dataset)
        check_same_data(known, dataset, "the policy")
        return self.backbone.shown(dataset, self.device)

    def save(self, folder: Path | str, dataset: Dataset | None = None) -> None:
        """Write ``policy.safetensors`` and ``policy.json`` into ``folder``, atomically.

        With ``dataset`` also ``ids.json``, the source's ids of its users and items.

        Args:
            folder: created if missing.
            dataset: data set of the training; None keeps the known one (``backbone.trained_on``).
        """
        trained_on = self.backbone.trained_on if dataset is None else DataIdentity.of(dataset)
        (Path(folder) / IDS).unlink(missing_ok=True)
        save_checkpoint(folder, self.backbone.state_dict(), self.describe(trained_on))
        if dataset is not None:
            KnownIds.of(dataset).save(folder, dataset.fingerprint)

    def carried_over(self, run: Path | str, dataset: Dataset, seed: int = 0) -> tuple[DiffusionPolicy, str]:
        """Return the policy for a data set with other users and items, and in one line what changed.

        See ``refit_env.backbones.carry_over``.

        Args:
            run: the folder that the policy was loaded from; it holds the ids of its items.
            dataset: the new data.
            seed: of the initial weights of new items.

        Raises:
            ValueError: if the backbone cannot be carried over, or no item of the new data is known.
            CheckpointError: if the folder does not hold the ids.
        """
        backbone, changes = carry_over(self.backbone, run, dataset, seed)
        return DiffusionPolicy(backbone, **self.chain).to(self.device).eval(), changes

    def describe(self, trained_on: DataIdentity | None = None) -> dict[str, Any]:
        """Return the description of the policy without its weights, JSON-plain: the fields of ``PolicyMeta``.

        Args:
            trained_on: the data set to name.
        """
        known = trained_on if trained_on is not None else DataIdentity("", None)
        code = self.backbone.code
        return {
            "backbone": self.backbone.name,
            **({} if code is None else {"backbone_file": code}),
            "backbone_config": self.backbone.config_dict(),
            "num_items": self.backbone.num_items,
            **self.chain,
            "dataset": known.name,
            "data_fingerprint": known.fingerprint,
            "data_source": known.source,
        }

    @classmethod
    def load(
        cls, folder: Path | str, device: torch.device | str = "cpu", *, other_data: bool = False
    ) -> DiffusionPolicy:
        """Load a policy that ``save`` wrote, in evaluation mode.

        Args:
            folder: a run folder.
            device: of its weights.
            other_data: whether it may be used with another data set than that of its training; otherwise
                such a use raises an error.

        Raises:
            CheckpointError: if files are missing or damaged, or do not fit together.
        """
        state, meta = load_checkpoint(folder)
        policy = cls.restore(state, meta, f"{Path(folder) / POLICY}.safetensors").to(device).eval()
        if other_data:
            policy.backbone.trained_on = None
        return policy

    @classmethod
    def restore(cls, state: Mapping[str, Tensor], meta: PolicyMeta, where: str) -> DiffusionPolicy:
        """Make a policy from its description and the backbone's state dict.

        Args:
            state: the backbone's tensors.
            meta: the result of ``describe``.
            where: their file, for messages.

        Raises:
            CheckpointError: if they do not fit together.
        """
        backbone = restore_backbone(state, meta, where)
        name, source = meta.get("dataset", ""), meta.get("data_source", "")
        backbone.trained_on = DataIdentity(name, meta.get("data_fingerprint"), source) if name else None
        try:
            later = {name: meta[name] for name in ("eta", "posterior_share") if name in meta}  # old files
            policy = cls(backbone, meta["num_steps"], meta["exploration_std"], **later)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        return policy


@dataclass(frozen=True, eq=False)
class Scorer:
    """A policy's scores for the users of a data set."""

    policy: DiffusionPolicy
    """Its weights may change between calls, but not within ``held``."""
    shown: Lookup
    """The network's input for users."""

    def __call__(self, users: Tensor) -> Tensor:
        """Return scores (B, I) of users (B,)."""
        return self.policy.recommend_scores(users, self.shown(users))

    def held(self) -> AbstractContextManager[None]:
        """Return a context for many calls, in which the weights do not change."""
        return self.policy.held()
