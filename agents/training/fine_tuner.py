"""The loop that every fine-tuning agent shares: users, validation, the best weights, logs.

An agent is a subclass with one method, ``update(users)``: one iteration of its equation.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from agents.gradients.episodes import Rollout, Slopes
from agents.rollouts.parts import Part
from agents.rollouts.rollout import Graph, Noise, roll_out
from agents.runs.folder import check_no_run
from agents.runs.log import RunLog
from agents.runs.profiling import Usage
from agents.runs.work import Work, counted, work_in
from agents.training.agent_state import AgentState
from agents.training.config import Iterations
from agents.training.interrupt import deferred_interrupt
from agents.training.monitors import monitored, trends
from agents.training.precision import policies_in
from agents.training.weight_interpolation import best_between
from refit_env.errors import ReturnedError, SettingError
from refit_env.evaluation.beyond_accuracy import means_of, values_of
from refit_env.evaluation.ranking import Evaluation, evaluated_users
from refit_env.evaluation.selection import UNMET
from refit_env.evaluation.statistics import Gain
from refit_env.policy import DiffusionPolicy
from refit_env.settings import check_callback, check_kind, check_setting
from refit_env.utils.text import shown


@dataclass
class FineTuneResult:
    """The result of fine-tuning; the agent's policy already holds the best weights."""

    policy: DiffusionPolicy
    """The policy with the weights that validation chose."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Scalars of each iteration."""
    best_iteration: int = 0
    """Iteration of the chosen weights; 0 is the untouched pretrained model."""
    best_value: float = float("nan")
    """The validation metric there."""
    rule_met: bool = True
    """Whether the conditions of the rule that selects hold there; the start is kept if nothing meets them."""
    share: float = 1.0
    """Position of the policy's weights between the pretrained ones (0) and those of ``best_iteration`` (1);
    below 1 if one of the ``blends`` was the best."""
    seconds: float = 0.0
    """Wall-clock time of training in all sessions, validation not counted."""
    validation_seconds: float = 0.0
    """Wall-clock time of validation in all sessions."""
    cost: Usage = field(default_factory=Usage)
    """Time of ``learn`` in all sessions, with everything in it, and its peaks of memory."""
    interrupted: bool = False
    """Whether Ctrl-C ended it; the state is saved and can be resumed."""

    @property
    def work(self) -> Work:
        """Rows through the denoiser in all iterations, validation not counted."""
        return work_in(self.history)


class FineTuner(AgentState):
    """Fine-tunes a pretrained diffusion policy on an environment; subclasses say how.

    Between two calls of ``learn`` the policy holds the weights that validation chose; another ``learn``
    continues from the last ones.
    """

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
        overwrite: bool = False,
        until: int | None = None,
    ) -> FineTuneResult:
        """Train until the configured iterations are done; call again after a resume to continue.

        On a data set whose validation items are learned (``Dataset.learning_validation``) none are left to
        select by, and the last weights are kept.

        Args:
            run_dir: where ``log.csv``, ``tb/`` and the resume state go; None writes nothing.
            callback: called after each iteration with the agent and its scalars.
            progress: show a progress bar.
            overwrite: whether a training that begins may replace the files of a run in ``run_dir``.
            until: iteration after which to stop; None: all that are configured. Step sizes that fall are
                planned for all.

        Returns:
            The policy with the best validation weights, and the history. Ctrl-C ends the loop after the
            iteration under way, and the state is saved; the result then says ``interrupted``. Where all
            iterations are done, another call returns the same again.

        Raises:
            RunError: if the folder holds a run that a training that begins would replace, or is a data set's.
            SettingError: if ``overwrite`` is no bool, or ``until`` no number of iterations.
            RuntimeError: if an update was cut short by a second Ctrl-C, and no state was loaded since.
        """
        folder = None if run_dir is None or self.world.rank else Path(run_dir)
        check_kind("overwrite", overwrite, bool)
        if until is not None:
            check_setting("until", until, Iterations)
        check_callback(callback)
        if folder is not None and not self.history and not overwrite:
            check_no_run(folder)
        with self._session():
            interrupted = self._iterate(folder, callback, progress, until)
            result = self._chosen(interrupted)
        result.cost = self._earlier
        return result

    def _iterate(
        self,
        folder: Path | None,
        callback: Callable[[FineTuner, dict[str, float]], None] | None,
        progress: bool,
        until: int | None,
    ) -> bool:
        """Iterate; returns whether Ctrl-C ended it."""
        log = None if folder is None else RunLog(folder, resume_after=self.iteration or None)
        last = self.config.iterations if until is None else min(until, self.config.iterations)
        bar = tqdm(total=last, initial=self.iteration, disable=not progress, desc=self.name)
        interrupted = False
        try:
            with deferred_interrupt() as interrupted_now:
                if self.iteration == 0:
                    self._record(self._validate(), log)
                while self.iteration < last and not self._out_of_patience():
                    if self.world.any(interrupted_now()):
                        raise KeyboardInterrupt
                    self._record(self._step(), log)
                    if folder is not None and self._validates_now():
                        self.save(folder)
                    if callback is not None:
                        callback(self, self.history[-1])
                    bar.update()
        except KeyboardInterrupt:
            interrupted = True
            # A second Ctrl-C may come anywhere: within an update, or before the first iteration ended,
            # which leaves nothing to keep.
            if folder is not None and self.done and not self._unfinished:
                self.save(folder)
        finally:
            bar.close()
            if log is not None:
                log.close()
        return interrupted

    def _chosen(self, interrupted: bool) -> FineTuneResult:
        """Put the chosen weights into the policy, and keep the last ones."""
        begin = time.perf_counter()
        self._keep_last()
        self._set_aside()
        (value, at), share, state = self._best, 1.0, self._best_state
        if self.config.blends and self.selects and not interrupted:
            found = best_between(self.policy, self.reference, self.config.blends, self._value)
            if found[0] > value:
                (value, share, state), at = found, self.iteration
        self.policy.load_state_dict(state)
        validation = self.validation_seconds + time.perf_counter() - begin
        return FineTuneResult(
            self.policy,
            self.history,
            best_iteration=at,
            best_value=self._selected(value),
            rule_met=value > UNMET or not self.selects,
            share=share,
            seconds=self.seconds,
            validation_seconds=validation,
            interrupted=interrupted,
        )

    def _step(self) -> dict[str, float]:
        """One iteration with its bookkeeping."""
        begin = time.perf_counter()
        self._unfinished = True
        if self.config.anneal_lr:
            for group in self.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * (1 - self.iteration / self.config.iterations)
        users = self.next_batch()
        self.env.problem.reward_fn.set_progress(self.iteration / self.config.iterations)
        both = self.policy, self.reference
        cached = self.refresh_cache(users)
        with counted(*(p.backbone for p in both)) as work, policies_in(self.config.precision, *both):
            scalars = self._returned_scalars(users) | cached
        scalars |= (work * self.world.size).scalars()
        self.done += 1
        scalars["seconds/update"] = time.perf_counter() - begin
        self.seconds += scalars["seconds/update"]
        if self._validates_now():
            scalars |= self._validate()
        return scalars

    def _returned_scalars(self, users: Tensor) -> dict[str, float]:
        """Return what ``update`` returned for users (B,).

        Raises:
            ReturnedError: if it is no mapping of names to numbers.
        """
        found: Any = self.update(users)
        own = f"{type(self).__name__}.update"
        if not isinstance(found, Mapping):
            raise ReturnedError(f"{own} returned {shown(found)}, expected numbers by name")
        numbers = {}
        for name, value in found.items():
            try:
                plain = value.detach() if isinstance(value, Tensor) else value
                number = None if isinstance(plain, str | bytes | bytearray) else float(plain)
            except (TypeError, ValueError, OverflowError, RuntimeError):  # the last one is of tensors
                number = None
            if not isinstance(name, str) or number is None:
                raise ReturnedError(
                    f"{own} returned {shown(value)} for {shown(name)}, expected a number by name"
                )
            if name == "iteration":
                raise ReturnedError(
                    f"{own} returned {shown(value)} for 'iteration', which is the log's own name"
                )
            numbers[name] = number
        return numbers

    def _record(self, scalars: dict[str, float], log: RunLog | None) -> None:
        self.history.append({"iteration": float(self.iteration)} | scalars)
        self._unfinished = False
        if log is not None:
            log.write(self.iteration, scalars)

    def _validate(self) -> dict[str, float]:
        """Evaluate on the validation set and keep the weights if they are the best so far."""
        begin = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.gradients.release()
        self.refresh_lists()
        if not self.selects:
            return {}
        means, monitors = self.world.of_first(self._measured)
        out = {f"valid/{k}": v for k, v in means.items()} | self._keep_if_best(means) | monitors
        out |= self.adapt_multipliers(means, self._start_means(means))
        out |= trends(self.history, {"iteration": float(self.iteration)} | out)
        out["seconds/validation"] = time.perf_counter() - begin
        self.validation_seconds += out["seconds/validation"]
        return out

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the validation metrics, and the monitors."""
        found, means = self._validated()
        first = self.envs[0].problem  # always the first hold-out's: chains begin elsewhere in each
        monitors = monitored(self.policy, self.reference, first, self._train_users, found.lists)
        return means, monitors | self._gain(found)

    def _gain(self, found: Evaluation) -> dict[str, float]:
        """Return the gain over the start by the metric that selects, and its standard error over users."""
        values = values_of(found, self.dataset, "valid", self.rule.metric)
        if values is None or not values.size:
            return {}
        if self._start_values is None:
            self._start_values = self.values_that_select(start=True) if self.done else values
        assert self._start_values is not None  # of the same metric
        gain = Gain.of(self._start_values, values, groups=self.dataset.groups_of(found.users))
        if not math.isfinite(gain.error):  # a single user or group
            return {}
        return {"choice/gain": gain.mean, "choice/standard_error": gain.error}

    def users_that_select(self) -> npt.NDArray[np.int64]:
        """Return the users (n,) whose validation items select, ascending."""
        return evaluated_users(self.dataset, "valid", self._selection_users)

    def values_that_select(self, *, start: bool = False) -> npt.NDArray[np.float64] | None:
        """Return the metric that selects of each user that selects (n,); None if it is of all lists together.

        Args:
            start: whether of the policy that training began with, else of the policy as it is now.
        """
        if start and self._start_values is not None:
            return self._start_values
        found = self.evaluate("valid", users=self._selection_users, start=start)
        return values_of(found, self.dataset, "valid", self.rule.metric)

    def _validated(self) -> tuple[Evaluation, dict[str, float]]:
        """Return the validation of the users that select, and its metrics."""
        found = self.evaluate("valid", users=self._selection_users)
        names = (*self.rule.names, *self.lagrangian.names)
        return found, means_of(found, self.dataset, "valid", names)

    def _value(self) -> float:
        """Return the score of the policy by the rule that selects."""
        return self._score(self._validated()[1])

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
        own = self.policy, self.env, users
        return roll_out(*own, generator=self.noise, noise=noise, share_first=share_first, graph=graph)

    def require_noise(self, consequence: str) -> None:
        """Refuse a policy that is deterministic at some step.

        Raises:
            SettingError: with what follows from it.
        """
        if bool((self.policy.std <= 0).any()):
            raise SettingError(
                "exploration_std", f"must be > 0: the policy's std is 0 at some step, so {consequence}"
            )

    def own_chunks(self, users: Tensor) -> Iterator[Tensor]:
        """Yield the users (b,) of this process's chunks of a batch (B,); the noise drawn next is theirs."""
        first = self.world.rank * self.chunks
        for part in self.noise.each([Part(first + n, self.parts) for n in range(self.chunks)]):
            yield part.of(users)

    def add_gradient(self, slopes: Slopes) -> None:
        """Add the gradient in the weights from derivatives of the objective, such as those in the means."""
        with self.gradients:
            torch.autograd.backward([tensor for tensor, _ in slopes], [slope for _, slope in slopes])

    def take_step(self) -> float:
        """Average the gradient over the processes, clip it to ``max_grad_norm`` and take an optimiser step.

        Returns:
            The norm of the gradient before.
        """
        limit = self.config.max_grad_norm or float("inf")
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.world.average([p.grad for p in trained if p.grad is not None])
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if not norm + 1e-6 <= limit:  # not a number, too; a factor of 1 would cost a pass over the weights
            torch.nn.utils.clip_grads_with_norm_(trained, limit, norm)
        self.optimizer.step()
        return float(norm)

    def train_scores(self, learning_rate: float) -> None:
        """Train the score weights, too, with a learning rate of their own."""
        moving = self.policy.backbone.thaw_scores()
        others = self.optimizer.param_groups[0]
        others["params"] = [p for p in others["params"] if all(p is not other for other in moving)]
        self.optimizer.add_param_group({"params": moving, "lr": learning_rate})

    def context_of(self, rollout: Rollout, rows: int) -> Tensor | None:
        """What the network is conditioned on, (rows, C): repeated where the rows are episodes, not users."""
        return self.env.problem.context(rollout.users.repeat_interleave(rows // rollout.users.numel()))
