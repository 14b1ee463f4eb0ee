"""Training of a backbone by its ELBO or to rank, with early stopping on validation.

Objective ``ranking`` is the supervised baseline of fine-tuning: cross-entropy of the held-out items R_u that
a reward of relevance ``recent`` or ``holdout`` counts, through the noise-free chain that the policy ranks by,

    L = - mean_u 1/|R_u| sum_{i in R_u} log softmax(scores_u / temperature)_i,

over all items but those that are shown. DreamRec, its causal form and Diff-POI have ranking losses of
their own, for target ``train``.

Letters: B users (of sequential sets: rows) in a batch, I items, L history length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.gradients.listwise import listwise
from agents.runs.files import PRETRAINING
from agents.runs.folder import check_no_run
from agents.runs.profiling import Usage
from agents.runs.work import Work, counted, work_in
from agents.training.checkpoint import PretrainMeta
from agents.training.examples import RankedExamples, ranked_examples, reconstruction_examples
from agents.training.interrupt import deferred_interrupt
from agents.training.precision import check_precision, products
from agents.training.pretrain_config import PretrainConfig, published_training
from agents.training.resumable import Resumable
from agents.training.shares import Share, shared
from agents.training.tensors import resolve_device
from agents.training.world import world_of
from refit_env.backbones import Backbone, backbone_for, check_task
from refit_env.checkpoint import weights_digest
from refit_env.data.dataset import Dataset
from refit_env.data.identity import DataIdentity, check_same_data
from refit_env.errors import SettingError
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import evaluate, evaluated_users, selecting_rule
from refit_env.policy import DiffusionPolicy
from refit_env.settings import Seed, Steps, check_callback, check_kind, check_setting
from refit_env.utils.memory import check_memory


@dataclass
class PretrainResult:
    """A trained backbone and the course of its training."""

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
    """Wall-clock time of validation in all sessions."""
    work: Work = field(default_factory=Work)
    """Rows through the denoiser in all sessions, validation not counted."""
    cost: Usage = field(default_factory=Usage)
    """Time of ``learn`` in all sessions, with everything in it, and its peaks of memory."""
    interrupted: bool = False
    """Whether Ctrl-C ended it; with a ``run_dir`` the state is saved and can be resumed."""


def has_ranking_loss(backbone: Backbone) -> bool:
    """Return whether a backbone has a loss of its own for the objective ``ranking``."""
    return type(backbone).ranking_loss is not Backbone.ranking_loss


class Pretrainer(Resumable):
    """Trains a backbone by its own loss. ``pretrain`` is the one-call form.

    Between two calls of ``learn`` the backbone holds the weights that validation chose; another ``learn``
    continues from the last ones.
    """

    config: PretrainConfig
    stem, unit, model_part, meta_class = PRETRAINING, "epoch", "backbone", PretrainMeta

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        config: PretrainConfig | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        num_steps: int | None = None,
        eta: float = 1.0,
    ) -> None:
        """Prepare.

        Args:
            dataset: its train split is for training, its valid split selects.
            backbone: untrained, or trained already (more of the same, or another target).
            config: settings.
            seed: of the batches, the steps and the noise; dropout too.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...
            num_steps: T of the policy that will be saved. Objective ``ranking`` runs its chain, and
                validation runs none that is longer; None uses ``eval_steps``.
            eta: of the chain that validation runs, see ``DiffusionPolicy``.

        Raises:
            ValueError: for an unknown ``select`` or device, or a backbone of another catalogue or task.
            DataError: if the backbone was trained on another data set.
        """
        check_kind("dataset", dataset, Dataset)
        check_kind("backbone", backbone, Backbone)
        check_kind("config", config, PretrainConfig, type(None))
        check_kind("eta", eta, float, int)
        check_setting("seed", seed, Seed)
        if num_steps is not None:
            check_setting("num_steps", num_steps, Steps)
        config = config if config is not None else PretrainConfig()
        self.rule = selecting_rule(config.select, dataset)
        self.config = replace(config, select=str(self.rule))
        if backbone.num_items != dataset.num_items:
            raise ValueError(
                f"the backbone has {backbone.num_items} items, {dataset.name!r} has {dataset.num_items}"
            )
        check_task(type(backbone), dataset)
        check_same_data(backbone.trained_on, dataset, "the backbone")
        backbone.check_can_learn(dataset)
        self._start = weights_digest(backbone.state_dict()) if backbone.trained_on is not None else ""
        backbone.trained_on = DataIdentity.of(dataset)
        self.dataset = dataset.episodes
        if self.selects:
            evaluated_users(dataset, "valid")
        self.device = resolve_device(device)
        check_precision(self.config.precision, self.device)
        self.world = world_of(self.device)
        if self.config.users_per_batch < self.world.size:
            raise SettingError(
                "users_per_batch",
                f"must be at least {self.world.size}, the processes that share a batch, found "
                f"{self.config.users_per_batch}",
            )
        self.backbone = backbone.to(self.device).requires_grad_(True)
        self.seed = seed
        own = has_ranking_loss(backbone) and self.config.target == "train"
        self._by_chain = self.config.objective == "ranking" and not own
        examples = ranked_examples if self._by_chain else reconstruction_examples
        self._check_memory()
        self.examples = examples(backbone, self.dataset, self.config, self.device)
        self.optimizer = self._make_optimizer()
        self.generator = torch.Generator(self.device).manual_seed(seed)
        steps = self._chain_length(num_steps)
        self._chain = DiffusionPolicy(backbone, steps, eta=eta).to(self.device)
        self.work = Work()
        self._begin()

    def _chain_length(self, num_steps: int | None) -> int:
        """Return the steps of the chain that validation runs, and training to rank."""
        longest, steps = self.backbone.diffusion.num_steps, self.config.eval_steps
        if num_steps is None or (steps == 0 and not self._by_chain):
            return min(steps or longest, longest)
        return min(num_steps, longest) if self._by_chain else min(steps, num_steps, longest)

    def _make_optimizer(self) -> torch.optim.AdamW:
        """Return AdamW with the backbone's groups of weights, each with its own first step size."""
        groups = self.backbone.parameter_groups(self.config.learning_rate)
        for group in groups:
            group["initial_lr"] = group["lr"]
        return torch.optim.AdamW(groups, self.config.learning_rate, weight_decay=self.config.weight_decay)

    def _check_memory(self) -> None:
        """Refuse a batch whose rows and weights alone do not fit into the free memory.

        A batch has an input, its noise, a prediction and its derivative; of the weights there are the
        gradient, AdamW's two moments and the best ones. What the network keeps comes on top.

        Raises:
            ValueError: with what is needed and what is free.
        """
        weights = sum(weight.numel() for weight in self.backbone.parameters())
        what = f"a batch of {self._rows:,} rows of {self.backbone.dim:,} numbers (--users-per-batch)"
        check_memory(4 * self.largest_array + 16 * weights, self.device, what)

    @property
    def _rows(self) -> int:
        """Rows of a batch."""
        return min(self.config.users_per_batch, self.dataset.num_users)

    @property
    def largest_array(self) -> int:
        """Bytes of a batch's rows."""
        return 4 * self._rows * self.backbone.dim

    def learn(
        self,
        run_dir: Path | str | None = None,
        callback: Callable[[int, dict[str, float]], None] | None = None,
        *,
        overwrite: bool = False,
    ) -> PretrainResult:
        """Train until validation stops rising, or epochs or work run out.

        On a data set whose validation items are learned (``Dataset.learning_validation``) none are left to
        select by: all epochs are run, and the last weights are kept.

        Args:
            run_dir: where the resume state goes after each validation; None writes none. Of several
                processes the first one writes it.
            callback: called after each epoch with its number and scalars.
            overwrite: whether a training that begins may replace the files of a run in ``run_dir``.

        Returns:
            The backbone with the best validation weights, and the history. Ctrl-C ends training after the
            epoch under way, and the state is saved; a second one ends it at once, and the state that was
            saved last stays. The result then says ``interrupted``.

        Raises:
            RunError: if the folder holds a run that a training that begins would replace, or is a data set's.
            SettingError: if ``overwrite`` is no bool.
            RuntimeError: if an epoch was cut short by a second Ctrl-C, and no state was loaded since.
        """
        check_kind("overwrite", overwrite, bool)
        check_callback(callback)
        if run_dir is not None and not self.history and not overwrite:
            check_no_run(run_dir)
        with self._session():
            self.backbone.requires_grad_(True)
            interrupted = self._run(run_dir, callback)
        self._keep_last()
        self._set_aside()
        self.backbone.load_state_dict(self._best_state)
        self.backbone.eval().freeze_scores()
        (score, epoch), times = self._best, (self.seconds, self.validation_seconds)
        value = self._selected(score)
        cost = self._earlier
        return PretrainResult(self.backbone, self.history, epoch, value, *times, self.work, cost, interrupted)

    def _run(
        self, run_dir: Path | str | None, callback: Callable[[int, dict[str, float]], None] | None
    ) -> bool:
        """Train epoch by epoch; returns whether Ctrl-C ended it."""
        run_dir = None if self.world.rank else run_dir
        try:
            with deferred_interrupt() as interrupted_now:
                if self.epoch == 0 and not self.history:
                    self._record(self._validate(), callback)
                while not self._done():
                    if self.world.any(interrupted_now()):
                        raise KeyboardInterrupt
                    self._record(self._step(), callback)
                    if run_dir is not None and self._validates_now():
                        self.save(run_dir)
        except KeyboardInterrupt:
            # A second Ctrl-C may come anywhere: within an epoch, or before the first epoch ended,
            # which leaves nothing to keep.
            if run_dir is not None and self.done and not self._unfinished:
                self.save(run_dir)
            return True
        return False

    def _step(self) -> dict[str, float]:
        """One epoch; its dropout is seeded by its number, so that a resumed run repeats an unbroken one."""
        begin = time.perf_counter()
        self._unfinished = True
        self.backbone.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.config.learning_rate_decay**self.epoch
        losses, before, ids = [], self.work, self.examples.ids
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(ids.numel(), generator=self.generator, device=self.device)
            for pick in order.split(self.config.users_per_batch):
                losses.append(self._update(ids[pick]))
                if self._out_of_work():
                    break
        self.done += 1
        self.seconds += time.perf_counter() - begin
        scalars = {"train/loss": sum(losses) / len(losses), "seconds/training": self.seconds}
        scalars |= (self.work - before).scalars()
        return scalars | (self._validate() if self._validates_now() else {})

    def _update(self, ids: Tensor) -> float:
        """One gradient step on the examples ``ids`` (B,), of which each process has a share."""
        share = Share(self.world.rank, self.world.size, ids.numel())
        with counted(self.backbone) as work:
            with products(self.config.precision, self.device), shared(share, self.world):
                loss = self._loss(ids[share.used]) * share.weight
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.world.average([p.grad for p in trained if p.grad is not None])
        self.optimizer.step()
        work = work if share.rows else Work()
        total, forward, backward = self.world.total([float(loss.detach()), work.forward, work.backward])
        self.work += Work(int(forward), int(backward))
        return total / self.world.size

    def _loss(self, ids: Tensor) -> Tensor:
        """Return the configured objective on the examples ``ids`` (B,)."""
        shown = self.examples.shown(ids)  # (B, I) or (B, L)
        if isinstance(self.examples, RankedExamples):
            self.backbone.eval()  # the chain of the policy, thus without dropout
            scores = self._chain.scores(ids, shown)  # (B, I)
            if self.examples.hidden is not None:
                scores = scores.masked_fill(self.examples.hidden(ids), -torch.inf)
            return listwise(scores / self.config.temperature, self.examples.relevant(ids))
        same = self.examples.target is self.examples.shown
        target = shown if same else self.examples.target(ids)  # (B, I) or (B,)
        own = self.config.objective == "ranking"
        loss_of = self.backbone.ranking_loss if own else self.backbone.elbo_loss
        return loss_of(shown, target, self.generator)

    def _validate(self) -> dict[str, float]:
        if not self.selects:
            return {}
        begin = time.perf_counter()
        means = self.world.of_first(self._means)
        out = {f"valid/{name}": mean for name, mean in means.items()} | self._keep_if_best(means)
        self.validation_seconds += time.perf_counter() - begin
        return out

    def _means(self) -> dict[str, float]:
        """Return the validation metrics."""
        found = evaluate(self._chain.scorer(self.dataset), self.dataset, "valid", device=self.device)
        return means_of(found, self.dataset, "valid", self.rule.names)

    def _record(
        self, scalars: dict[str, float], callback: Callable[[int, dict[str, float]], None] | None
    ) -> None:
        self.history.append({"epoch": float(self.epoch)} | scalars)
        self._unfinished = False
        if callback is not None:
            callback(self.epoch, scalars)

    def _validates_now(self) -> bool:
        return super()._validates_now() or self._out_of_work()

    def _out_of_work(self) -> bool:
        return bool(0 < self.config.max_work <= self.work.units)

    def _done(self) -> bool:
        return self.done >= self.config.epochs or self._out_of_work() or self._out_of_patience()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.done

    @property
    def selects(self) -> bool:
        """Whether validation items select."""
        return not self.dataset.validation_learned

    @property
    def model(self) -> Backbone:
        """The backbone."""
        return self.backbone

    @property
    def trained_backbone(self) -> Backbone:
        """The backbone."""
        return self.backbone

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """The generator of the batches, the steps and the noise."""
        return {"generator": self.generator}

    def identity(self) -> dict[str, Any]:
        """Return the data set, and the weights of the trained model that training began with."""
        start = {"start": self._start} if self._start else {}
        return {"data_fingerprint": self.dataset.fingerprint, **start}

    def free_settings(self) -> set[str]:
        """Return the number of epochs."""
        return {"epochs"}

    def take_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back a state that ``check_state`` passed."""
        super().take_state(tensors, meta)
        self.work = work_in(self.history)


def pretrain(
    dataset: Dataset,
    backbone: str | Backbone = "diffrec",
    config: PretrainConfig | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "auto",
    run_dir: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callback: Callable[[int, dict[str, float]], None] | None = None,
    num_steps: int | None = None,
    eta: float = 1.0,
) -> PretrainResult:
    """Train a backbone by its ELBO, or to rank.

    Args:
        dataset: the training data.
        backbone: a registry name (its published configuration is taken, the weights are drawn from
            ``seed``), or a model to train further, in place.
        config: settings; None uses those of ``published_training``.
        seed: of everything random.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...
        run_dir: where the resume state goes.
        resume: continue from the state in ``run_dir``.
        overwrite: whether a training that begins may replace the files of a run in ``run_dir``.
        callback: called after each epoch.
        num_steps: T of the policy that will be saved, see ``Pretrainer``; None uses ``eval_steps``.
        eta: of the chain that validation runs, see ``DiffusionPolicy``.

    Raises:
        RunError: if ``run_dir`` holds a run that a training that begins would replace.
        KeyboardInterrupt: after Ctrl-C, stating what is saved: half a training is no result.

    Example:
        >>> from refit_env.data import load_dataset
        >>> result = pretrain(load_dataset("synthetic"), config=PretrainConfig(epochs=1), device="cpu")
        >>> result.history[-1]["epoch"]
        1.0
    """
    check_kind("dataset", dataset, Dataset)
    check_kind("backbone", backbone, str, Backbone)
    check_setting("seed", seed, Seed)
    if isinstance(backbone, str):
        backbone = backbone_for(dataset, backbone, seed=seed)
    if config is None:
        config = published_training(backbone.name, dataset.name)
    chain: dict[str, Any] = {"num_steps": num_steps, "eta": eta}
    trainer = Pretrainer(dataset, backbone, config, seed=seed, device=device, **chain)
    if resume and run_dir is not None:
        trainer.load(run_dir)
    result = trainer.learn(run_dir, callback, overwrite=overwrite)
    if result.interrupted:
        raise KeyboardInterrupt(_kept(trainer, run_dir))
    return result


def _kept(trainer: Pretrainer, run_dir: Path | str | None) -> str:
    """Return what an interrupted training leaves, in one line."""
    if run_dir is None:
        return f"pretraining ended after epoch {trainer.epoch}; without run_dir nothing is saved"
    if trainer.saved is None:
        return "pretraining ended before its first state was saved"
    return f"epoch {trainer.saved} is saved in {run_dir}; resume=True continues"
