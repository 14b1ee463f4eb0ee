"""The training loop of gradient-based baselines, with early stopping on validation.

Letters: B examples in a batch (users, when scored), N examples of an epoch, U users, I items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn

from agents.baselines.base import Baseline, BaselineConfig, Scorer
from agents.baselines.popularity import popular_on_validation
from refit_env.data.dataset import Dataset
from refit_env.evaluation.ranking import evaluate, selecting_rule
from refit_env.settings import Nonnegative, Size


@dataclass(frozen=True)
class LearningConfig(BaselineConfig):
    """Settings of training by gradient."""

    learning_rate: Annotated[float, Meta(gt=0, le=10)] = 1e-3
    """Learning rate of Adam."""
    weight_decay: Nonnegative = 0.0
    """Adam's weight decay, on all weights."""
    batch: Size = 1024
    """Examples in a training step."""
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """Most epochs; without validation items, the exact number."""
    eval_every: Annotated[int, Meta(ge=1, le=100_000)] = 5
    """Epochs between validations."""
    patience: Annotated[int, Meta(ge=1, le=100_000)] = 3
    """Validations without a better NDCG@20 after which training stops; the best weights are used. A model
    that was never better than popularity has not begun to learn and goes on, up to ``epochs``."""


class Learner(nn.Module, ABC):
    """A network that is trained on numbered examples and scores users.

    All random numbers come from torch's global generator, which ``Learned`` seeds and restores.
    """

    phases: ClassVar[tuple[str, ...]] = ("all",)
    """The passes of an epoch; most have one."""

    @property
    @abstractmethod
    def num_examples(self) -> int:
        """N."""

    @abstractmethod
    def loss(self, ids: Tensor, phase: str) -> Tensor:
        """The loss of examples ``ids`` (B,) int64, a scalar."""

    @abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """Scores (B, I) for ``users`` (B,), in evaluation mode, after ``prepare``."""

    def examples(self, device: torch.device) -> Tensor:
        """Draw the examples of a pass (N,) int64: each once, in random order."""
        return torch.randperm(self.num_examples, device=device)

    def begin(self, phase: str) -> None:
        """Prepare a pass."""

    def prepare(self) -> None:
        """Compute the parts that the scores of all users share; called before scoring, without gradients."""

    def trained_in(self, phase: str) -> Iterable[nn.Parameter]:
        """Return the weights that a pass trains."""
        return self.parameters()

    def within_limits(self) -> bool:
        """Return whether the weights meet the limits that the model has besides its loss, if it has some.

        Early stopping keeps weights that do; where none did, those of the last epoch.
        """
        return True


class Learned(Baseline):
    """A baseline that is trained by Adam until validation stops improving."""

    seeded: ClassVar[bool] = True
    chooses: ClassVar[bool] = True
    config: LearningConfig

    @abstractmethod
    def build(self, data: Dataset) -> Learner:
        """Build the untrained network for a data set, on the CPU."""

    def fit_episodes(self, data: Dataset, seed: int, device: torch.device) -> Scorer:
        """Train."""
        with seeded(seed, device):
            model = self.build(data).to(device)
            epochs = train(model, data, self.config, device)

        def score(users: Tensor) -> Tensor:
            """Return the network's scores (B, I)."""
            with torch.no_grad():
                return model.scores(users)

        return Scorer(score, {"epochs": epochs})


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Return a context with seeded torch random numbers, which are restored afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def train(model: Learner, data: Dataset, config: LearningConfig, device: torch.device) -> int:
    """Train a model, and leave it with its best weights, in evaluation mode, ready to score.

    Args:
        model: on ``device``.
        data: its validation split is used for early stopping; without one, all epochs are run.
        config: settings.
        device: where it is trained.

    Returns:
        the epochs after which the weights were best.
    """
    optimizers = {
        phase: torch.optim.Adam(
            model.trained_in(phase), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        for phase in dict.fromkeys(model.phases)
    }
    metric = selecting_rule("ndcg@20", data).metric
    least = popular_on_validation(data, metric, device) if len(data.valid) else 0.0
    best, best_epoch, kept, waited = float("-inf"), config.epochs, None, 0
    for epoch in range(1, config.epochs + 1):
        model.train()
        for phase in model.phases:
            model.begin(phase)
            for ids in model.examples(device).split(config.batch):
                optimizers[phase].zero_grad(set_to_none=True)
                model.loss(ids, phase).backward()
                optimizers[phase].step()
        if not len(data.valid) or (epoch % config.eval_every and epoch < config.epochs):
            continue
        if not model.within_limits():
            continue
        value = validated(model, data, metric, device)
        if value > best:
            best, best_epoch, waited = value, epoch, 0
            kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        elif best > least and (waited := waited + 1) >= config.patience:
            break
    if kept is not None:
        model.load_state_dict(kept)
    ready(model)
    return best_epoch


def validated(model: Learner, data: Dataset, metric: str, device: torch.device) -> float:
    """Return the validation metric of a model, and set it to evaluation mode."""
    ready(model)
    with torch.no_grad():
        return evaluate(model.scores, data, "valid", device=device).means()[metric]


def ready(model: Learner) -> None:
    """Set a model to evaluation mode, and prepare it for scoring."""
    model.eval()
    with torch.no_grad():
        model.prepare()


def tensor_of(values: Any, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return an array as a tensor."""
    return torch.as_tensor(values, dtype=dtype)
