"""REINFORCE on the denoising chain: grad J = E[ sum_t grad log pi(a_t | s_t) * A ] (ReFiT, arXiv 2511.06937).

With ``kl_weight`` = w, the objective is E[r(u_0) - w sum_t KL_t(u_t)], u_t the state of step t and

    KL_t(u) = |m_t(u) - p_t(u)|^2 / (2 std_t^2),    m_t, p_t the means of the policy and the pretrained one.

``pathwise`` runs through the chain, u_t is a function of the weights, and the gradient is the whole one:

    sum_t (m_t - p_t) / std_t^2 * d(m_t(u_t) - p_t(u_t)) / d theta,    through both means and u_t itself.

The other estimators take the visited states as given, as DPOK does (arXiv 2305.16381, section 4.2): the same
sum with the partial derivative of m_t alone. Both are checked against finite differences
(``tests/agents/test_kl.py``).

Letters: B users in the batch, G episodes of each, N = B * G, D size of the diffused vector, T steps.
"""

from __future__ import annotations

import time
from typing import ClassVar

from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.gradients import advantages
from agents.gradients.episodes import Rollout
from agents.gradients.estimators import rao_blackwell, score_function
from agents.gradients.linear_scores import Reading, linear_parts, linear_pathwise
from agents.gradients.rank_thresholds import list_parts
from agents.rollouts.rollout import roll_out, step_mean
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from agents.training.step_subset import trained_steps
from refit_env.errors import SettingError


class Reinforce(FineTuner):
    """ReFiT's agent: whole chains are rolled out, the terminal reward weighs every step's log-probability.

    Example:
        >>> from agents import Reinforce
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> Reinforce(policy, "ReFiT-ML1M-v0").learn("runs/finetuned")  # doctest: +SKIP
    """

    name: ClassVar[str] = "reinforce"
    config_class: ClassVar[type[TrainerConfig]] = ReinforceConfig
    maximize: ClassVar[bool] = True  # what is carried to the weights is the derivative of J itself
    config: ReinforceConfig

    def check_settings(self) -> None:
        """Refuse rewards and policies that the estimator cannot use.

        Raises:
            ValueError: for a deterministic policy, or scores that are not to be trained.
            ValueError: if the estimator needs a list reward and the reward is none.
        """
        if self.config.estimator != "score":
            self._check_reward()
        if self.config.scores_learning_rate:
            self._check_scores()
        if bool((self.policy.std <= 0).any()):
            raise ValueError(
                "the policy's std is 0 at some step, so REINFORCE has no gradient: raise exploration_std"
            )

    def prepare(self) -> None:
        """Let the item embeddings move, and give the environments scores of their own that move with them."""
        rate = self.config.scores_learning_rate
        if rate:
            self.train_scores(rate)
            for env in self.envs:
                env.problem = env.problem.with_own_scores()
            backbone = self.policy.backbone
            if backbone.scores_by_context:  # its weights make what an environment shows, too
                self._looks = {env: backbone.shown(env.problem.seen, self.device) for env in self.envs}

    def update(self, users: Tensor) -> dict[str, float]:
        """Roll out, estimate the mean reward's derivative in each step's mean, carry it to the weights."""
        config = self.config
        start = time.perf_counter()
        reading = self._read(users) if config.scores_learning_rate else None
        rollout = roll_out(
            self.policy,
            self.env,
            users,
            generator=self.noise_generator,
            steps=trained_steps(config.train_steps, self.policy.num_steps, self.user_generator),
            pathwise=config.estimator == "pathwise",
            share_first=config.share_first_step,
            start=None if reading is None else reading.start,
            recompute=config.recompute,
        )
        rolled = time.perf_counter()
        reward = rollout.reward.view(users.numel(), -1)  # (B, G)
        gradients = self._derivatives(rollout, advantages.advantage(config.baseline, reward), reading)
        carried = [(rollout.means[t], slope) for t, slope in gradients.items()]
        carried += [] if reading is None else reading.slopes
        carried += self._kl_derivatives(rollout) if config.kl_weight else []
        norm = self.ascend([tensor for tensor, _ in carried], [slope for _, slope in carried])
        scalars = rollout.scalars(self.env.problem.num_items) | {"train/gradient_norm": norm}
        return scalars | {"seconds/rollout": rolled - start, "seconds/backward": time.perf_counter() - rolled}

    def _read(self, users: Tensor) -> Reading:
        """What scores u_0 of ``users`` (B,), with graphs; the environment scores by the same from now on."""
        backbone = self.policy.backbone
        self.env.problem.score_by(backbone)
        table = backbone.score_table()
        assert table is not None  # checked
        if not backbone.scores_by_context:
            return Reading(table)
        shown = self._looks[self.env](users)
        told, read_by = backbone.context(users, shown), backbone.context_table(table)
        assert told is not None and read_by is not None  # scores_by_context says so
        return Reading(table, (told, read_by), backbone.initial_state(users, shown))

    def _derivatives(
        self, rollout: Rollout, advantage: Tensor, reading: Reading | None = None
    ) -> dict[int, Tensor]:
        """Derivative of the mean reward in each trained step's mean, by the configured estimator.

        ``reading``, if given, notes those in what scores u_0.
        """
        config, last, scale = self.config, self.policy.num_steps - 1, self._scale(rollout)
        reward_fn = self.env.problem.reward_fn
        if config.estimator == "pathwise":
            if self.env.problem.score_table is None:
                out = {last: rao_blackwell(rollout, self.policy, reward_fn, scale)}
            else:
                pairs, generator = config.pairs, self.noise_generator
                slope = linear_pathwise(
                    rollout,
                    self.policy,
                    self.env.problem,
                    pairs,
                    generator,
                    scale,
                    reading,
                    config.draw_lists,
                )
                out = {last: slope}
        elif config.estimator == "rao_blackwell":
            out = score_function(
                rollout, self.policy, advantage * scale, tuple(t for t in rollout.steps if t != last)
            )
            if last in rollout.steps:
                out[last] = rao_blackwell(rollout, self.policy, reward_fn, scale)
        else:
            out = score_function(rollout, self.policy, advantage * scale, rollout.steps)
        return out

    def _scale(self, rollout: Rollout) -> float:
        """Factor of all derivatives: 1 / D where log-probabilities are averaged, T / n for n drawn steps."""
        scale = 1.0 if self.config.logprob_reduction == "sum" else 1.0 / self.policy.backbone.dim
        if self.config.train_steps.startswith("random"):  # each step is drawn with probability n / T
            scale *= self.policy.num_steps / len(rollout.steps)
        return scale

    def _check_reward(self) -> None:
        """Refuse a reward that the configured estimator cannot take apart."""
        problem = self.env.problem
        if problem.score_table is None:
            list_parts(problem.reward_fn)
            if problem.dim != problem.num_items:
                raise ValueError(
                    f"estimator {self.config.estimator!r} needs u_0 to be the item scores; use 'score'"
                )
            return
        if self.config.estimator != "pathwise":
            raise ValueError(
                f"estimator {self.config.estimator!r} needs u_0 to be the item scores; 'pathwise' and "
                "'score' know embeddings"
            )
        linear_parts(problem.reward_fn, self._train_users[:1].to(self.device))

    def _check_scores(self) -> None:
        """Refuse to train scores where no embeddings turn u_0 into scores."""
        if self.config.estimator != "pathwise" or self.env.problem.score_table is None:
            raise SettingError(
                "scores_learning_rate",
                "needs estimator 'pathwise' and a backbone whose item embeddings score "
                f"u_0; this is {self.config.estimator!r} on {self.policy.backbone.name!r}",
            )

    def _kl_derivatives(self, rollout: Rollout) -> list[tuple[Tensor, Tensor]]:
        """Derivatives of -kl_weight sum_t KL_t(u_t), batch mean, as (tensor, derivative); see the module.

        Those in the pretrained means are there where their states are functions of the weights.
        """
        out, factor = [], self.config.kl_weight * self._scale(rollout)
        for t in rollout.steps:
            mean, state = rollout.means[t], rollout.states[t]  # (N, D) or (B, D)
            context = self.context_of(rollout, mean.shape[0])
            anchor = step_mean(self.reference, state, t, context, self.config.recompute)
            weight = factor / (float(self.policy.std[t]) ** 2 * mean.shape[0])
            slope = (anchor - mean).detach() * weight  # (N, D) or (B, D)
            out.append((mean, slope))
            if anchor.requires_grad:
                out.append((anchor, -slope))
        return out
