"""ELBO training of a backbone, with early stopping on validation; also the controls that RL stands beside.

Letters: B users (of sequential sets: rows) in a batch, I items, L history length, R rows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NotRequired

import torch
from torch import Tensor

from agents.runs.profiling import Usage, measure, up_to_now
from agents.runs.work import Work, counted
from agents.training.checkpoint import (
    Count,
    Progress,
    check_history,
    check_known,
    check_same,
    read_best,
    read_history,
    read_moved,
    read_usage,
    read_work,
)
from agents.training.interrupt import deferred_interrupt
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.training.tensors import (
    check_generator,
    check_optimizer,
    flatten_optimizer,
    part,
    resolve_device,
    restore_optimizer,
    stepped,
)
from refit_env.backbones import Backbone, Look, backbone_for, check_task
from refit_env.backbones.restore import check_weights
from refit_env.checkpoint import load_state, save_state
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity, check_same_data
from refit_env.data.rows import SparseRows
from refit_env.data.sequences import RowDataset
from refit_env.errors import CheckpointError, SettingError
from refit_env.evaluation.ranking import evaluate, evaluated_users, selecting_metric
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.relevance import make_relevance
from refit_env.utils.atomic_io import check_record

STATE_NAME = "pretrain"
"""Stem of the resume state in a run folder."""


class PretrainMeta(Progress):
    """What the resume state of pretraining holds besides tensors."""

    epoch: Count
    """Epochs done."""
    data_fingerprint: NotRequired[str]
    """Of the data set."""


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
    """Wall-clock time of training in all sessions, validation not counted."""
    validation_seconds: float = 0.0
    """That of validation."""
    work: Work = field(default_factory=Work)
    """Rows through the denoiser in all sessions, validation not counted."""
    cost: Usage = field(default_factory=Usage)
    """Of ``learn`` in all sessions: time with everything in it, and the peaks of memory."""


def has_ranking_loss(backbone: Backbone) -> bool:
    """Whether a backbone can be trained by the objective ``ranking``."""
    return type(backbone).ranking_loss is not Backbone.ranking_loss


class Pretrainer:
    """Trains a backbone by its own loss. ``pretrain`` is the one-call form.

    Between two calls of ``learn`` the backbone holds the weights that validation chose. What training has
    reached is kept beside them: ``save`` writes that, with the optimiser's state that belongs to it, and
    another ``learn`` goes on from there.
    """

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
            DataError: if the backbone was trained on another data set.
        """
        config = config if config is not None else PretrainConfig()
        self.config = replace(config, select_on=selecting_metric(config.select_on, dataset))
        if backbone.num_items != dataset.num_items:
            raise ValueError(
                f"the backbone has {backbone.num_items} items, {dataset.name!r} has {dataset.num_items}"
            )
        check_task(type(backbone), dataset)
        if config.objective == "ranking" and not has_ranking_loss(backbone):
            raise SettingError(
                "objective", f"must be elbo: backbone {backbone.name!r} has no ranking objective"
            )
        check_same_data(backbone.trained_on, dataset, "the backbone")
        backbone.trained_on = DataIdentity.of(dataset)
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
        self.saved_epoch: int | None = None  # of the state that was saved or loaded last
        self.seconds = self.validation_seconds = 0.0  # of all sessions
        self.work = Work()
        self._earlier, self._usage = Usage(), Usage()  # cost of earlier sessions, and of this one
        self._resting: dict[str, Tensor] | None = None  # what training has reached, see above
        self._within_epoch = False  # then generators are ahead of weights: no state to save
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

        Raises:
            KeyboardInterrupt: after Ctrl-C, when the epoch under way is done and (with a ``run_dir``) saved.
                A second one raises at once, and the state that was saved last stays.
            RuntimeError: if an epoch was cut short by a second Ctrl-C, and no state was loaded since.
        """
        self._check_whole()
        if self._resting is not None:
            self.backbone.load_state_dict(self._resting)
            self.backbone.requires_grad_(True)
            self._resting = None
        try:
            with measure() as self._usage:
                self._run(run_dir, callback)
        finally:
            self._earlier, self._usage = self.spent(), Usage()
        self._resting = copy.deepcopy(self.backbone.state_dict())
        self.backbone.load_state_dict(self._best_state)
        self.backbone.eval().freeze_scores()
        (value, epoch), times = self._best, (self.seconds, self.validation_seconds)
        return PretrainResult(self.backbone, self.history, epoch, value, *times, self.work, self._earlier)

    def _run(
        self, run_dir: Path | str | None, callback: Callable[[int, dict[str, float]], None] | None
    ) -> None:
        """Train epoch by epoch."""
        with deferred_interrupt() as asked_to_stop:
            if self.epoch == 0 and not self.history:
                self._record(self._validate(), callback)
            while not self._done():
                stop = asked_to_stop()
                if not stop:
                    self._record(self._step(), callback)
                if run_dir is not None and (stop or self._validates_now()):
                    self.save(run_dir)
                if stop:
                    raise KeyboardInterrupt

    def _step(self) -> dict[str, float]:
        """One epoch; its dropout is seeded by its number, so that a resumed run repeats an unbroken one."""
        begin = time.perf_counter()
        self._within_epoch = True
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
        begin = time.perf_counter()
        means = evaluate(self._judge.scorer(self.dataset), self.dataset, "valid", device=self.device).means()
        value = means[self.config.select_on]
        if value > self._best[0]:
            self._best, self._best_state = (value, self.epoch), copy.deepcopy(self.backbone.state_dict())
        self.validation_seconds += time.perf_counter() - begin
        return {f"valid/{name}": mean for name, mean in means.items()}

    def _record(
        self, scalars: dict[str, float], callback: Callable[[int, dict[str, float]], None] | None
    ) -> None:
        self.history.append({"epoch": float(self.epoch)} | scalars)
        self._within_epoch = False
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
        """Write everything that training needs to go on, atomically.

        After ``learn`` this is still the state that training has reached; the chosen weights are part of it.

        Raises:
            RuntimeError: if an epoch was cut short by a second Ctrl-C, and no state was loaded since.
        """
        self._check_whole()
        weights = self.backbone.state_dict() if self._resting is None else self._resting
        tensors = {f"backbone.{k}": v for k, v in weights.items()}
        tensors |= {f"best.{k}": v for k, v in self._best_state.items()}
        tensors |= {f"optimizer.{k}": v for k, v in flatten_optimizer(self.optimizer).items()}
        tensors["generator"] = self.generator.get_state()
        meta = {
            "config": asdict(self.config),
            "data_fingerprint": self.dataset.fingerprint,
            "seed": self.seed,
            "epoch": self.epoch,
            "best": list(self._best),
            "history": self.history,
            "seconds": self.seconds,
            "validation_seconds": self.validation_seconds,
            "spent": self.spent().to_json(),
            "moved": stepped(self.optimizer),
        }
        save_state(Path(folder) / STATE_NAME, tensors, meta)
        self.saved_epoch = self.epoch

    def spent(self) -> Usage:
        """Cost of ``learn`` in all sessions until now."""
        return self._earlier + up_to_now(self._usage)

    def _check_whole(self) -> None:
        """Refuse to go on from the middle of an epoch."""
        if self._within_epoch:
            raise RuntimeError("the last epoch was cut short: load the last saved state first")

    def load(self, folder: Path | str) -> Pretrainer:
        """Take up the state that ``save`` wrote.

        Raises:
            CheckpointError: if there is none, it belongs to another model, configuration or data set, or is
                damaged; nothing is changed then.
        """
        where = f"{Path(folder) / STATE_NAME}.safetensors"
        tensors, raw = load_state(Path(folder) / STATE_NAME)
        meta = check_record(raw, PretrainMeta, f"{where}: meta", error=CheckpointError)
        self._check_saved(tensors, meta, where)
        self.backbone.load_state_dict(part(tensors, "backbone."))
        self._best_state = {k: v.to(self.device) for k, v in part(tensors, "best.").items()}
        restore_optimizer(self.optimizer, part(tensors, "optimizer."))
        self.generator.set_state(tensors["generator"])
        self.epoch, self.history = meta["epoch"], read_history(meta["history"])
        self.saved_epoch = self.epoch
        self._best, self.work = read_best(meta["best"]), read_work(meta["history"], where)
        self.seconds, self.validation_seconds = meta.get("seconds", 0.0), meta.get("validation_seconds", 0.0)
        self._earlier, self._resting, self._within_epoch = read_usage(meta), None, False
        return self

    def _check_saved(self, tensors: Mapping[str, Tensor], meta: PretrainMeta, where: str) -> None:
        """Refuse a state that is not such a training's."""
        config = asdict(self.config)
        del config["epochs"]  # more may be asked for
        now = {"seed": self.seed, "data_fingerprint": self.dataset.fingerprint}
        check_same({**meta}, now, where)
        check_same(meta["config"], config, where)
        if meta["epoch"] > self.config.epochs:
            raise CheckpointError(
                f"{where}: {meta['epoch']} epochs are done, this training has epochs={self.config.epochs}"
            )
        check_history(meta["history"], meta["epoch"], "epoch", meta["best"][1], where)
        read_work(meta["history"], where)
        for name in ("backbone.", "best."):
            check_weights(self.backbone, part(tensors, name), f"{where}: {name}*")
        moved = read_moved(meta, tensors, meta["epoch"], where)
        check_optimizer(self.optimizer, part(tensors, "optimizer."), moved, f"{where}: optimizer.*")
        check_generator(self.generator, tensors.get("generator"), f"{where}: generator")
        check_known(tensors, ("generator",), ("backbone.", "best.", "optimizer."), where)


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
