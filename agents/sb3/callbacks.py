"""Full-ranking evaluation during Stable-Baselines3 training, and selection of the best weights.

Letters: B users in a batch, D size of the diffused vector, I items, T steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.sb3.policies import DiffusionActorCriticPolicy
from agents.sb3.stack import check_stack, gym_envs
from agents.sb3.vec_env import arrays
from agents.training.kl import divergence
from refit_env.envs.problem import DenoisingProblem
from refit_env.envs.wrappers import chain_scorer
from refit_env.evaluation.beyond_accuracy import means_of
from refit_env.evaluation.ranking import (
    Evaluation,
    ScoreFunction,
    evaluate,
    fitted_lengths,
    selecting_rule,
)
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.base import refresh_all
from refit_env.settings import check_setting

BEST = "best_model"
"""Stem of the best model's file, the same as in SB3's ``EvalCallback``."""


class RankingEvalCallback(BaseCallback):
    """Evaluates the validation ranking at intervals, logs the metrics, and stores the best weights.

    SB3's ``EvalCallback`` evaluates the mean reward of some episodes; this callback evaluates the full
    ranking of every user (``refit_env.evaluation.ranking``), which is deterministic. It evaluates before
    training, every ``eval_freq`` environment steps, and at the end.

    It logs metrics such as ``valid/ndcg@20``, ``valid/coverage@20`` and ``valid/gini@20``; for a
    ``DiffusionActorCriticPolicy`` also ``policy/kl_to_pretrained``, the mean over users of
    sum_t KL(pi || reference) / D along the noise-free chain. Other policies are scored through the
    environment's wrappers (``refit_env.envs.wrappers.chain_scorer``).

    At each evaluation, rewards that depend on the lists of all users (such as coverage) receive the model's
    current lists.

    Attributes:
        history: the metrics of each evaluation, with ``timesteps`` and the values that the last update logged
            (``train/...``).
        best_value: the value of the rule's metric at the best evaluation.
        best_timesteps: the environment steps of the best value.
    """

    def __init__(
        self,
        eval_freq: int = 10_000,
        *,
        split: str = "valid",
        select: str = "ndcg@20",
        ks: Sequence[int] = (10, 20),
        reference: DiffusionPolicy | str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        """Create a callback; pass it to ``learn(callback=...)``.

        Args:
            eval_freq: environment steps, of all environments together, between two evaluations.
            split: ``"valid"``; ``"test"`` is for curves, never for selecting weights.
            select: the rule that selects the best weights; its ``start`` is the first evaluation.
            ks: list lengths, cut to the catalogue.
            reference: reference of the KL divergence, a policy or a run folder; None is the actor at the
                start of training.
            best_model_save_path: folder for ``best_model.zip``; None stores the best weights in memory only.
            verbose: 1 prints each evaluation.

        Raises:
            ValueError: if ``eval_freq`` is below 1.
        """
        super().__init__(verbose)
        check_setting("eval_freq", eval_freq, int)
        if eval_freq < 1:
            raise ValueError(f"eval_freq={eval_freq} must be at least 1 environment step")
        self.eval_freq, self.split, self.select, self.ks = eval_freq, split, select, tuple(ks)
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.reference = DiffusionPolicy.load(reference) if isinstance(reference, str | Path) else reference
        self.history: list[dict[str, float]] = []
        self.best_value, self.best_timesteps = float("nan"), 0
        self._best_score = float("-inf")
        self._best_state: dict[str, Any] = {}
        self._last: int | None = None

    # ------------------------------------------------------------------ called by SB3

    def _on_training_start(self) -> None:
        """Check actor and environment, and evaluate the model before training."""
        self._problem = denoising_problem(self.training_env)
        self._problems = denoising_problems(self.training_env)
        self._rule = selecting_rule(self.select, self._problem.dataset, self.ks)
        policy = self.model.policy
        if isinstance(policy, DiffusionActorCriticPolicy):
            check_actor(policy.actor, self._problem)
            check_stack(self.training_env)
            if self.reference is None:
                self.reference = copy.deepcopy(policy.actor).requires_grad_(False)
            self.reference.to(policy.device).eval()
        self._validate()

    def _on_rollout_start(self) -> None:
        """Evaluate if ``eval_freq`` steps have passed; the next rollout uses these weights."""
        if self._last is not None and self.num_timesteps - self._last >= self.eval_freq:
            self._validate()

    def _on_step(self) -> bool:
        """Continue training."""
        return True

    def _on_training_end(self) -> None:
        """Evaluate the last weights."""
        if self.num_timesteps != self._last:
            self._validate()

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, split: str | None = None) -> Evaluation:
        """Evaluate the current model; None as ``split`` is the callback's split.

        If the reward uses the validation items of some users, only the other users are evaluated.
        """
        split = split or self.split
        users = denoising_problem(self.model.get_env()).selecting if split == "valid" else None
        return evaluate_model(self.model, split, ks=self.ks, users=users)

    def load_best(self) -> None:
        """Load the best weights into the model.

        Raises:
            ValueError: before the first evaluation.
        """
        if not self._best_state:
            raise ValueError("no weights to load: call model.learn(callback=...) first")
        self.model.policy.load_state_dict(self._best_state)

    def _validate(self) -> None:
        """Evaluate, log, and store the weights if they are the best so far."""
        self._last = self.num_timesteps
        score = model_scorer(self.model)
        refresh_all([problem.reward_fn for problem in self._problems], score)
        data, rule = self._problem.dataset, self._rule
        means = means_of(self.evaluate(), data, self.split, rule.names)
        scalars = {f"{self.split}/{name}": value for name, value in means.items()}
        policy = self.model.policy
        if isinstance(policy, DiffusionActorCriticPolicy) and self.reference is not None:
            scalars["policy/kl_to_pretrained"] = divergence(policy.actor, self.reference, self._problem)
        logged = self.logger.name_to_value.items()
        trained = {name: float(value) for name, value in logged if name.startswith("train/")}
        self.history.append({"timesteps": float(self.num_timesteps)} | trained | scalars)
        for name, value in scalars.items():
            self.logger.record(name, value)
        self.logger.dump(self.num_timesteps)
        start = {name: self.history[0][f"{self.split}/{name}"] for name in rule.names}
        found = rule.score(means, start)
        if found > self._best_score:
            self._best_score, self.best_value = found, means[rule.metric]
            self.best_timesteps = self.num_timesteps
            self._best_state = copy.deepcopy(policy.state_dict())
            if self.best_model_save_path is not None:
                self.best_model_save_path.mkdir(parents=True, exist_ok=True)
                self.model.save(self.best_model_save_path / BEST)
        if self.verbose:
            print(f"{self.num_timesteps} steps: {self.split} {rule.metric} {means[rule.metric]:.4f}")


def evaluate_model(
    model: BaseAlgorithm,
    split: str = "test",
    *,
    ks: Sequence[int] = (10, 20),
    users: npt.NDArray[np.int64] | None = None,
) -> Evaluation:
    """Evaluate a model by full ranking on the data set of its environment.

    Args:
        model: a model of any SB3 algorithm, with an environment.
        split: ``"valid"`` or ``"test"``.
        ks: list lengths, cut to the catalogue.
        users: evaluate only these users; None evaluates all.

    Raises:
        ValueError: if the model has no denoising environment, or one of another backbone or other settings.
    """
    problem = denoising_problem(model.get_env())
    policy, device = model.policy, problem.device
    if isinstance(policy, DiffusionActorCriticPolicy):
        check_actor(policy.actor, problem)
        device = policy.device
    lengths = fitted_lengths(ks, problem.num_items)
    return evaluate(model_scorer(model), problem.dataset, split, ks=lengths, users=users, device=device)


def model_scorer(model: BaseAlgorithm) -> ScoreFunction:
    """Return the function users (B,) -> scores (B, I) of the model's deterministic chain."""
    problem = denoising_problem(model.get_env())
    if isinstance(model.policy, DiffusionActorCriticPolicy):
        return model.policy.actor.scorer(problem.dataset)
    normalize = model.get_vec_normalize_env()

    def act(observations: Any) -> Any:
        """Return the model's deterministic actions (B, A)."""
        seen = arrays(observations)
        if normalize is not None:
            seen = normalize.normalize_obs(seen)
        return model.predict(seen, deterministic=True)[0]

    return chain_scorer(_wrapped(model.get_env()), act)


def denoising_problem(envs: VecEnv | None) -> DenoisingProblem:
    """Return the denoising problem of SB3's environments.

    Raises:
        ValueError: if there is no environment, or it is not a denoising environment.
    """
    if envs is None:
        raise ValueError("the model has no environment: pass env= to load(), or call set_env()")
    found = envs.get_attr("problem", indices=0)[0] if envs.has_attr("problem") else None
    if not isinstance(found, DenoisingProblem):
        raise ValueError(f"{type(envs.unwrapped).__name__} holds no denoising environment of refit_env")
    return found


def denoising_problems(envs: VecEnv) -> list[DenoisingProblem]:
    """Return the problems of all sub-environments and of all environments that alternate, each once."""
    waiting = list(gym_envs(envs))
    found: dict[int, DenoisingProblem] = {}
    while waiting:
        layer = waiting.pop()
        for name in ("envs_in_turn", "envs", "env"):
            inner = vars(layer).get(name)
            waiting += list(inner) if isinstance(inner, list | tuple) else [] if inner is None else [inner]
        problem = vars(layer).get("problem")
        if isinstance(problem, DenoisingProblem):
            found[id(problem)] = problem
    return list(found.values())


def check_actor(actor: DiffusionPolicy, problem: DenoisingProblem) -> None:
    """Raise an error for an actor whose backbone is not the environment's, or has other settings of inputs.

    Raises:
        ValueError: naming what to make the environment with.
    """
    mine, theirs = actor.backbone.name, problem.config.backbone
    if mine != theirs:
        raise ValueError(
            f"the actor's backbone is {mine!r}, the environment's {theirs!r}: make the environment with "
            f"backbone={mine!r}, or use another run"
        )
    problem.check_starts(actor.backbone)


def _wrapped(envs: VecEnv | None) -> Any:
    """Return the Gymnasium environment, vector or single, inside SB3's environments.

    Raises:
        ValueError: if it is in another process.
    """
    assert envs is not None
    found = next(iter(gym_envs(envs)), None)
    if found is None:
        raise ValueError(
            f"{type(envs.unwrapped).__name__} runs its environments in other processes, so their wrappers "
            "cannot be read: use to_sb3_vec_env(gym.make_vec(...)) or DummyVecEnv"
        )
    return found
