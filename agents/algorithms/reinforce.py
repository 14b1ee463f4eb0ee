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

from dataclasses import fields, replace
from typing import ClassVar

from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.console import say
from agents.gradients.advantages import OF_A_GROUP
from agents.gradients.episodes import Rollout, Slopes, together
from agents.gradients.estimators import ItemDraws, rao_blackwell, score_function
from agents.gradients.linear_scores import PairDraws, TrainedScores, linear_parts, linear_pathwise
from agents.gradients.rank_thresholds import list_parts
from agents.rollouts.rollout import Graph, step_mean
from agents.training.config import TrainerConfig
from agents.training.fine_tuner import FineTuner
from agents.training.step_subset import trained_steps
from refit_env.errors import SettingError
from refit_env.rewards.registry import RewardSpec, own_parts


class Reinforce(FineTuner):
    """ReFiT's agent: the terminal reward of a whole chain weights every step's log-probability.

    Example:
        >>> from agents import Reinforce
        >>> from refit_env.policy import DiffusionPolicy  # doctest: +SKIP
        >>> policy = DiffusionPolicy.load("runs/pretrained")  # doctest: +SKIP
        >>> Reinforce(policy, "ReFiT-ML1M-v0").learn("runs/finetuned")  # doctest: +SKIP
    """

    name: ClassVar[str] = "reinforce"
    divides_batches: ClassVar[bool] = True
    config_class: ClassVar[type[TrainerConfig]] = ReinforceConfig
    maximize: ClassVar[bool] = True  # the slopes are derivatives of J itself
    config: ReinforceConfig

    @classmethod
    def adapted(
        cls, config: TrainerConfig, reward: RewardSpec | None, *, fixed_batch: bool = False
    ) -> TrainerConfig:
        """Return the settings; with one's own reward that is no list reward, ``score`` replaces ``pathwise``.

        The settings in which the preset ``score`` differs from the defaults are then that preset's, where
        they were left at their defaults. A line on the standard error says so.
        """
        if not (isinstance(config, ReinforceConfig) and config.estimator == "pathwise"):
            return config
        own = [] if reward is None else own_parts(reward)
        if not own:
            return config
        say(
            f"reward {', '.join(own)} is no list reward, which estimator 'pathwise' needs: estimator 'score' "
            "is used, with the settings of preset 'score' where none were given",
            stderr=True,
        )
        return score_settings(config, fixed_batch=fixed_batch)

    def check_settings(self) -> None:
        """Refuse rewards and policies that the estimator cannot use.

        Raises:
            ValueError: for a deterministic policy, or scores that are not to be trained.
            ValueError: if the estimator needs a list reward and the reward is none.
        """
        if self.parts > 1:
            self._check_parts()
        if self.config.estimator != "score":
            self._check_reward()
        if self.config.scores_learning_rate:
            self._check_scores()
        self.require_noise("REINFORCE has no gradient")

    def prepare(self) -> None:
        """Train the item embeddings if they are to move, in environments whose scores move with them."""
        rate = self.config.scores_learning_rate
        if rate:
            self.train_scores(rate)
            for env in self.envs:
                env.problem = env.problem.with_own_scores()
            backbone = self.policy.backbone
            if backbone.scores_by_context:  # its weights compute what an environment shows, too
                self._shown = {env: backbone.shown(env.problem.seen, self.device) for env in self.envs}

    @property
    def chunks(self) -> int:
        """Parts of a batch that a process runs one after the other."""
        return self.config.chunks

    def update(self, users: Tensor) -> dict[str, float]:
        """Roll out, estimate the derivatives of the mean reward, ascend."""
        steps = trained_steps(self.config.train_steps, self.policy.num_steps, self.user_generator)
        self.optimizer.zero_grad(set_to_none=True)
        outcomes = []
        for some in self.own_chunks(users):  # all of them, or a chunk of this process's share
            trained = self._trained_scores(some)  # how u_0 is scored, if that is trained, too
            rollout = self._roll_out(some, trained, steps)  # u_T .. u_0 and r(u_0)
            slopes = self._slopes(rollout, trained)  # d E[r] / d mean_t
            slopes += self._kl_slopes(rollout)  # - kl_weight d KL_t / d mean_t
            outcomes.append(rollout.outcome())
            del rollout, trained  # one chunk's graph at a time
            self.add_gradient(slopes)  # sum_t d mean_t / d theta * slope_t
            del slopes
        norm = self.take_step()  # theta += Adam(gradient)
        whole = together(outcomes, self.world.gather)
        return whole.scalars(self.env.problem.num_items) | {"train/gradient_norm": norm}

    def _roll_out(self, users: Tensor, trained: TrainedScores | None, steps: tuple[int, ...]) -> Rollout:
        """Return the chains of ``users`` (B,), with the graphs that the estimator needs."""
        config = self.config
        graph = Graph(
            steps=steps,
            through_actions=config.estimator == "pathwise",
            start=None if trained is None else trained.start,
            recompute=config.recompute,
        )
        return self.roll_out(users, share_first=config.share_first_step, graph=graph)

    def _slopes(self, rollout: Rollout, trained: TrainedScores | None) -> Slopes:
        """Return the derivatives of the mean reward in the trained steps' means, by the estimator."""
        config, policy, problem = self.config, self.policy, self.env.problem
        scale, last = self._scale(rollout), policy.num_steps - 1
        if config.estimator == "pathwise":
            if problem.score_table is None:
                return rao_blackwell(rollout, policy, problem.reward_fn, scale, self._item_draws())
            draws = PairDraws(config.pairs, self.noise_generator, config.draw_lists)
            return linear_pathwise(rollout, policy, problem, draws=draws, trained=trained, scale=scale)
        advantage = rollout.advantage(config.baseline) * scale  # (B, G)
        if config.estimator == "score":
            return score_function(rollout, policy, advantage, rollout.steps)
        slopes = score_function(rollout, policy, advantage, tuple(t for t in rollout.steps if t != last))
        if last in rollout.steps:
            slopes += rao_blackwell(rollout, policy, problem.reward_fn, scale, self._item_draws())
        return slopes

    def _item_draws(self) -> ItemDraws | None:
        """Return how items are drawn for the derivative of the last step; None where all are computed."""
        count = self.config.sampled_items
        return ItemDraws(count, self.noise_generator) if count else None

    def _trained_scores(self, users: Tensor) -> TrainedScores | None:
        """The score weights for ``users`` (B,) if they are trained; from now on the environment uses them."""
        if not self.config.scores_learning_rate:
            return None
        backbone = self.policy.backbone
        self.env.problem.score_by(backbone)
        table = backbone.score_table()
        assert table is not None  # checked
        offset = backbone.score_offset(table)
        if offset is not None:  # as the slope in a context that is 1 for all
            return TrainedScores(table, (table.new_ones(users.numel(), 1), offset[:, None]))
        if not backbone.scores_by_context:
            return TrainedScores(table)
        shown = self._shown[self.env](users)
        context, by_context = backbone.context(users, shown), backbone.context_table(table)
        assert context is not None and by_context is not None  # scores_by_context says so
        return TrainedScores(table, (context, by_context), backbone.initial_state(users, shown))

    def _scale(self, rollout: Rollout) -> float:
        """Factor of all derivatives: 1 / D where log-probabilities are averaged, T / n for n drawn steps.

        It is divided by the number of chunks.
        """
        scale = 1.0 if self.config.logprob_reduction == "sum" else 1.0 / self.policy.backbone.dim
        scale /= self.chunks  # derivatives are means over a chunk
        if self.config.train_steps.startswith("random"):  # each step is drawn with probability n / T
            scale *= self.policy.num_steps / len(rollout.steps)
        return scale

    def _check_reward(self) -> None:
        """Refuse a reward without the parts that the configured estimator needs."""
        problem = self.env.problem
        if problem.score_table is None:
            list_parts(problem.reward_fn)
            if problem.dim != problem.num_items:
                raise ValueError(
                    f"estimator {self.config.estimator!r} needs u_0 to be the item scores; use 'score'"
                )
            return
        if self.config.sampled_items:
            raise SettingError(
                "sampled_items",
                f"must be 0 for backbone {self.policy.backbone.name!r}, whose u_0 is an embedding; "
                f"draw_lists draws pairs of items there, found {self.config.sampled_items}",
            )
        if self.config.estimator != "pathwise":
            raise ValueError(
                f"estimator {self.config.estimator!r} needs u_0 to be the item scores; 'pathwise' and "
                "'score' work with embeddings"
            )
        linear_parts(problem.reward_fn, self._train_users[:1].to(self.device))

    def _check_parts(self) -> None:
        """Refuse what depends on the whole batch at once."""
        baseline, score_table = self.config.baseline, self.env.problem.score_table
        if self.config.estimator != "pathwise" and baseline == "batch":
            raise SettingError(
                "baseline",
                f"must be of a user's own episodes ({', '.join(OF_A_GROUP)}) or 'none' where a batch is "
                f"divided into {self.parts} parts, found {baseline!r}",
            )
        if score_table is not None:
            raise SettingError(
                "chunks" if self.chunks > 1 else "processes",
                f"must be 1 for backbone {self.policy.backbone.name!r}, whose u_0 is an embedding: pairs of "
                "items are drawn for the whole batch",
            )

    def _check_scores(self) -> None:
        """Refuse to train scores where no embeddings turn u_0 into scores."""
        if self.config.estimator != "pathwise" or self.env.problem.score_table is None:
            raise SettingError(
                "scores_learning_rate",
                "needs estimator 'pathwise' and a backbone whose item embeddings score "
                f"u_0; this is {self.config.estimator!r} on {self.policy.backbone.name!r}",
            )

    def _kl_slopes(self, rollout: Rollout) -> Slopes:
        """Return the derivatives of -kl_weight sum_t KL_t(u_t), batch mean; the module has the equation.

        Those in the pretrained means are there where their states are functions of the weights.
        """
        out: Slopes = []
        if not self.config.kl_weight:
            return out
        factor = self.config.kl_weight * self._scale(rollout)
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


def score_settings(config: ReinforceConfig, *, fixed_batch: bool = False) -> ReinforceConfig:
    """Return settings with estimator ``score``, and those of its preset where a setting is at its default.

    Args:
        config: the settings.
        fixed_batch: whether the size of a batch stays.

    Example:
        >>> found = score_settings(ReinforceConfig(learning_rate=1e-3))
        >>> found.estimator, found.baseline, found.samples_per_user, found.learning_rate
        ('score', 'leave_one_out', 16, 0.001)
    """
    if fixed_batch:
        return replace(config, estimator="score")
    usual, preset = ReinforceConfig(), ReinforceConfig.presets()["score"]
    names = [f.name for f in fields(config) if hasattr(usual, f.name)]
    left = [name for name in names if getattr(config, name) == getattr(usual, name)]
    return replace(config, **{name: getattr(preset, name) for name in left})
