"""Settings of the fine-tuning algorithms, without PyTorch: the command line's help is made from them.

Each algorithm's file has the equation that its settings belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from msgspec import Meta

from agents.gradients.advantages import BASELINES, OF_A_GROUP, check_baseline
from agents.training.config import BASES, REDUCTIONS, Batch, Passes, Rate, TrainerConfig, TrainSteps, Weight
from refit_env.errors import SettingError
from refit_env.settings import OneOf

CREDITS = ("episode", "coordinate")
"""Names for an algorithm's ``credit``."""
ESTIMATORS = ("score", "rao_blackwell", "pathwise")
"""Names for ``ReinforceConfig.estimator``."""
SHAPINGS = ("ranks", "centred")
"""Names for ``ESConfig.shaping``."""
PAIRS = ("all", "best_worst")
"""Names for ``DPOConfig.pairs``."""
WEIGHTINGS = ("advantage", "exp_advantage", "exp_reward")
"""Names for ``RWRConfig.weighting``."""
STATES = ("history", "chain", "sample")
"""Names for ``RWRConfig.states``."""


@dataclass(frozen=True)
class ReinforceConfig(TrainerConfig):
    """REINFORCE fine-tuning. Defaults: measured best on validation, see docs/results.md."""

    estimator: Annotated[str, OneOf(ESTIMATORS)] = "pathwise"
    """``score`` (REINFORCE proper), ``rao_blackwell`` or ``pathwise``: see
    ``agents.gradients.estimators``."""
    baseline: Annotated[str, OneOf(BASELINES)] = "batch"
    """Baseline subtracted from the reward: ``none``, ``batch``, ``leave_one_out`` or ``group``."""
    logprob_reduction: Annotated[str, OneOf(REDUCTIONS)] = "mean"
    """``mean`` divides log-probabilities by D; ``sum`` is the density's."""
    train_steps: TrainSteps = "all"
    """``all``; ``random:n`` (n steps an iteration, reweighted: unbiased) or ``last:n`` (biased)."""
    kl_weight: Weight = 0.0
    """Weight of the closed-form KL to the pretrained policy at visited states (DPOK, arXiv 2305.16381);
    ``agents.algorithms.reinforce`` has its gradient."""
    pairs: Annotated[int, Meta(ge=1, le=100_000)] = 4
    """Pairs of items that ``pathwise`` draws an episode where u_0 is an embedding and every rank counts
    (``log_rank``): see ``agents.gradients.sampled_pairs``."""
    draw_lists: bool = False
    """Draw them for rewards of a list, too: unbiased and noisy, where ``agents.gradients.topk_pairs`` sums
    all pairs with nearly no bias."""
    sampled_items: Annotated[int, Meta(ge=0, le=10**7, description="0: all")] = 0
    """Items that ``pathwise`` and ``rao_blackwell`` draw in a batch, where u_0 holds the scores, to estimate
    the derivative of the items that are neither listed nor relevant: unbiased, for catalogues of a million
    items. 0 computes all of them."""
    scores_learning_rate: Rate = 0.0
    """Adam's step size for what reads scores from u_0, the item embeddings (``pathwise`` alone can train
    them); 0 leaves them as they are."""
    share_first_step: bool = True
    """Compute the first mean once a user instead of once an episode."""
    chunks: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Parts of a batch that run one after the other, their gradients added: the memory of one part, and the
    same update. ``users_per_batch`` must be a multiple of it."""
    recompute: bool = False
    """Run each step's network again in the backward pass instead of keeping what it computed: the memory of
    one step instead of T, for up to a third more time, and the same gradients."""

    def check_together(self) -> None:
        """Refuse fewer steps under ``pathwise``, and a baseline without the episodes that it needs."""
        if self.estimator == "pathwise" and self.train_steps != "all":
            raise SettingError(
                "train_steps",
                f"must be 'all' for estimator 'pathwise', which computes one gradient through all steps, "
                f"found {self.train_steps!r}",
            )
        if self.sampled_items and self.estimator == "score":
            raise SettingError(
                "sampled_items",
                f"must be 0 for estimator 'score', which computes no items' derivatives, found "
                f"{self.sampled_items}",
            )
        check_baseline(self.baseline, self.samples_per_user)

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """``default``; ``score``, REINFORCE with the leave-one-out baseline; ``paper``, as published."""
        return {
            "default": cls(),
            "score": cls(
                estimator="score",
                baseline="leave_one_out",
                users_per_batch=64,
                samples_per_user=16,
                learning_rate=2e-5,
            ),
            "paper": cls(
                estimator="score",
                baseline="none",
                users_per_batch=64,
                samples_per_user=1,
                learning_rate=1e-3,
                iterations=200,
                exploration_std=0.0,
                logprob_reduction="sum",
                share_first_step=False,
            ),
        }


@dataclass(frozen=True)
class SurrogateConfig(TrainerConfig):
    """Settings that the clipped surrogates share."""

    credit: Annotated[str, OneOf(CREDITS)] = "coordinate"
    """``episode``: one advantage a chain; ``coordinate``: one for each number of the last action (list
    rewards)."""
    baseline: Annotated[str, OneOf(BASELINES)] = "batch"
    """Baseline subtracted from a chain's reward: ``none``, ``batch``, ``leave_one_out``, ``group`` or
    ``group_mean``."""
    clip_range: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """c: ratios are cut to 1 - c .. 1 + c."""
    epochs: Passes = 2
    """Passes over a batch."""
    minibatches: Annotated[int, Meta(ge=1, le=10**6)] = 2
    """Parts of a batch, by users; each makes an update in each pass."""
    advantage_clip: Annotated[float, Meta(ge=0, description="0: no limit")] = 0.0
    """Chains' advantages are cut to -this .. this; 0 leaves them."""
    logprob_reduction: Annotated[str, OneOf(REDUCTIONS)] = "mean"
    """A chain's ratio is that of log-probabilities averaged over D (``mean``), or summed (``sum``)."""
    train_steps: TrainSteps = "all"
    """``all``; ``random:n`` or ``last:n``: the steps of the chain that an iteration trains."""
    kl_weight: Weight = 0.0
    """Weight of the closed-form KL to the pretrained policy at visited states; with credit ``coordinate`` its
    gradient runs through the chain, as the surrogate's does (``agents.algorithms.reinforce`` has both
    equations)."""
    target_kl: Annotated[float, Meta(ge=0, description="0: never")] = 0.0
    """KL to the batch's own policy (mean over the batch, a number of the vector, a step) that ends the passes
    if it is exceeded after one; 0 never."""

    def check_together(self) -> None:
        """Refuse random steps under credit ``coordinate``, and a baseline without the episodes it needs."""
        if self.credit == "coordinate" and self.train_steps.startswith("random"):
            raise SettingError(
                "train_steps",
                f"must be 'all' or 'last:n' for credit 'coordinate', which runs through the chain, "
                f"found {self.train_steps!r}",
            )
        check_baseline(self.baseline, self.samples_per_user)


@dataclass(frozen=True)
class PPOConfig(SurrogateConfig):
    """PPO fine-tuning. Defaults: measured best on validation, see docs/results.md."""

    learning_rate: Rate = 3e-5
    """Adam's step size."""
    train_steps: TrainSteps = "last:1"
    """``last:n`` or ``all`` (``random:n`` with credit ``episode``): the last step decides the list; running
    through the whole chain costs T times as much and was found to add little."""

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """``default``; ``ddpo``, the form of arXiv 2305.13301's code."""
        return {
            "default": cls(),
            "ddpo": cls(
                credit="episode",
                baseline="group",
                users_per_batch=64,
                samples_per_user=8,
                clip_range=1e-4,
                epochs=1,
                minibatches=2,
                train_steps="all",
                advantage_clip=5.0,
                max_grad_norm=1.0,
                learning_rate=2e-5,
            ),
        }


@dataclass(frozen=True)
class GRPOConfig(SurrogateConfig):
    """GRPO fine-tuning. Defaults: measured best on validation, see docs/results.md."""

    credit: Annotated[str, OneOf(CREDITS)] = "episode"
    """``episode``, as published; ``coordinate`` gives the numbers of the last action credits of their own."""
    baseline: Annotated[str, OneOf(OF_A_GROUP)] = "group"
    """``group`` (standardised), ``group_mean`` (Dr. GRPO) or ``leave_one_out``."""
    users_per_batch: Batch = 64
    """Users in a batch."""
    samples_per_user: Annotated[int, Meta(ge=2, le=100_000)] = 8
    """Chains in a group."""
    clip_range: Annotated[float, Meta(gt=0, lt=1)] = 1e-4
    """c, on the ratio of mean log-probabilities."""
    epochs: Passes = 1
    """Passes over a batch."""
    advantage_clip: Annotated[float, Meta(ge=0, description="0: no limit")] = 5.0
    """Advantages are cut to -this .. this; 0 leaves them."""
    learning_rate: Rate = 2e-5
    """Adam's step size."""


@dataclass(frozen=True)
class RWRConfig(TrainerConfig):
    """Weighted regression. Defaults: measured best on validation, see docs/results.md."""

    weighting: Annotated[str, OneOf(WEIGHTINGS)] = "advantage"
    """``advantage`` (may be negative), ``exp_advantage`` or ``exp_reward``."""
    credit: Annotated[str, OneOf(CREDITS)] = "coordinate"
    """``episode``: one weight a chain; ``coordinate``: one for each number of u_0 (list rewards)."""
    baseline: Annotated[str, OneOf(BASELINES)] = "batch"
    """Baseline subtracted from a chain's reward where its advantage is used: see
    ``agents.gradients.advantages``."""
    temperature: Annotated[float, Meta(gt=0)] = 0.1
    """What rewards and advantages are divided by in an exponential; small is greedy."""
    states: Annotated[str, OneOf(STATES)] = "chain"
    """What the regression starts from: ``history``, the starting vector noised to step k, as in training;
    ``chain``, the state that the chain visited there; ``sample``, u_0 itself noised (AWM as published)."""
    regressions: Passes = 1
    """Updates on a batch of chains, each at newly drawn steps."""

    @classmethod
    def presets(cls) -> dict[str, Self]:
        """``default``; ``exponential``: the policy's own samples weighted by exp(r), arXiv 2603.10279."""
        return {
            "default": cls(),
            "exponential": cls(weighting="exp_reward", credit="episode", baseline="none"),
        }

    def check_together(self) -> None:
        """Refuse weights that do not go with the credit, and a baseline without the episodes it needs."""
        if self.weighting == "exp_reward" and self.credit == "coordinate":
            raise SettingError(
                "weighting",
                "must be 'advantage' or 'exp_advantage' for credit 'coordinate', found 'exp_reward', "
                "which weighs whole chains: use credit 'episode' for it",
            )
        if self.credit == "episode" and self.weighting != "exp_reward":
            check_baseline(self.baseline, self.samples_per_user)


@dataclass(frozen=True)
class DPOConfig(TrainerConfig):
    """Direct preference optimisation. Defaults: measured best on validation, see docs/results.md."""

    credit: Annotated[str, OneOf(CREDITS)] = "coordinate"
    """``episode``: pairs of a user's chains; ``coordinate``: each chain against its counterfactuals in one
    number of the last action (list rewards)."""
    pairs: Annotated[str, OneOf(PAIRS)] = "all"
    """Of a user's chains (credit ``episode``): ``all`` pairs, or only ``best_worst``."""
    beta: Annotated[float, Meta(gt=0)] = 0.1
    """Strength of the regularisation towards the pretrained policy, per unit of log-ratio (credit
    ``episode``: averaged over D, so there it must be thousands of times larger)."""
    weigh_by_gap: bool = True
    """Weigh each pair by the difference of its rewards; False counts every pair alike, as published."""
    epochs: Passes = 1
    """Updates on a batch of pairs."""
    train_steps: TrainSteps = "all"
    """``all``; ``random:n`` or ``last:n``: the steps of the chain that pairs of chains train."""

    def check_together(self) -> None:
        """Refuse to compare a user's chains where there is one."""
        if self.credit == "episode" and self.samples_per_user < 2:
            raise SettingError(
                "samples_per_user",
                "must be >= 2 for credit 'episode', which compares a user's chains, "
                f"found {self.samples_per_user}",
            )


@dataclass(frozen=True)
class ESConfig(TrainerConfig):
    """Evolution strategies. Defaults: measured best on validation, see docs/results.md."""

    users_per_batch: Batch = 256
    """Users in a batch."""
    samples_per_user: Annotated[int, Meta(ge=2, le=100_000)] = 2
    """Members of the population, half of them the others' mirror images; each runs its users once."""
    blocks: Annotated[int, Meta(ge=0, le=10**9, description="0: one for each user")] = 0
    """Parts of the batch whose users see perturbations of their own; 1 is OpenAI-ES, 0 makes a user one."""
    rank: Annotated[int, Meta(ge=1, le=100_000)] = 8
    """r: theta has r * r + r numbers."""
    sigma: Annotated[float, Meta(gt=0)] = 0.06
    """Standard deviation of the perturbations: how far one moves the score of a listed item (rms)."""
    basis: Annotated[str, OneOf(BASES)] = "factors"
    """Directions of the catalogue: ``factors`` of the train rows, of the ``relevant`` part of them, or
    singular vectors of the ``weights``."""
    shaping: Annotated[str, OneOf(SHAPINGS)] = "ranks"
    """What a fitness counts: ``ranks`` in -1/2 .. 1/2, or ``centred``, less its mean over its deviation."""
    noisy: bool = False
    """Use the chain with its noise (the same for a member's users) instead of the noise-free one."""
    learning_rate: Rate = 0.002
    """Adam's step size, in the units of ``sigma``."""

    def check_together(self) -> None:
        """Refuse an odd population, and more blocks than users."""
        if self.samples_per_user % 2:
            raise SettingError(
                "samples_per_user",
                f"must be even, found {self.samples_per_user}: half of the population are the others' mirror "
                "images",
            )
        if self.blocks > self.users_per_batch:
            raise SettingError(
                "blocks", f"must be <= {self.users_per_batch}, users_per_batch, found {self.blocks}"
            )


@dataclass(frozen=True)
class DistillConfig(TrainerConfig):
    """Distillation of a reward's gains. The chain is noise-free: ``exploration_std`` changes nothing."""

    temperature: Annotated[float, Meta(ge=0, description="0: fitted")] = 0.0
    """Divisor of the scores; 0: the power of two with the least loss of the pretrained model."""
    scores_learning_rate: Rate = 0.0
    """Adam's step size for what reads scores from u_0, the item embeddings; 0 leaves them as they are."""
