"""A pretrained diffusion recommender as a policy: it acts in environments, ranks items, is saved and loaded.

Letters: B users in a batch, D size of the diffused vector, C size of a context, I items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from refit_env.backbones.base import Lookup, check_task
from refit_env.backbones.carry_over import carry_over, for_later_data
from refit_env.backbones.latest import hold, release
from refit_env.backbones.restore import restore_backbone
from refit_env.checkpoint import POLICY, PolicyMeta, load_checkpoint, save_checkpoint
from refit_env.data.canonical import INFO
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity, check_same_data
from refit_env.data.known_ids import IDS, KnownIds
from refit_env.errors import CheckpointError, SettingError
from refit_env.gaussian_chain import GaussianChain, Reduction
from refit_env.settings import check_kind
from refit_env.utils.text import shown as as_text

__all__ = ["DiffusionPolicy", "Reduction", "Scorer"]

OF_RUNS = ("config.json", ".earlier")
"""What the folder of a run holds, finished or set aside (``agents.runs.files``)."""


class DiffusionPolicy(GaussianChain):
    """A denoiser as the policy of an environment, pi(a | s) = N(mean(u, t), std_t^2 I).

    ``GaussianChain`` has the mathematics: ``mean``, ``sample``, ``log_prob``, ``denoise`` and the settings of
    the chain. This class has what a user does with a policy: act on an environment's observations, rank the
    items for users, save, load, and carry over to later data.
    """

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Return the noise-free action for an environment's observation.

        Args:
            observation: of ``gym.make`` or ``gym.make_vec``: ``u`` (D,) or (B, D), ``t`` (1,) or (B, 1), and
                ``history`` where there is one.

        Returns:
            (D,) or (B, D) float32, the mean of the next vector.

        Raises:
            ValueError: if an episode has ended, has more steps than the policy, or is of another size.

        Example:
            >>> import gymnasium as gym, refit_env
            >>> policy = refit_env.load_policy("ReFiT-Synthetic-v0")
            >>> observation, _ = gym.make("ReFiT-Synthetic-v0", backbone="linear").reset(seed=0)
            >>> policy.act(observation).shape
            (400,)
        """
        self._check_observation(observation)
        seen = {}
        for name, value in observation.items():
            try:
                seen[name] = torch.as_tensor(np.asarray(value), dtype=torch.float32, device=self.device)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"the observation's {name} must be numbers, found {as_text(value)}"
                ) from error
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

    def _check_observation(self, observation: Any) -> None:
        """Raise a ValueError if it has no 'u' and 't', or vectors of another size."""
        if not isinstance(observation, Mapping) or not {"u", "t"} <= set(observation):
            found = as_text(observation)
            raise ValueError(f"an observation has 'u' and 't', as gym.make returns it; found {found}")
        if np.shape(observation["u"])[-1:] != (self.backbone.dim,):
            raise ValueError(
                f"the observation's u has the shape {np.shape(observation['u'])}; this policy's vectors have "
                f"{self.backbone.dim} numbers"
            )

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
        weights = list(self.parameters())
        hold(weights)
        try:
            yield
        finally:
            release(weights)

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
        check_kind("dataset", dataset, Dataset)
        known = self.backbone.trained_on
        if dataset.num_items != self.backbone.num_items:
            raise ValueError(
                f"the policy ranks {self.backbone.num_items} items{f' of {known.name!r}' if known else ''}, "
                f"data set {dataset.name!r} has {dataset.num_items}; {for_later_data(self.backbone)}"
            )
        check_task(type(self.backbone), dataset)
        check_same_data(known, dataset, "the policy")
        return self.backbone.shown(dataset, self.device)

    def save(self, folder: Path | str, dataset: Dataset | None = None, *, overwrite: bool = False) -> None:
        """Write ``policy.safetensors`` and ``policy.json`` into ``folder``, atomically.

        With ``dataset`` also ``ids.json``, the source's ids of its users and items.

        Args:
            folder: created if missing.
            dataset: data set of the training; None keeps the known one (``backbone.trained_on``).
            overwrite: whether a policy in the folder may be replaced.

        Raises:
            CheckpointError: if the folder holds files that must not be replaced, or those of a run.
            SettingError: if the folder has no name, or ``overwrite`` is no bool.
        """
        check_kind("folder", folder, str, Path)
        check_kind("dataset", dataset, Dataset, type(None))
        check_kind("overwrite", overwrite, bool)
        if not str(folder):
            raise SettingError("folder", "must name a folder, found ''; the present one is '.'")
        if Path(folder).is_file():
            raise CheckpointError(f"{folder} is a file; a policy needs a folder")
        if (Path(folder) / INFO).exists():
            raise CheckpointError(f"{folder} is a data set's folder ({INFO}): choose another folder")
        files = (f"{POLICY}.safetensors", f"{POLICY}.json", IDS, *OF_RUNS)
        there = [name for name in files if (Path(folder) / name).exists()]
        if there and not overwrite:
            what = "a policy" if there[0].startswith(POLICY) else "a file of a run"
            raise CheckpointError(
                f"{folder} holds {what} already ({', '.join(there)}): choose another folder, or pass "
                "overwrite=True"
            )
        trained_on = self.backbone.trained_on if dataset is None else DataIdentity.of(dataset)
        retired = (Path(folder) / IDS,)
        save_checkpoint(folder, self.backbone.state_dict(), self.describe(trained_on), retired)
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
            **({"validation_learned": True} if known.validation else {}),
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
            policy.backbone.allow_other_data()
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
        known = DataIdentity(
            name, meta.get("data_fingerprint"), source, meta.get("validation_learned", False)
        )
        backbone.trained_on = known if name else None
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
