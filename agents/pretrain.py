"""ELBO training of a backbone, with early stopping on validation; also the controls that RL stands beside.

Letters: B users (of sequential sets: rows) in a batch, I items, L history length, R rows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.pretrain_config import PretrainConfig, published_training
from agents.state import flatten_optimizer, part, resolve_device, restore_optimizer
from agents.work import Work, counted, work_in
from refit_env.backbones import Backbone, Look, backbone_for, check_task
from refit_env.checkpoint import load_state, save_state
from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.data.sequences import RowDataset
from refit_env.errors import CheckpointError
from refit_env.evaluation import evaluate, evaluated_users, selecting_metric
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.relevance import make_relevance

STATE_NAME = "pretrain"
"""Stem of the resume state in a run folder."""


@dataclass
class PretrainResult:
    """A trained backbone and how it came about."""

    backbone: Backbone
    """With the weights that validation chose, in evaluation mode."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Scalars of each epoch."""
    best_epoch: int = 0
    """Epoch of the chosen weights; 0 is the initial model."""
    best_value: float = float("nan")
    """The validation metric there."""
    seconds: float = 0.0
    """Wall-clock time of training, validation not counted."""
    work: Work = field(default_factory=Work)
    """Rows through the denoiser, validation not counted."""


class Pretrainer:
    """Trains a backbone by its own loss. ``pretrain`` is the one-call form."""

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        config: PretrainConfig | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        eta: float = 1.0,
    ) -> None:
        """Prepare.

        Args:
            dataset: its train split is learnt from, its valid split selects.
            backbone: untrained, or trained already (more of the same, or another target).
            config: settings.
            seed: of the batches, the steps and the noise; dropout too.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...
            eta: of the chain that validation runs, see ``DiffusionPolicy``.

        Raises:
            ValueError: for an unknown ``select_on`` or device, or a backbone of another catalogue or task.
        """
        config = config if config is not None else PretrainConfig()
        self.config = replace(config, select_on=selecting_metric(config.select_on, dataset))
        if backbone.num_items != dataset.num_items:
            raise ValueError(
                f"the backbone has {backbone.num_items} items, {dataset.name!r} has {dataset.num_items}"
            )
        check_task(type(backbone), dataset)
        evaluated_users(dataset, "valid")
        self.dataset = dataset.episodes
        self.device = resolve_device(device)
        self.backbone = backbone.to(self.device).requires_grad_(True)
        self.seed = seed
        self.shown, self.target, self.users = self._examples()
        groups = backbone.parameter_groups(self.config.learning_rate)
        for group in groups:
            group["initial_lr"] = group["lr"]
        self.optimizer = torch.optim.AdamW(
            groups, self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.generator = torch.Generator(self.device).manual_seed(seed)
        steps = min(self.config.eval_steps or backbone.diffusion.num_steps, backbone.diffusion.num_steps)
        self._judge = DiffusionPolicy(backbone, steps, eta=eta).to(self.device)
        self.epoch = 0
        self.seconds = 0.0
        self.work = Work()
        self.history: list[dict[str, float]] = []
        self._best: tuple[float, int] = (float("-inf"), 0)
        self._best_state = copy.deepcopy(backbone.state_dict())

    def learn(
        self,
        run_dir: Path | str | None = None,
        callback: Callable[[int, dict[str, float]], None] | None = None,
    ) -> PretrainResult:
        """Train until validation stops rising, or epochs or work run out.

        Args:
            run_dir: where the resume state goes after each validation; None writes none.
            callback: called after each epoch with its number and scalars.
        """
        if self.epoch == 0:
            self._record(self._validate(), callback)
        while not self._done():
            self._record(self._step(), callback)
            if run_dir is not None and self._validates_now():
                self.save(run_dir)
        self.backbone.load_state_dict(self._best_state)
        self.backbone.eval().freeze_scores()
        (value, at) = self._best
        return PretrainResult(self.backbone, self.history, at, value, self.seconds, self.work)

    def _step(self) -> dict[str, float]:
        """One epoch; its dropout is seeded by its number, so that a resumed run repeats an unbroken one."""
        begin = time.perf_counter()
        self.backbone.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.config.learning_rate_decay**self.epoch
        losses, before = [], self.work
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.users.numel(), generator=self.generator, device=self.device)
            for pick in order.split(self.config.users_per_batch):
                with counted(self.backbone) as work:
                    losses.append(self._update(self.users[pick]))
                self.work += work
                if self._out_of_work():
                    break
        self.epoch += 1
        self.seconds += time.perf_counter() - begin
        scalars = {"train/loss": sum(losses) / len(losses), "seconds/training": self.seconds}
        scalars |= (self.work - before).scalars()
        return scalars | (self._validate() if self._validates_now() else {})

    def _update(self, users: Tensor) -> float:
        """One gradient step on ``users`` (B,)."""
        shown = self.shown(users)  # (B, I) or (B, L)
        target = shown if self.target is self.shown else self.target(users)  # (B, I) or (B,)
        ranking = self.config.objective == "ranking"
        loss_of = self.backbone.ranking_loss if ranking else self.backbone.elbo_loss
        loss = loss_of(shown, target, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _validate(self) -> dict[str, float]:
        means = evaluate(self._judge.scorer(self.dataset), self.dataset, "valid", device=self.device).means()
        value = means[self.config.select_on]
        if value > self._best[0]:
            self._best, self._best_state = (value, self.epoch), copy.deepcopy(self.backbone.state_dict())
        return {f"valid/{name}": mean for name, mean in means.items()}

    def _record(
        self, scalars: dict[str, float], callback: Callable[[int, dict[str, float]], None] | None
    ) -> None:
        self.history.append({"epoch": float(self.epoch)} | scalars)
        if callback is not None:
            callback(self.epoch, scalars)

    def _validates_now(self) -> bool:
        return (
            self.epoch % self.config.eval_every == 0
            or self.epoch == self.config.epochs
            or self._out_of_work()
        )

    def _out_of_work(self) -> bool:
        return 0 < self.config.max_work <= self.work.units

    def _done(self) -> bool:
        waited = (self.epoch - self._best[1]) // self.config.eval_every  # validations without a gain
        return self.epoch >= self.config.epochs or self._out_of_work() or 0 < self.config.patience <= waited

    def _examples(self) -> tuple[Look, Look, Tensor]:
        """What is shown and what is to be predicted of users (B,), and the users (n,) learnt from.

        The ids are the backbone's own (interactions, say) where it walks over something else.
        """
        own = self.backbone.examples(self.dataset, self.device)
        if own is not None:
            if self.config.target != "train":
                raise ValueError(
                    f"target={self.config.target!r}: backbone {self.backbone.name!r} learns from 'train' only"
                )
            return own
        if isinstance(self.dataset, RowDataset):
            if self.config.target != "train":
                raise ValueError(
                    f"target={self.config.target!r}: in sequential data the next item is the target"
                )
            rows = self.dataset.rows_of("train")
            users = torch.as_tensor(rows, device=self.device)
            next_ones = torch.as_tensor(self.dataset.targets.items, dtype=torch.int64, device=self.device)
            items = torch.full((self.dataset.num_users,), -1, device=self.device)  # (R,)
            items[users] = next_ones
            if not self.backbone.embedding:  # it predicts rows: of the next item alone
                next_items = SparseRows(self.dataset.targets.csr, self.device)
                return self.backbone.shown(self.dataset, self.device), next_items.dense, users
            return self.backbone.shown(self.dataset, self.device), lambda some: items[some], users
        config = self.backbone.config
        whole = part = SparseRows(self.backbone.rows(self.dataset, config), self.device)
        if self.config.target != "train":
            relevance = make_relevance(self.config.target, self.dataset, fraction=self.config.fraction)
            seen = self.dataset.showing(relevance.visible)
            part = SparseRows(self.backbone.rows(seen, config), self.device)
        users = torch.nonzero(part.counts(torch.arange(self.dataset.num_users, device=self.device))).flatten()
        shown = part.dense
        return shown, shown if part is whole else whole.dense, users

    def save(self, folder: Path | str) -> None:
        """Write everything that training needs to go on, atomically."""
        tensors = {f"backbone.{k}": v for k, v in self.backbone.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self._best_state.items()}
        tensors |= {f"optimizer.{k}": v for k, v in flatten_optimizer(self.optimizer).items()}
        tensors["generator"] = self.generator.get_state()
        meta: dict[str, Any] = {"config": asdict(self.config), "seed": self.seed, "epoch": self.epoch}
        meta |= {"seconds": self.seconds, "best": list(self._best), "history": self.history}
        save_state(Path(folder) / STATE_NAME, tensors, meta)

    def load(self, folder: Path | str) -> Pretrainer:
        """Take up the state that ``save`` wrote.

        Raises:
            CheckpointError: if there is none, or it belongs to another model or configuration.
        """
        tensors, meta = load_state(Path(folder) / STATE_NAME)
        if meta["config"] != asdict(self.config) or meta["seed"] != self.seed:
            raise CheckpointError(f"{folder}: saved with another configuration or seed: {meta['config']}")
        try:
            self.backbone.load_state_dict(part(tensors, "backbone."))
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: the weights are another model's: {error}") from error
        self._best_state = part(tensors, "best.")
        restore_optimizer(self.optimizer, part(tensors, "optimizer."))
        self.generator.set_state(tensors["generator"])
        self.epoch, self.seconds = int(meta["epoch"]), float(meta["seconds"])
        self.history, self._best = list(meta["history"]), (float(meta["best"][0]), int(meta["best"][1]))
        self.work = work_in(self.history)
        return self


def pretrain(
    dataset: Dataset,
    backbone: str | Backbone = "diffrec",
    config: PretrainConfig | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    run_dir: Path | str | None = None,
    resume: bool = False,
    callback: Callable[[int, dict[str, float]], None] | None = None,
    eta: float = 1.0,
) -> PretrainResult:
    """Train a backbone by its ELBO.

    Args:
        dataset: what to learn from.
        backbone: a registry name (its published configuration is taken, the weights are drawn from
            ``seed``), or a model to go on with; it is trained in place.
        config: settings; None takes those of ``published_training``.
        seed: of everything random.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...
        run_dir: where the resume state goes.
        resume: go on from the state in ``run_dir``.
        callback: called after each epoch.
        eta: of the chain that validation runs, see ``DiffusionPolicy``.

    Example:
        >>> from refit_env.data import load_dataset
        >>> result = pretrain(load_dataset("synthetic"), config=PretrainConfig(epochs=1), device="cpu")
        >>> result.history[-1]["epoch"]
        1.0
    """
    if isinstance(backbone, str):
        backbone = backbone_for(dataset, backbone, seed=seed)
    if config is None:
        config = published_training(backbone.name, dataset.name)
    trainer = Pretrainer(dataset, backbone, config, seed=seed, device=device, eta=eta)
    if resume and run_dir is not None:
        trainer.load(run_dir)
    return trainer.learn(run_dir, callback)
