"""Training that can be stopped and continued: the base of pretraining and fine-tuning.

A state is checked as a whole before any of it is used, so that a resumed training is either the one that was
saved or the one that it was before.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from agents.runs.profiling import Usage, measure, up_to_now
from agents.training.checkpoint import (
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
from agents.training.tensors import (
    check_generator,
    check_optimizer,
    flatten_optimizer,
    part,
    restore_optimizer,
    stepped,
)
from refit_env.backbones import Backbone
from refit_env.backbones.restore import check_weights
from refit_env.checkpoint import load_state, save_state
from refit_env.errors import CheckpointError
from refit_env.evaluation.selection import UNMET, Rule
from refit_env.utils.atomic_io import check_record
from refit_env.utils.memory import arrays_kept


class TrainingState(NamedTuple):
    """The whole state of a training: a resumed one repeats an unbroken one."""

    tensors: dict[str, Tensor]
    """Weights, moments of the optimiser, states of the generators."""
    meta: dict[str, Any]
    """JSON-plain: settings, history, cost."""


class Resumable(ABC):
    """A training with a state.

    Between two sessions the model holds the weights that validation chose. The last weights of training are
    kept as well: ``save`` writes them with the optimiser's state, and another session continues from them.

    Attributes:
        done: iterations or epochs that are done.
        saved: ``done`` of the state that was saved or loaded last; None if there is none.
        history: scalars of each iteration or epoch.
        seconds: wall-clock time of training in all sessions, validation not counted.
        validation_seconds: that of validation.
    """

    stem: ClassVar[str]
    """Stem of the state's file in a run folder."""
    unit: ClassVar[str]
    """Unit of ``done``; its plural is the setting that limits it."""
    model_part: ClassVar[str]
    """Prefix of the model's tensors."""
    meta_class: ClassVar[type[Progress]]
    """Type of ``TrainingState.meta``."""
    fixed_because: ClassVar[Mapping[str, str]] = {}
    """Setting -> why it cannot change where it is none of ``free_settings``."""

    config: Any
    seed: int
    rule: Rule
    device: torch.device
    optimizer: torch.optim.Optimizer

    def _begin(self) -> None:
        """Set the state of a training that has not begun; the model must exist."""
        self.done = 0
        self.saved: int | None = None
        self.history: list[dict[str, float]] = []
        self.seconds = self.validation_seconds = 0.0
        self._earlier, self._usage = Usage(), Usage()  # cost of earlier sessions, and of this one
        self._reached: dict[str, Tensor] | None = None  # while the model holds the chosen weights
        self._unfinished = False  # within an update generators are ahead of weights: no state to save
        self._best: tuple[float, int] = (float("-inf"), 0)
        self._best_state = copy.deepcopy(self.model.state_dict())

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The trained module."""

    @property
    @abstractmethod
    def trained_backbone(self) -> Backbone:
        """The network in it."""

    @property
    @abstractmethod
    def generators(self) -> dict[str, torch.Generator]:
        """Sources of random numbers, by the names of their states."""

    @property
    @abstractmethod
    def largest_array(self) -> int:
        """Bytes of a batch's vectors, the arrays that training allocates again and again."""

    @property
    @abstractmethod
    def selects(self) -> bool:
        """Whether validation items select the weights; where they are learned, the last ones are kept."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what a state must share with this training besides the settings, JSON-plain."""

    @abstractmethod
    def free_settings(self) -> set[str]:
        """Return the settings in which a resumed training may differ."""

    # ------------------------------------------------------------------ progress

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Continue within the block from the last weights of training, and measure the cost."""
        self._check_finished()
        if self._reached is not None:
            self.model.load_state_dict(self._reached)
            self._reached = None
        try:
            with arrays_kept(self.largest_array, self.device), measure() as self._usage:
                yield
        finally:
            self._earlier, self._usage = self.spent(), Usage()

    def _set_aside(self) -> None:
        """Keep the last weights of training, so that the model can hold others."""
        self._reached = copy.deepcopy(self.model.state_dict())

    def _score(self, means: Mapping[str, float]) -> float:
        """Return the score of validation metrics by the rule that selects; higher is better."""
        return self.rule.score(means, self._start_means(means))

    def _start_means(self, now: Mapping[str, float]) -> Mapping[str, float]:
        """Return the validation metrics of the start; ``now``, those of this validation, if it is its own."""
        if not self.history:
            return now
        return {k.removeprefix("valid/"): v for k, v in self.history[0].items() if k.startswith("valid/")}

    def _keep_if_best(self, means: Mapping[str, float]) -> dict[str, float]:
        """Keep the weights if they are the best so far by the rule that selects.

        Returns:
            ``valid/rule_met``, 1 if the rule's conditions hold, for a rule that has conditions.
        """
        score = self._score(means)
        if score > self._best[0]:
            self._best = (score, self.done)
            self._best_state = copy.deepcopy(self.model.state_dict())
        return {"valid/rule_met": float(score > UNMET)} if self.rule.conditions else {}

    def _selected(self, score: float) -> float:
        """Return the rule's metric for a score; the start's where nothing met the conditions."""
        if score > UNMET:
            return self.rule.sign * score
        return self.history[0].get(f"valid/{self.rule.metric}", math.nan) if self.history else math.nan

    def _keep_last(self) -> None:
        """Keep the weights of now, where no validation items select."""
        if not self.selects:
            self._best = (-math.inf, self.done)
            self._best_state = copy.deepcopy(self.model.state_dict())

    def _limit(self) -> int:
        """Return the limit of ``done``."""
        return int(getattr(self.config, f"{self.unit}s"))

    def _validates_now(self) -> bool:
        return self.done % int(self.config.eval_every) == 0 or self.done == self._limit()

    def _out_of_patience(self) -> bool:
        every, patience = int(self.config.eval_every), int(self.config.patience)
        waited = (self.done - self._best[1]) // every  # validations without a gain
        return self.selects and 0 < patience <= waited

    def spent(self) -> Usage:
        """Return the cost of ``learn`` in all sessions until now."""
        return self._earlier + up_to_now(self._usage)

    def training_weights(self) -> dict[str, Tensor]:
        """Return the last weights of training; the model's own, unless it holds the chosen ones."""
        return self.model.state_dict() if self._reached is None else self._reached

    def _check_finished(self) -> None:
        """Refuse to continue from the middle of an update."""
        if self._unfinished:
            raise RuntimeError("the last update was cut short: load the last saved state first")

    # ------------------------------------------------------------------ state

    def state_dict(self) -> TrainingState:
        """Return the state of the training, from which ``load_state_dict`` continues.

        Raises:
            RuntimeError: if an update was cut short by a second Ctrl-C, and no state was loaded since.
        """
        self._check_finished()
        tensors = {f"{self.model_part}.{name}": value for name, value in self.training_weights().items()}
        tensors |= {f"best.{name}": value for name, value in self._best_state.items()}
        optimizer = flatten_optimizer(self.optimizer)
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.items()}
        tensors |= {name: generator.get_state() for name, generator in self.generators.items()}
        meta = self.identity() | {
            "config": asdict(self.config),
            "seed": self.seed,
            self.unit: self.done,
            "best": list(self._best),
            "history": self.history,
            "seconds": self.seconds,
            "validation_seconds": self.validation_seconds,
            "spent": self.spent().to_json(),
            "moved": stepped(self.optimizer),
        }
        return TrainingState(tensors, meta)

    def load_state_dict(self, state: TrainingState, where: str = "the state") -> None:
        """Continue from a state of ``state_dict``.

        Args:
            state: the state to load.
            where: its file, for the message.

        Raises:
            CheckpointError: if it belongs to another agent, configuration, data set or model, or is damaged;
                the training is then as it was.
        """
        meta: dict[str, Any] = dict(
            check_record(state.meta, self.meta_class, f"{where}: meta", error=CheckpointError)
        )
        self.check_state(state.tensors, meta, where)
        self.take_state(state.tensors, meta)

    def check_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], where: str) -> None:
        """Refuse a state that is not such a training's."""
        check_same(meta, {"seed": self.seed}, where)
        for name, own in self.identity().items():
            if isinstance(own, Mapping):
                check_same(meta[name], own, where)
            else:
                check_same(meta, {name: own}, where)
        config = {k: v for k, v in asdict(self.config).items() if k not in self.free_settings()}
        check_same(meta["config"], config, where, self.fixed_because)
        done, unit = meta[self.unit], self.unit
        if done > self._limit():
            raise CheckpointError(
                f"{where}: {done} {unit}s are done, this training has {unit}s={self._limit()}"
            )
        check_history(meta["history"], done, unit, meta["best"][1], where)
        read_work(meta["history"], where)
        for name in (f"{self.model_part}.", "best."):
            self.check_model(part(tensors, name), f"{where}: {name}*")
        moved = read_moved(meta, tensors, done, where)
        check_optimizer(self.optimizer, part(tensors, "optimizer."), moved, f"{where}: optimizer.*")
        for name, generator in self.generators.items():
            check_generator(generator, tensors.get(name), f"{where}: {name}")
        check_known(tensors, *self.known_tensors(), where)

    def check_model(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Refuse tensors that are not such a model's."""
        check_weights(self.trained_backbone, tensors, where)

    def known_tensors(self) -> tuple[set[str], tuple[str, ...]]:
        """Return the names, and prefixes of names, of the tensors of a state."""
        return set(self.generators), (f"{self.model_part}.", "best.", "optimizer.")

    def take_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back a state that ``check_state`` passed."""
        self.model.load_state_dict(part(tensors, f"{self.model_part}."))
        self._best_state = {k: v.to(self.device) for k, v in part(tensors, "best.").items()}
        restore_optimizer(self.optimizer, part(tensors, "optimizer."))
        for name, generator in self.generators.items():
            generator.set_state(tensors[name])
        self.done, self.history = meta[self.unit], read_history(meta["history"])
        self._best = read_best(meta["best"])
        self.seconds, self.validation_seconds = meta.get("seconds", 0.0), meta.get("validation_seconds", 0.0)
        self._earlier, self._reached, self._unfinished = read_usage(meta), None, False
        self.saved = self.done

    def save(self, folder: Path | str) -> None:
        """Write the state into a run folder, atomically: a kill leaves the last whole one.

        After ``learn`` this is still the state of the last iteration; the chosen weights are part of it.

        Raises:
            RuntimeError: if an update was cut short by a second Ctrl-C, and no state was loaded since.
        """
        save_state(Path(folder) / self.stem, *self.state_dict())
        self.saved = self.done

    def load(self, folder: Path | str) -> Self:
        """Load the state that ``save`` wrote; the next ``learn`` continues as if never stopped.

        Raises:
            CheckpointError: if there is no state, it belongs to another agent, configuration, data set or
                model, or it is damaged; the training is then as it was.
        """
        path = Path(folder) / self.stem
        self.load_state_dict(TrainingState(*load_state(path)), f"{path}.safetensors")
        return self
