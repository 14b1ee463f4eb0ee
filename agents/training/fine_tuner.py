"""What every fine-tuning agent shares: users, validation, the best weights, logs, checkpoint and resume.

An agent is a subclass with one method, ``update(users)``: one iteration of its equation.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from agents.gradients.episodes import Rollout, Slopes
from agents.rollouts.rollout import Graph, Noise, roll_out
from agents.rollouts.training_envs import check_training_env, make_training_envs
from agents.runs.log import RunLog
from agents.runs.profiling import Usage, measure, up_to_now
from agents.runs.work import Work, counted, work_in
from agents.training.checkpoint import STATE_NAME, load_training, save_training
from agents.training.config import TrainerConfig
from agents.training.interrupt import deferred_interrupt
from agents.training.kl import divergence
from agents.training.tensors import resolve_device
from agents.training.weight_interpolation import best_between
from refit_env.data.identity import DataIdentity
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.errors import SettingError
from refit_env.evaluation.ranking import Evaluation, evaluate, evaluated_users, selecting_metric
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import refresh_all

__all__ = ["STATE_NAME", "FineTuneResult", "FineTuner", "TrainerConfig"]

Self = TypeVar("Self", bound="FineTuner")


@dataclass
class FineTuneResult:
    """What fine-tuning gives back; the agent's policy already holds the best weights."""

    policy: DiffusionPolicy
    """The policy with the weights that validation chose."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Scalars of each iteration."""
    best_iteration: int = 0
    """Iteration of the chosen weights; 0 is the untouched pretrained model."""
    best_value: float = float("nan")
    """The validation metric there."""
    share: float = 1.0
    """How far from the pretrained weights to those of ``best_iteration`` the policy's lie: 1, unless one of
    the ``blends`` was the best."""
    seconds: float = 0.0
    """Wall-clock time of training in all sessions, validation not counted."""
    validation_seconds: float = 0.0
    """That of validation."""
    cost: Usage = field(default_factory=Usage)
    """Of ``learn`` in all sessions: time with everything in it, and the peaks of memory."""
    interrupted: bool = False
    """Whether Ctrl-C ended it; the state is saved and can be resumed."""

    @property
    def work(self) -> Work:
        """Rows through the denoiser in all iterations, validation not counted."""
        return work_in(self.history)


class FineTuner(ABC):
    """Fine-tunes a pretrained diffusion policy on an environment; subclasses say how.

    Random numbers come from two generators of the agent's own (users, noise), so that neither the
    caller's seeds nor a validation in between changes a run, and a resumed run repeats an unbroken one.

    Between two calls of ``learn`` the policy holds the weights that validation chose. What training has
    reached is kept beside them: ``save`` writes that, with the optimiser's state that belongs to it, and
    another ``learn`` goes on from there.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[TrainerConfig]] = TrainerConfig
    maximize: ClassVar[bool] = False
    """Whether the gradients that ``update`` makes are those of what shall rise, so that Adam climbs."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        env: str | DenoisingVectorEnv,
        config: TrainerConfig | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare an agent.

        Args:
            policy: the pretrained policy; trained in place.
            env: an environment id, or a torch-backend ``DenoisingVectorEnv`` with
                ``users_per_batch * samples_per_user`` sub-environments and the policy's T.
            config: settings; the class's defaults if None.
            env_kwargs: for an id: what ``gym.make_vec`` is given (reward, relevance, data ...).
            seed: of the users drawn and of the noise.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...

        Raises:
            ValueError: if the environment does not fit the policy or the configuration; for a wrong setting.
            ValueError: if the settings need another kind of reward than the environment's.
        """
        self.config = config if config is not None else self.config_class()
        self.device = resolve_device(device)
        self.seed = seed
        self.policy = policy.to(self.device).eval()  # dropout off: samples and log-probs share one network
        self.policy.set_exploration(self.config.exploration_std, self.config.posterior_share)
        if isinstance(env, str):
            batch, self.envs = make_training_envs(env, self.policy, self.config, self.device, env_kwargs)
            self.config = replace(self.config, users_per_batch=batch)
        else:
            self.envs = [env]
        self.env = self.envs[0]
        check_training_env(self.env, self.policy, self.config)
        metric = selecting_metric(self.config.select_on, self.env.problem.dataset)
        self.config = replace(self.config, select_on=metric)
        self.policy.backbone.trained_on = DataIdentity.of(self.env.problem.dataset)
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            self.policy.parameters(), self.config.learning_rate, maximize=self.maximize, fused=True
        )
        self.user_generator = torch.Generator().manual_seed(seed)
        self.noise_generator = torch.Generator(self.device).manual_seed(seed + 1)
        self.iteration = 0
        self.saved_iteration: int | None = None  # of the state that was saved or loaded last
        self._within_step = False  # then generators are ahead of weights: no state to save
        self.history: list[dict[str, float]] = []
        self.seconds = self.validation_seconds = 0.0  # of all sessions
        self._earlier, self._usage = Usage(), Usage()  # cost of earlier sessions, and of this one
        self._resting: dict[str, Tensor] | None = None  # what training has reached, see above
        self._train_users, self._selection_users = self._split_users()
        evaluated_users(self.env.problem.dataset, "valid", self._selection_users)
        self._best_state = copy.deepcopy(self.policy.state_dict())
        self._best: tuple[float, int] = (float("-inf"), 0)
        self._lists: Tensor | None = None  # (E, U, K) what rewards that look at others' lists were last shown
        self.check_settings()
        self.prepare()

    def check_settings(self) -> None:  # noqa: B027  # some algorithms have nothing to refuse
        """Refuse what the algorithm cannot work with, before any work is done; subclasses add their own.

        Raises:
            ValueError: for a wrong setting, or a policy that does not go with it.
            ValueError: if the settings need another kind of reward.
        """

    def prepare(self) -> None:  # noqa: B027  # most need nothing
        """What is left to do once the settings are found good."""

    @abstractmethod
    def update(self, users: Tensor) -> dict[str, float]:
        """One iteration on ``users`` (B,) int64; returns its scalars."""

    # ------------------------------------------------------------------ the loop

    def learn(
        self,
        run_dir: Path | str | None = None,
        *,
        callback: Callable[[FineTuner, dict[str, float]], None] | None = None,
        progress: bool = False,
    ) -> FineTuneResult:
        """Train until the configured iterations are done; call again after a resume to go on.

        Args:
            run_dir: where ``log.csv``, ``tb/`` and the resume state go; None writes nothing.
            callback: called after each iteration with the agent and its scalars.
            progress: show a progress bar.

        Returns:
            The policy with the best validation weights, and the history. Ctrl-C ends the loop after the
            iteration under way, and the state is saved; the result then says ``interrupted``. Where all
            iterations are done, another call returns the same again.

        Raises:
            RuntimeError: if an update was cut short by a second Ctrl-C, and no state was loaded since.
        """
        self._check_whole()
        if self._resting is not None:
            self.policy.load_state_dict(self._resting)
            self._resting = None
        folder = None if run_dir is None else Path(run_dir)
        try:
            with measure() as self._usage:
                interrupted = self._iterate(folder, callback, progress)
                result = self._chosen(interrupted)
        finally:
            self._earlier, self._usage = self.spent(), Usage()
        result.cost = self._earlier
        return result

    def _iterate(
        self,
        folder: Path | None,
        callback: Callable[[FineTuner, dict[str, float]], None] | None,
        progress: bool,
    ) -> bool:
        """Iterate; returns whether Ctrl-C ended it."""
        log = None if folder is None else RunLog(folder, resume_after=self.iteration or None)
        bar = tqdm(total=self.config.iterations, initial=self.iteration, disable=not progress, desc=self.name)
        interrupted = False
        try:
            with deferred_interrupt() as asked_to_stop:
                if self.iteration == 0:
                    self._record(self._validate(), log)
                while self.iteration < self.config.iterations and not self._out_of_patience():
                    if asked_to_stop():
                        raise KeyboardInterrupt
                    self._record(self._step(), log)
                    if folder is not None and self._validates_now():
                        self.save(folder)
                    if callback is not None:
                        callback(self, self.history[-1])
                    bar.update()
        except KeyboardInterrupt:
            interrupted = True
            if folder is not None and not self._within_step:  # a second Ctrl-C may come anywhere
                self.save(folder)
        finally:
            bar.close()
            if log is not None:
                log.close()
        return interrupted

    def _chosen(self, interrupted: bool) -> FineTuneResult:
        """Put the chosen weights into the policy, and those that training has reached aside."""
        begin = time.perf_counter()
        self._resting = copy.deepcopy(self.policy.state_dict())
        (value, at), share, state = self._best, 1.0, self._best_state
        if self.config.blends and not interrupted:
            found = best_between(self.policy, self.reference, self.config.blends, self._value)
            if found[0] > value:
                (value, share, state), at = found, self.iteration
        self.policy.load_state_dict(state)
        validation = self.validation_seconds + time.perf_counter() - begin
        return FineTuneResult(
            self.policy,
            self.history,
            best_iteration=at,
            best_value=value,
            share=share,
            seconds=self.seconds,
            validation_seconds=validation,
            interrupted=interrupted,
        )

    def _step(self) -> dict[str, float]:
        """One iteration with its bookkeeping."""
        begin = time.perf_counter()
        self._within_step = True
        if self.config.anneal_lr:
            for group in self.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * (1 - self.iteration / self.config.iterations)
        self.env = self.envs[self.iteration % len(self.envs)]
        pick = torch.randperm(self._train_users.numel(), generator=self.user_generator)
        users = self._train_users[pick[: self.config.users_per_batch]].to(self.device)
        with counted(self.policy.backbone, self.reference.backbone) as work:
            scalars = self.update(users)
        scalars |= work.scalars()
        self.iteration += 1
        scalars["seconds/update"] = time.perf_counter() - begin
        self.seconds += scalars["seconds/update"]
        if self._validates_now():
            scalars |= self._validate()
        return scalars

    def _record(self, scalars: dict[str, float], log: RunLog | None) -> None:
        self.history.append({"iteration": float(self.iteration)} | scalars)
        self._within_step = False
        if log is not None:
            log.write(self.iteration, scalars)

    def _validates_now(self) -> bool:
        return self.iteration % self.config.eval_every == 0 or self.iteration == self.config.iterations

    def _out_of_patience(self) -> bool:
        waited = (self.iteration - self._best[1]) // self.config.eval_every
        return 0 < self.config.patience <= waited

    def _validate(self) -> dict[str, float]:
        """Look at the validation set and keep the weights if they are the best so far."""
        begin = time.perf_counter()
        self._refresh_lists()
        means = self._valid_means()
        if means[self.config.select_on] > self._best[0]:
            self._best = (means[self.config.select_on], self.iteration)
            self._best_state = copy.deepcopy(self.policy.state_dict())
        out = {f"valid/{k}": v for k, v in means.items()}
        out["policy/kl_to_pretrained"] = divergence(
            self.policy, self.reference, self.envs[0].problem, self._train_users
        )  # always the first hold-out's: chains begin elsewhere in each
        out["seconds/validation"] = time.perf_counter() - begin
        self.validation_seconds += out["seconds/validation"]
        return out

    def _valid_means(self) -> dict[str, float]:
        """The validation metrics of the users that select."""
        return self.evaluate("valid", users=self._selection_users).means()

    def _value(self) -> float:
        """The metric that selects."""
        return self._valid_means()[self.config.select_on]

    def _refresh_lists(self) -> None:
        """Show the policy's own lists to rewards that look at others' (coverage, RACS's neighbor_lists)."""
        rewards = [env.problem.reward_fn for env in self.envs]
        if rewards[0].uses_lists:
            score = self.policy.scorer(self.env.problem.dataset)
            self._lists = torch.stack(refresh_all(rewards, score))  # each hold-out's own

    def take_lists(self, lists: Tensor) -> None:
        """Show each environment's reward the lists (E, U, K) that ``_refresh_lists`` showed it."""
        self._lists = lists
        for env, own in zip(self.envs, lists, strict=True):
            env.problem.reward_fn.set_lists(own)

    def evaluate(self, split: str = "test", users: Any = None, *, start: bool = False) -> Evaluation:
        """Full-ranking evaluation by the noise-free chain.

        Args:
            split: which items count as relevant.
            users: whose lists; all if None.
            start: whether of the policy that training began with, else of the policy as it is now.
        """
        dataset, policy = self.env.problem.dataset, self.reference if start else self.policy
        return evaluate(policy.scorer(dataset), dataset, split, users=users, device=self.device)

    # ------------------------------------------------------------------ checkpoint and resume

    def save(self, folder: Path | str) -> None:
        """Write everything that training needs to go on, atomically: a kill leaves the last whole state.

        After ``learn`` this is still the state that training has reached; the chosen weights are part of it.
        ``policy.save`` writes the chosen weights alone.

        Raises:
            RuntimeError: if an update was cut short by a second Ctrl-C, and no state was loaded since.
        """
        self._check_whole()
        save_training(self, folder)
        self.saved_iteration = self.iteration

    def load(self: Self, folder: Path | str) -> Self:
        """Take up the state that ``save`` wrote; the next ``learn`` goes on as if never stopped.

        Raises:
            CheckpointError: if there is no state, it belongs to another agent, configuration, data set or
                model, or it is damaged; the agent is then as it was.
        """
        load_training(self, folder)
        self._within_step, self.saved_iteration = False, self.iteration
        return self

    def training_weights(self) -> dict[str, Tensor]:
        """The weights that training has reached; the policy's own, unless it holds the chosen ones."""
        return self.policy.state_dict() if self._resting is None else self._resting

    def spent(self) -> Usage:
        """Cost of ``learn`` in all sessions until now."""
        return self._earlier + up_to_now(self._usage)

    def _check_whole(self) -> None:
        """Refuse to go on from the middle of an update."""
        if self._within_step:
            raise RuntimeError("the last update was cut short: load the last saved state first")

    # ------------------------------------------------------------------ for subclasses

    def roll_out(
        self,
        users: Tensor,
        *,
        noise: Noise = Noise.OF_EPISODE,
        share_first: bool = True,
        graph: Graph | None = None,
    ) -> Rollout:
        """Run chains of ``users`` (B,) by the agent's policy, environment and noise, see ``roll_out``."""
        generator = self.noise_generator
        return roll_out(
            self.policy,
            self.env,
            users,
            generator=generator,
            noise=noise,
            share_first=share_first,
            graph=graph,
        )

    def require_noise(self, consequence: str) -> None:
        """Refuse a policy that is deterministic at some step.

        Raises:
            SettingError: with what follows from it.
        """
        if bool((self.policy.std <= 0).any()):
            raise SettingError(
                "exploration_std", f"must be > 0: the policy's std is 0 at some step, so {consequence}"
            )

    def ascend(self, slopes: Slopes) -> float:
        """Carry derivatives, such as those in the chain's means, to the weights and take a step.

        Returns:
            The norm of the gradient.
        """
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward([tensor for tensor, _ in slopes], [slope for _, slope in slopes])
        return self.take_step()

    def take_step(self) -> float:
        """Cut the gradient to ``max_grad_norm`` and let the optimiser step; returns its norm before."""
        limit = self.config.max_grad_norm or float("inf")
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, limit))
        self.optimizer.step()
        return norm

    def train_scores(self, learning_rate: float) -> None:
        """Train what reads scores from u_0, too, with a step size of its own."""
        moving = self.policy.backbone.thaw_scores()
        [others] = self.optimizer.param_groups
        others["params"] = [p for p in others["params"] if all(p is not other for other in moving)]
        self.optimizer.add_param_group({"params": moving, "lr": learning_rate})

    def context_of(self, rollout: Rollout, rows: int) -> Tensor | None:
        """What the network is conditioned on, (rows, C): repeated where the rows are episodes, not users."""
        return self.env.problem.context(rollout.users.repeat_interleave(rows // rollout.users.numel()))

    def own_tensors(self) -> dict[str, Tensor]:
        """What an agent keeps besides weights, optimiser and generators; goes into the resume state."""
        return {}

    def take_own_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027  # most keep nothing
        """Put back what ``own_tensors`` gave, after the weights are."""

    def _split_users(self) -> tuple[Tensor, npt.NDArray[np.int64] | None]:
        """Users that episodes are drawn from, and those whose validation items select (None: all).

        A reward that sees validation items must not choose the weights on the same users.

        Raises:
            ValueError: if the reward sees everyone's.
        """
        problem = self.env.problem
        selecting, tested = problem.selecting, problem.dataset.valid.users
        if selecting is not None and not np.isin(selecting, tested).any():
            raise ValueError(
                "the reward sees all validation items, so that none is left to choose the weights by: "
                "raise relevance_kwargs={'selection_share': ...} (0.5 is usual)"
            )
        return torch.as_tensor(problem.users, dtype=torch.int64), selecting
