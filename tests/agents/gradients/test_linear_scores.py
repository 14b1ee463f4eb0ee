"""The estimator for embeddings: the derivative of the expected reward, by quadrature, and less noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from agents.algorithms.configs import ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.gradients.linear_scores import TrainedScores, linear_parts
from agents.gradients.sampled_pairs import Ends, linear_slope
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from refit_env.backbones import make_backbone
from refit_env.backbones.dreamrec import DreamRec
from refit_env.data import Dataset, synthesize_sessions
from refit_env.evaluation.metrics import discounts
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import make_relevance, make_reward

TABLE = torch.tensor([[1.0, 0.2], [0.1, 1.1], [-0.9, 0.3], [0.4, -1.0], [0.8, 0.9], [-0.2, -0.6]])
MEAN = torch.tensor([0.3, -0.2])
BIAS = torch.tensor([0.0, 0.3, -0.2, 0.1, 0.0, 0.2])
STD = 0.5
CASES = {
    "one target, no cut": (torch.tensor([0.0, 1.0, 0, 0, 0, 0]), discounts(6)),
    "one target, a list of two": (torch.tensor([0.0, 1.0, 0, 0, 0, 0]), torch.tensor([0.5, 0.5])),
    "several gains": (torch.tensor([0.0, 1.0, 0.5, 0, 0, -0.3]), discounts(3)),
    "nothing relevant": (torch.zeros(6), discounts(3)),
}


def rewards(scores: Tensor, gains: Tensor, discount: Tensor) -> Tensor:
    """(N,) list rewards of scores (N, I)."""
    return (gains[scores.topk(discount.numel(), dim=1).indices] * discount).sum(1)


def grid() -> tuple[Tensor, Tensor]:
    """The noise (n, 2) on a fine grid, float64, and the share (n,) of each point."""
    axis = torch.linspace(-5, 5, 601, dtype=torch.float64) * STD
    noise = torch.cartesian_prod(axis, axis)  # (n, 2)
    weight = torch.exp(-0.5 * noise.square().sum(1) / STD**2)
    return noise, weight / weight.sum()


def by_quadrature(gains: Tensor, discount: Tensor, hidden: int | None = None) -> Tensor:
    """(2,) the derivative in the mean, E[r (u - m)] / std^2, on a fine grid."""
    noise, weight = grid()
    scores = (MEAN.double() + noise) @ TABLE.double().T + BIAS
    if hidden is not None:
        scores[:, hidden] = -math.inf
    value = rewards(scores, gains.double(), discount.double())
    return ((weight * value)[:, None] * noise).sum(0) / STD**2


def samples(count: int) -> Tensor:
    return MEAN + STD * torch.randn(count, 2, generator=torch.Generator().manual_seed(0))


def estimates(u0: Tensor, gains: Tensor, discount: Tensor, pairs: int, hidden: int | None = None) -> Tensor:
    """(N, 2)."""
    scores = u0 @ TABLE.T + BIAS
    if hidden is not None:
        scores[:, hidden] = -math.inf
    ends = Ends(u0, MEAN.expand_as(u0), scores, TABLE, STD)
    draws = torch.Generator().manual_seed(1)
    return linear_slope(ends, gains.expand(len(u0), -1), discount, pairs, draws).mean


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("hidden", [None, 4])
def test_it_is_the_derivative_of_the_expected_reward(name: str, pairs: int, hidden: int | None) -> None:
    gains, discount = CASES[name]
    found = estimates(samples(20_000), gains, discount, pairs, hidden)
    error = found.std(0) / math.sqrt(len(found)) + 1e-3
    assert bool(((found.mean(0) - by_quadrature(gains, discount, hidden).float()).abs() < 4 * error).all())
    if name == "nothing relevant":
        assert not found.any()


@pytest.mark.parametrize("name", CASES)
def test_its_second_part_is_the_derivative_in_the_embeddings(name: str) -> None:
    gains, discount = CASES[name]
    count, step = 40_000, 0.05
    u0 = samples(count)
    ends = Ends(u0, MEAN.expand_as(u0), u0 @ TABLE.T + BIAS, TABLE, STD)
    each = (gains.expand(count, -1), discount, 2, torch.Generator().manual_seed(1))
    assert not linear_slope(ends, *each).table.any()  # only on request
    found = linear_slope(ends, *each, of_table=True).table
    noise, weight = grid()

    def expected(table: Tensor) -> float:
        scores = (MEAN.double() + noise) @ table.double().T + BIAS
        return float((weight * rewards(scores, gains.double(), discount.double())).sum())

    for item in range(len(TABLE)):
        for axis_ in range(2):
            shift = torch.zeros_like(TABLE)
            shift[item, axis_] = step
            slope = (expected(TABLE + shift) - expected(TABLE - shift)) / (2 * step)
            assert float(found[item, axis_]) / count == pytest.approx(slope, abs=8e-3)


def test_of_many_relevant_items_some_are_drawn_and_the_mean_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    gains, discount = torch.tensor([0.9, 0.2, 0.5, 0.1, 0.7, 0.3]), discounts(3)
    monkeypatch.setattr("agents.gradients.sampled_pairs.MOST", 2)
    found = estimates(samples(20_000), gains, discount, 2)
    error = found.std(0) / math.sqrt(len(found)) + 1e-3
    assert bool(((found.mean(0) - by_quadrature(gains, discount).float()).abs() < 4 * error).all())


def test_a_context_that_scores_too_has_its_derivatives() -> None:
    gains, discount = CASES["several gains"]
    count, step, (noise, weight) = 40_000, 0.05, grid()
    known, u0, draws = torch.tensor([0.4, -0.3, 0.2]), samples(count), torch.Generator().manual_seed(3)
    by_context = torch.randn(6, 3, generator=draws)
    context, scores = (known.expand(count, -1), by_context), u0 @ TABLE.T + by_context @ known
    ends = Ends(u0, MEAN.expand_as(u0), scores, TABLE, STD, context)
    found = linear_slope(ends, gains.expand(count, -1), discount, 2, draws, True)

    def expected(context: Tensor, slope: Tensor) -> float:
        scores = (MEAN.double() + noise) @ TABLE.double().T + (slope @ context).double()
        return float((weight * rewards(scores, gains.double(), discount.double())).sum())

    for axis_ in range(3):
        shift = step * torch.eye(3)[axis_]
        slope = (expected(known + shift, by_context) - expected(known - shift, by_context)) / (2 * step)
        assert float(found.context.mean(0)[axis_]) == pytest.approx(slope, abs=8e-3)
        for item in range(6):
            moved = torch.zeros_like(by_context)
            moved[item, axis_] = step
            slope = (expected(known, by_context + moved) - expected(known, by_context - moved)) / (2 * step)
            assert float(found.context_table[item, axis_]) / count == pytest.approx(slope, abs=8e-3)


def test_it_varies_less_than_the_score_function_where_every_rank_counts() -> None:
    """Sixty items in twelve dimensions, as in embeddings: the score function's noise has all of them."""
    discount = discounts(60)
    generator = torch.Generator().manual_seed(2)
    table, mean = torch.randn(60, 12, generator=generator), torch.randn(12, generator=generator)
    u0 = mean + STD * torch.randn(5_000, 12, generator=generator)
    scores = u0 @ table.T
    gains = torch.zeros(60)
    gains[(mean @ table.T).argsort(descending=True)[6]] = 1.0
    value = rewards(scores, gains, discount)
    score = (value - value.mean())[:, None] * (u0 - mean) / STD**2  # with nearly the best constant baseline
    ends = Ends(u0, mean.expand_as(u0), scores, table, STD)
    ours = linear_slope(ends, gains.expand(5_000, -1), discount, 4, generator).mean
    error = (ours.var(0) + score.var(0)).sqrt() / math.sqrt(5_000)
    assert bool(((ours.mean(0) - score.mean(0)).abs() < 4 * error).all())
    assert ours.var(0).sum() < 0.25 * score.var(0).sum()


# ---------------------------------------------------------------------- in the agent


@pytest.fixture(scope="module")
def sessions() -> Dataset:
    return synthesize_sessions(num_sessions=400, num_items=40)


def test_distances_have_their_derivative_in_the_embeddings() -> None:
    gains, discount = CASES["several gains"]
    count, step, (noise, weight) = 40_000, 0.05, grid()
    u0, table = samples(count), TABLE.clone().requires_grad_()
    offset = table.square().sum(1) / -2
    trained = TrainedScores(table, (torch.ones(count, 1), offset[:, None]))
    context = torch.ones(count, 1), offset[:, None].detach()
    scores = (u0 @ table.T + offset).detach()
    ends = Ends(u0, MEAN.expand_as(u0), scores, TABLE, STD, context)
    draws = torch.Generator().manual_seed(1)
    slope = linear_slope(ends, gains.expand(count, -1), discount, 2, draws, True)
    tensors, derivatives = zip(*trained.slopes(slope, 1, 1 / count), strict=True)
    torch.autograd.backward(tensors, derivatives)
    assert table.grad is not None

    def expected(table: Tensor) -> float:
        scores = -(((MEAN.double() + noise)[:, None] - table.double()).square().sum(2)) / 2
        return float((weight * rewards(scores, gains.double(), discount.double())).sum())

    for item in range(len(TABLE)):
        for axis_ in range(2):
            shift = torch.zeros_like(TABLE)
            shift[item, axis_] = step
            slope_ = (expected(TABLE + shift) - expected(TABLE - shift)) / (2 * step)
            assert float(table.grad[item, axis_]) == pytest.approx(slope_, abs=8e-3)


@pytest.fixture(scope="module", params=["inner-product", "distance"])
def checkpoint(
    request: pytest.FixtureRequest, sessions: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A briefly pretrained model."""
    torch.manual_seed(0)
    config = {"embedding": 16, "num_steps": 50, "guidance": 1.0, "similarity": request.param}
    model = make_backbone("dreamrec", sessions.num_items, config)
    settings = PretrainConfig(epochs=3, users_per_batch=128, eval_steps=4, learning_rate=3e-3)
    trained = pretrain(sessions, model, settings, seed=0, device="cpu").backbone
    folder = tmp_path_factory.mktemp("sessions") / "run"
    DiffusionPolicy(trained, num_steps=4).save(folder, sessions)
    return str(folder)


def test_parts_of_one_discount_are_one(sessions: Dataset) -> None:
    rows, users = sessions.episodes, torch.arange(6)
    mix = {"ndcg": 1.0, "ease": -0.5, "log_rank": 2.0}
    reward = make_reward(mix, rows, make_relevance("train", rows), k=5)
    scores = torch.randn(6, rows.num_items, generator=torch.Generator().manual_seed(0))
    parts = linear_parts(reward, users)
    assert len(parts) == 2  # ndcg and ease; log_rank knows no cut
    total = torch.zeros(6)
    for gains, discount in parts:
        best = scores.topk(discount.numel(), dim=1).indices
        total += (gains.gather(1, best) * discount).sum(1)
    assert torch.allclose(total, reward(scores, users).value, atol=1e-6)


def agent(checkpoint: str, data: Dataset, reward: Any = "log_rank", **changes: Any) -> Reinforce:
    settings: dict[str, Any] = {"users_per_batch": 64, "samples_per_user": 4, "exploration_std": 0.3}
    settings |= {"iterations": 40, "eval_every": 20, "learning_rate": 3e-3, "baseline": "leave_one_out"}
    kwargs = {"data": data, "backbone": "dreamrec", "checkpoint": checkpoint, "reward": reward, "k": 5}
    config = ReinforceConfig(**(settings | changes))
    policy = DiffusionPolicy.load(checkpoint)
    return Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=kwargs, seed=0, device="cpu")


def items_of(learner: Reinforce) -> Tensor:
    """(I + 1, D) the policy's item embeddings."""
    return cast(DreamRec, learner.policy.backbone).items.weight


@pytest.mark.parametrize("estimator", ["score", "pathwise"])
def test_it_raises_its_reward(estimator: str, checkpoint: str, sessions: Dataset) -> None:
    learner = agent(checkpoint, sessions, estimator=estimator)
    before = learner.evaluate("valid").means()["ndcg@20"]
    table = items_of(learner).clone()
    result = learner.learn()
    rewards = [row["reward/mean"] for row in result.history[1:]]
    assert sum(rewards[-10:]) > 1.05 * sum(rewards[:10])
    assert learner.evaluate("valid").means()["ndcg@20"] > before
    assert torch.equal(items_of(learner), table)


def test_item_embeddings_move_where_they_may_and_the_rewards_scores_with_them(
    checkpoint: str, sessions: Dataset
) -> None:
    fixed = agent(checkpoint, sessions).learn()
    learner, other = agent(checkpoint, sessions, scores_learning_rate=1e-2), agent(checkpoint, sessions)
    before = items_of(learner).clone()
    shared = other.env.problem.score_table
    assert shared is not None
    kept = shared.clone()
    result = learner.learn()
    assert not torch.equal(items_of(learner), before)
    gained = [sum(row["reward/mean"] for row in found.history[-10:]) for found in (fixed, result)]
    assert gained[1] > gained[0]
    again = other.env.problem.score_table
    assert again is not None and torch.equal(again, kept)  # nobody else's environment has changed
    users, u0 = torch.arange(5), torch.randn(5, 16)
    began = items_of(learner).clone()
    learner.update(torch.arange(64))
    scored = learner.env.problem.score_table  # an update scores as the policy did when it began
    assert scored is not None and torch.equal(scored, began[:-1])
    learner.env.problem.score_by(learner.policy.backbone)
    scores = learner.env.problem.scores(u0, users), learner.policy.backbone.scores(u0, users)
    assert torch.allclose(*scores, atol=1e-5)  # the problem's are sums in float64


def test_scores_that_cannot_be_trained_are_refused(checkpoint: str, sessions: Dataset) -> None:
    with pytest.raises(
        ValueError, match=r"scores_learning_rate needs estimator 'pathwise'.* 'score' on 'dreamrec'"
    ):
        agent(checkpoint, sessions, estimator="score", scores_learning_rate=1e-2)


@pytest.mark.parametrize(("estimator", "rate"), [("score", 0.0), ("pathwise", 0.0), ("pathwise", 1e-2)])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    estimator: str, rate: float, checkpoint: str, sessions: Dataset, tmp_path: Path
) -> None:
    short = {"estimator": estimator, "iterations": 4, "eval_every": 2, "scores_learning_rate": rate}
    whole = agent(checkpoint, sessions, **short)
    whole.learn()

    def stop(learner: Any, scalars: dict[str, float]) -> None:
        if learner.iteration == 3:
            raise KeyboardInterrupt

    assert agent(checkpoint, sessions, **short).learn(tmp_path, callback=stop).interrupted
    resumed = agent(checkpoint, sessions, **short).load(tmp_path)
    resumed.learn()
    assert whole.history[-1]["reward/mean"] == resumed.history[-1]["reward/mean"]
    states = whole.policy.state_dict(), resumed.policy.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("reward", ["racs", "ndcg", {"racs": 1.0, "log_rank": 0.5}])
def test_list_rewards_and_mixes_are_taken_apart(reward: Any, checkpoint: str, sessions: Dataset) -> None:
    learner = agent(checkpoint, sessions, reward, estimator="pathwise", iterations=1)
    scalars = learner.update(torch.arange(64))
    assert scalars["train/gradient_norm"] > 0


def test_what_cannot_be_taken_apart_is_refused(checkpoint: str, sessions: Dataset) -> None:
    with pytest.raises(ValueError, match="ReciprocalRank is none"):
        agent(checkpoint, sessions, "reciprocal_rank", estimator="pathwise")
    with pytest.raises(ValueError, match="'pathwise' and 'score' work with embeddings"):
        agent(checkpoint, sessions, "ndcg", estimator="rao_blackwell")
