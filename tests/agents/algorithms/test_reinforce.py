"""REINFORCE: unbiased in every option, resumable bit for bit, and it learns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.algorithms.configs import ESTIMATORS, ReinforceConfig
from agents.algorithms.reinforce import Reinforce
from agents.gradients.advantages import advantage
from agents.gradients.estimators import ItemDraws
from agents.rollouts.rollout import roll_out
from refit_env.data import Dataset
from refit_env.envs import DenoisingVectorEnv
from refit_env.rewards.beyond_accuracy import Coverage
from tests.agents.algorithms.small import SMALL, Factory, agent
from tests.agents.algorithms.two_items import check_slopes, expected, two_item_agent
from tests.files import content_of

# ---------------------------------------------------------------------- the gradient


@pytest.mark.parametrize(
    ("estimator", "baseline", "train_steps", "share"),
    [
        ("score", "none", "all", True),
        ("score", "batch", "all", False),
        ("score", "leave_one_out", "all", True),
        ("score", "leave_one_out", "random:1", True),
        ("rao_blackwell", "leave_one_out", "all", True),
        ("rao_blackwell", "leave_one_out", "random:1", True),
        ("pathwise", "batch", "all", True),
    ],
)
def test_gradient_matches_finite_differences_of_the_expected_reward(
    estimator: str, baseline: str, train_steps: str, share: bool
) -> None:
    config = ReinforceConfig(
        estimator=estimator,
        baseline=baseline,
        train_steps=train_steps,
        share_first_step=share,
        logprob_reduction="sum",
        users_per_batch=1,
        samples_per_user=20_000,
        exploration_std=0.4,
    )
    learner = two_item_agent(Reinforce, config, steps=2)
    check_slopes(learner, lambda noise: expected(learner, noise), batches=12)


def test_sampled_items_have_the_whole_gradient_as_their_expectation(
    make_policy: Factory, small_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = agent(make_policy(), small_data, replace(SMALL, chunks=2))
    learner.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=0.0)
    state, own = learner.noise_generator.get_state(), torch.Generator().manual_seed(5)

    def gradient(draws: ItemDraws | None) -> torch.Tensor:
        """The gradient of the same chains in all weights of the last layer, (H * I,)."""
        monkeypatch.setattr(learner, "_item_draws", lambda: draws)
        learner.noise_generator.set_state(state)
        learner.update(torch.arange(8))
        weight = learner.policy.backbone.layers[-1].weight  # type: ignore[union-attr,index]
        return weight.grad.double().flatten().clone()  # type: ignore[union-attr,operator]

    exact = gradient(None)
    each = torch.stack([gradient(ItemDraws(10, own)) for _ in range(200)])  # (200, H * I)
    assert float(each.var(0).sum()) > 0
    direction = torch.stack([exact, torch.randn(exact.numel(), generator=own, dtype=torch.float64)])
    along, wanted = each @ direction.T, direction @ exact  # (200, 2), (2,)
    error = along.std(0) / math.sqrt(200)
    assert bool(((along.mean(0) - wanted).abs() < 4.5 * error + 1e-12).all())


def test_rao_blackwell_varies_less_than_the_score_function(make_policy: Factory, small_data: Dataset) -> None:
    spread = {}
    for name in ESTIMATORS:
        config = replace(SMALL, estimator=name, baseline="leave_one_out", samples_per_user=4)
        learner = agent(make_policy(), small_data, config)
        grads = []
        for _ in range(30):
            learner.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=0.0)
            learner.update(torch.arange(8))
            grads.append(learner.policy.backbone.layers[-1].weight.grad.clone())  # type: ignore[union-attr,index]
        spread[name] = float(torch.stack(grads).var(0).sum())
    assert spread["rao_blackwell"] < 0.5 * spread["score"]
    assert spread["pathwise"] < 0.5 * spread["score"]


def test_kl_pulls_back_to_the_pretrained_policy(make_policy: Factory, small_data: Dataset) -> None:
    gaps = {}
    for weight in (0.0, 100.0):
        learner = agent(make_policy(), small_data, replace(SMALL, kl_weight=weight, iterations=20))
        learner.learn()
        gaps[weight] = learner.history[-1]["policy/kl_to_pretrained"]
    assert gaps[100.0] < 0.5 * gaps[0.0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_recomputing_spares_memory_and_changes_nothing(
    make_policy: Factory, small_data: Dataset, estimator: str
) -> None:
    found = []
    for recompute in (False, True):
        config = replace(SMALL, estimator=estimator, recompute=recompute)
        learner, ran = agent(make_policy(), small_data, config), []
        learner.policy.backbone.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        learner.update(torch.arange(8))
        found.append(([p.grad for p in learner.policy.parameters()], len(ran)))
    (kept, once), (again, twice) = found
    for a, b in zip(kept, again, strict=True):  # the steps may be summed in another order
        assert a is not None and b is not None
        assert torch.allclose(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))
    assert (once, twice) == (3, 6)  # T, and T more in the backward pass


# ---------------------------------------------------------------------- rollouts


def test_log_prob_of_the_rollout_is_the_policys(make_policy: Factory, small_data: Dataset) -> None:
    """The score function's weight is d log pi / d mean: noise / std, as autograd gets it from log_prob."""
    policy = make_policy()
    learner = agent(policy, small_data)
    users = torch.arange(8)
    rollout = roll_out(policy, learner.env, users, generator=learner.noise_generator)
    for t in range(policy.num_steps):
        state = rollout.states[t] if t else rollout.states[0].repeat_interleave(2, 0)
        mean = policy.mean(state, t).detach().requires_grad_()
        action = mean.detach() + policy.std[t] * rollout.noise[t]
        log_prob = torch.distributions.Normal(mean, policy.std[t]).log_prob(action).sum(1)
        (slope,) = torch.autograd.grad(log_prob.sum(), mean)
        assert torch.allclose(slope, rollout.noise[t] / policy.std[t], atol=1e-3)
        assert torch.allclose(policy.log_prob(action, state, t), log_prob, atol=1e-2)


def test_episodes_of_a_user_share_the_first_mean_and_nothing_else(
    make_policy: Factory, small_data: Dataset
) -> None:
    learner = agent(make_policy(), small_data)
    shared = roll_out(
        learner.policy, learner.env, torch.arange(8), generator=torch.Generator().manual_seed(0)
    )
    apart = roll_out(
        learner.policy,
        learner.env,
        torch.arange(8),
        generator=torch.Generator().manual_seed(0),
        share_first=False,
    )
    assert shared.means[0].shape[0] == 8 and apart.means[0].shape[0] == 16
    assert torch.allclose(shared.u0, apart.u0, atol=1e-5) and torch.equal(shared.reward, apart.reward)
    assert shared.samples_per_user == 2


def test_episodes_that_start_apart_share_nothing(make_policy: Factory, small_data: Dataset) -> None:
    learner = agent(make_policy(), small_data, start="diffused")
    rollout = roll_out(learner.policy, learner.env, torch.arange(8))
    assert rollout.means[0].shape[0] == 16
    assert not torch.equal(rollout.states[0][0], rollout.states[0][1])
    assert torch.allclose(rollout.means[0], learner.policy.mean(rollout.states[0], 0), atol=1e-6)


def test_reward_of_the_environment_is_what_the_lists_earn(make_policy: Factory, small_data: Dataset) -> None:
    learner = agent(make_policy(), small_data)
    users = torch.arange(8)
    rollout = roll_out(learner.policy, learner.env, users)
    problem = learner.env.problem
    again, _, lists = problem.score(rollout.u0, users.repeat_interleave(2))
    assert torch.equal(rollout.reward, again) and torch.equal(rollout.lists, lists)


# ---------------------------------------------------------------------- training


def test_it_raises_its_reward(make_policy: Factory, small_data: Dataset) -> None:
    for name in ("pathwise", "score"):
        config = replace(
            SMALL, estimator=name, baseline="leave_one_out", iterations=150, samples_per_user=8,
            users_per_batch=32, learning_rate=3e-3, eval_every=150,
        )  # fmt: skip
        history = agent(make_policy(), small_data, config).learn().history
        rewards = [row["reward/mean"] for row in history if "reward/mean" in row]
        assert sum(rewards[-20:]) / 20 > sum(rewards[:20]) / 20 + 0.05, name


@pytest.mark.parametrize(("stop", "reward"), [(2, "ndcg"), (4, "ndcg"), (3, {"ndcg": 1.0, "coverage": 0.5})])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    stop: int, reward: Any, make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    config = replace(SMALL, iterations=6, anneal_lr=stop == 4, blends=1)
    whole = agent(make_policy(), small_data, config, reward=reward)
    whole.learn(tmp_path / "whole")
    first = agent(make_policy(), small_data, config, reward=reward)

    def interrupt(learner: Any, scalars: dict[str, float]) -> None:
        if learner.iteration == stop:
            raise KeyboardInterrupt

    result = first.learn(tmp_path / "broken", callback=interrupt)
    assert result.interrupted and result.history[-1]["iteration"] == stop
    second = agent(make_policy(seed=9), small_data, config, reward=reward).load(
        tmp_path / "broken"
    )  # other weights: all is loaded
    second.learn(tmp_path / "broken")
    for a, b in zip(whole.policy.state_dict().values(), second.policy.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    timeless = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in whole.history]
    assert timeless == [
        {k: v for k, v in row.items() if not k.startswith("seconds")} for row in second.history
    ]
    log = (tmp_path / "broken" / "log.csv").read_text().splitlines()
    assert len(log) == 1 + 1 + 6  # header, the untouched model, six iterations


def test_a_training_replaces_a_run_only_with_overwrite(
    make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    agent(make_policy(), small_data).learn(tmp_path)
    before = content_of(tmp_path)
    with pytest.raises(ValueError, match=r"holds resume\.safetensors, log\.csv, tb of a run.*overwrite=True"):
        agent(make_policy(), small_data).learn(tmp_path)
    assert content_of(tmp_path) == before
    second = agent(make_policy(), small_data)
    second.learn(tmp_path, overwrite=True)
    second.learn(tmp_path)  # its own


def test_the_untouched_model_is_kept_if_nothing_is_better(make_policy: Factory, small_data: Dataset) -> None:
    policy = make_policy()
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    learner = agent(policy, small_data, replace(SMALL, learning_rate=10.0))
    learner._best = (2.0, 0)  # no metric can beat it
    result = learner.learn()
    assert result.best_iteration == 0
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())


def test_annealed_steps_shrink_to_nothing(make_policy: Factory, small_data: Dataset) -> None:
    learner, rates = agent(make_policy(), small_data, replace(SMALL, iterations=4, anneal_lr=True)), []
    learner.learn(callback=lambda a, _: rates.append(a.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([SMALL.learning_rate * share for share in (1.0, 0.75, 0.5, 0.25)])


def test_patience_ends_a_run(make_policy: Factory, small_data: Dataset) -> None:
    learner = agent(make_policy(), small_data, replace(SMALL, iterations=100, learning_rate=0.0, patience=3))
    history = learner.learn().history
    assert history[-1]["iteration"] == 6
    assert sum("valid/ndcg@20" in row for row in history) == 1 + 3  # the start, and three in vain


@pytest.mark.parametrize(
    "goal",
    [
        {"relevance": "validation"},
        {"relevance": "recent", "reward": "racs", "reward_kwargs": {"neighbor_relevance": "validation"}},
    ],
)
def test_a_reward_that_sees_validation_items_selects_by_those_of_other_users(
    make_policy: Factory, small_data: Dataset, goal: dict[str, Any]
) -> None:
    learner = agent(make_policy(), small_data, **goal)
    selecting = learner._selection_users
    assert selecting is not None and 15 < len(selecting) < 45
    if goal["relevance"] == "validation":
        assert not set(selecting.tolist()) & set(learner._train_users.tolist())
    history = learner.learn().history
    found = learner.evaluate("valid", users=selecting)
    assert set(found.users.tolist()) <= set(selecting.tolist())
    assert learner._best[0] == max(row["valid/ndcg@20"] for row in history if "valid/ndcg@20" in row)
    seen = learner.env.problem.reward_fn
    own = goal.get("reward_kwargs", {})
    rows = seen.context.relevance.relevant if not own else seen.similar.relevant  # type: ignore[attr-defined]
    assert rows.nnz and not rows[selecting].nnz


def test_hold_outs_are_taken_in_turns(make_policy: Factory, small_data: Dataset) -> None:
    learner = agent(make_policy(), small_data, replace(SMALL, relevance_draws=3), relevance="holdout")
    shown = []
    for _ in range(4):
        learner._step()
        shown.append(learner.env.problem.initial_state(torch.arange(8)))
    assert torch.equal(shown[0], shown[3]) and not torch.equal(shown[0], shown[1])
    with pytest.raises(ValueError, match="only 'holdout' can be drawn again"):
        agent(make_policy(), small_data, replace(SMALL, relevance_draws=2), relevance="recent")


def test_each_hold_out_is_shown_its_own_lists(make_policy: Factory, small_data: Dataset) -> None:
    """The policy's, less what that hold-out shows; and a new environment pays as before."""
    config = replace(SMALL, relevance_draws=2)
    goal: dict[str, Any] = {"reward": "coverage", "k": 5, "relevance": "holdout"}
    fresh = DenoisingVectorEnv(small_data, num_envs=1, num_steps=3, **goal).problem
    scores, users = torch.rand(1, 40), torch.from_numpy(fresh.users[:1])
    before = fresh.score(scores, users)[0]
    learner = agent(make_policy(), small_data, config, **goal)
    learner.learn()
    learner.refresh_lists()
    shown = [env.problem.reward_fn for env in learner.envs]
    score = learner.policy.scorer(small_data)
    lists = [reward.lists for reward in shown if isinstance(reward, Coverage)]
    assert all(torch.equal(own, r.context.lists_by(score)) for own, r in zip(lists, shown, strict=True))
    assert not torch.equal(*lists)
    for problem in (fresh, DenoisingVectorEnv(small_data, num_envs=1, num_steps=3, **goal).problem):
        assert torch.equal(problem.score(scores, users)[0], before)


def test_presets_and_the_literal_estimator(make_policy: Factory, small_data: Dataset) -> None:
    paper = ReinforceConfig.preset("paper")
    assert (paper.learning_rate, paper.users_per_batch, paper.iterations) == (1e-3, 64, 200)
    assert paper.baseline == "none" and paper.exploration_std == 0.0
    config = replace(paper, iterations=2, eval_every=2)
    learner = agent(make_policy(), small_data, config, reward="racs")
    assert float(learner.policy.std.max()) < 0.02  # the posterior's own
    assert all(math.isfinite(row.get("reward/mean", 0.0)) for row in learner.learn().history)
    assert set(ReinforceConfig.presets()) == {"default", "score", "paper"}
    with pytest.raises(ValueError, match="Did you mean 'paper'"):
        ReinforceConfig.preset("papr")


def test_saved_state_is_one_plain_file(make_policy: Factory, small_data: Dataset, tmp_path: Path) -> None:
    learner = agent(make_policy(), small_data)
    learner.learn(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert "resume.safetensors" in names and not any(n.startswith(".") for n in names)
    header = (tmp_path / "resume.safetensors").read_bytes()[8:200_000].split(b"}}")[0]
    assert b"reinforce" in header
    assert json.loads(json.dumps(learner.history))  # plain numbers


# ---------------------------------------------------------------------- bad input


def test_a_batch_larger_than_the_data_shrinks(make_policy: Factory, small_data: Dataset) -> None:
    learner = agent(make_policy(), small_data, replace(SMALL, users_per_batch=1000))
    assert learner.config.users_per_batch == len(learner.env.problem.users) <= 60
    assert advantage("batch", torch.zeros(2, 1)).sum() == 0
    assert learner.learn().history


# ---------------------------------------------------------------------- item biases


def test_item_biases_have_a_step_size_of_their_own(make_policy: Factory, small_data: Dataset) -> None:
    frozen = replace(SMALL, learning_rate=0.0, item_bias_learning_rate=1e-3, iterations=1)
    learner = agent(make_policy(), small_data, frozen)
    before = {name: value.detach().clone() for name, value in learner.policy.named_parameters()}
    learner.update(torch.arange(8))
    moved = {
        n: float((value - before[n]).detach().abs().max()) for n, value in learner.policy.named_parameters()
    }
    assert {name for name, far in moved.items() if far} == {"backbone.layers.1.bias"}  # Adam's first step
    assert moved["backbone.layers.1.bias"] == pytest.approx(1e-3, rel=1e-3)
    both = agent(make_policy(), small_data, replace(frozen, learning_rate=1e-4))
    both.update(torch.arange(8))
    steps = {
        n: float((value - before[n]).detach().abs().max()) for n, value in both.policy.named_parameters()
    }
    assert steps["backbone.layers.1.bias"] == pytest.approx(1e-3, rel=1e-3)
    assert steps["backbone.layers.0.weight"] == pytest.approx(1e-4, rel=1e-2)


def test_item_biases_alone_resume(check_resume: Callable[..., None], small_data: Dataset) -> None:
    config = replace(SMALL, learning_rate=0.0, item_bias_learning_rate=1e-3)
    check_resume(lambda policy: agent(policy, small_data, config))


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e3, 1.0])
def test_a_gradient_is_cut_to_the_norm_that_is_allowed_as_torch_does(
    make_policy: Factory, small_data: Dataset, limit: float
) -> None:
    learner = agent(make_policy(), small_data, replace(SMALL, max_grad_norm=limit))
    trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
    generator = torch.Generator().manual_seed(0)
    for parameter in trained:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    wanted = [parameter.grad.clone() for parameter in trained if parameter.grad is not None]
    copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in trained]
    for parameter, gradient in zip(copies, wanted, strict=True):
        parameter.grad = gradient
    norm = torch.nn.utils.clip_grad_norm_(copies, limit or math.inf)
    assert learner.take_step() == float(norm) > 1.0
    for parameter, copy in zip(trained, copies, strict=True):
        assert parameter.grad is not None and copy.grad is not None
        assert torch.equal(parameter.grad, copy.grad)
