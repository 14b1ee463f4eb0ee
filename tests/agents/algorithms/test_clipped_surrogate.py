"""PPO and GRPO: the surrogate's gradient, its clip, exact resume, and that they learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from agents.algorithms.clipped_surrogate import ClippedSurrogate, clipped_gain
from agents.algorithms.configs import GRPOConfig, PPOConfig, ReinforceConfig, SurrogateConfig
from agents.algorithms.grpo import GRPO
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import Reinforce
from agents.gradients.advantages import advantage
from agents.gradients.counterfactual_advantage import coordinate_credit
from agents.rollouts.rollout import roll_out
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy

Factory = Callable[..., DiffusionPolicy]
ResumeCheck = Callable[[Callable[[DiffusionPolicy], Any]], None]
SMALL = PPOConfig(iterations=4, users_per_batch=8, samples_per_user=2, eval_every=2, learning_rate=1e-3)
AGENTS = [
    pytest.param(PPO, SMALL, id="ppo-coordinate"),
    pytest.param(PPO, replace(SMALL, credit="episode", train_steps="all"), id="ppo-episode"),
    pytest.param(
        GRPO,
        GRPOConfig(iterations=4, users_per_batch=8, samples_per_user=4, eval_every=2, learning_rate=1e-3),
        id="grpo",
    ),
]


def make(
    cls: type[ClippedSurrogate], policy: DiffusionPolicy, data: Dataset, config: Any, **kwargs: Any
) -> ClippedSurrogate:
    goal = {"reward": "ndcg", "k": 5, "relevance": "recent", "data": data} | kwargs
    return cls(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, seed=3, device="cpu")


def gradients(policy: DiffusionPolicy) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


# ---------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("baseline", ["leave_one_out", "group"])
def test_the_first_update_is_reinforces(
    baseline: str, reduction: str, make_policy: Factory, small_data: Dataset
) -> None:
    """Before anything has moved all ratios are 1, and the surrogate's gradient is the score function's."""
    shared = {"baseline": baseline, "logprob_reduction": reduction, "samples_per_user": 4}
    surrogate = make(
        PPO, make_policy(), small_data,
        replace(SMALL, credit="episode", train_steps="all", epochs=1, minibatches=1, **shared),
    )  # fmt: skip
    plain = Reinforce(
        make_policy(), "ReFiT-Custom-v0",
        ReinforceConfig(users_per_batch=8, estimator="score", share_first_step=True, **shared),
        env_kwargs={"reward": "ndcg", "k": 5, "relevance": "recent", "data": small_data},
        seed=3, device="cpu",
    )  # fmt: skip
    users = torch.arange(8)
    surrogate.update(users), plain.update(users)
    ours, theirs = gradients(surrogate.policy), -gradients(plain.policy)  # one descends, the other climbs
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert float(theirs.abs().max()) > 0


def test_the_first_coordinate_update_weighs_each_number_by_its_own_credit(
    make_policy: Factory, small_data: Dataset
) -> None:
    config = replace(SMALL, epochs=1, minibatches=1)
    learner = make(PPO, make_policy(), small_data, config)
    users, last = torch.arange(8), learner.policy.num_steps - 1
    state = learner.noise_generator.get_state()
    learner.update(users)
    found = gradients(learner.policy)

    twin = make(PPO, make_policy(), small_data, SMALL)
    twin.noise_generator.set_state(state)
    rollout = roll_out(twin.policy, twin.env, users, generator=twin.noise_generator)
    credit = coordinate_credit(rollout, twin.policy, twin.env.problem.reward_fn)
    mean = twin.policy.mean(rollout.states[last], last)
    score = credit * rollout.noise[last] / twin.policy.std[last]  # (N, D)
    mean.backward(-score / score.numel())
    assert torch.allclose(found, gradients(twin.policy), atol=1e-4 * float(found.abs().max()))


def test_the_first_coordinate_update_has_the_expectation_of_the_exact_slope(
    make_policy: Factory, small_data: Dataset
) -> None:
    """Averaged over the last draw, credit through the chain is the pathwise estimator."""
    config = replace(SMALL, epochs=1, minibatches=1, train_steps="all")
    surrogate = make(PPO, make_policy(), small_data, config)
    exact = Reinforce(
        make_policy(), "ReFiT-Custom-v0",
        ReinforceConfig(users_per_batch=8, samples_per_user=2, estimator="pathwise"),
        env_kwargs={"reward": "ndcg", "k": 5, "relevance": "recent", "data": small_data},
        seed=3, device="cpu",
    )  # fmt: skip
    found: dict[str, list[torch.Tensor]] = {"ours": [], "theirs": []}
    for _ in range(600):
        for name, learner in (("ours", surrogate), ("theirs", exact)):
            learner.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=0.0)
            learner.update(torch.arange(8))
            found[name].append(gradients(learner.policy) * (-1 if name == "ours" else 1))
    ours, theirs = torch.stack(found["ours"]), torch.stack(found["theirs"])
    error = ((ours.var(0) + theirs.var(0)) / len(ours)).sqrt()
    z = (ours.mean(0) - theirs.mean(0))[error > 1e-9] / error[error > 1e-9]
    assert float(z.abs().max()) < 5.5
    together = torch.nn.functional.cosine_similarity(ours.mean(0), theirs.mean(0), dim=0)
    assert float(together) > 0.9


def test_the_ratio_is_that_of_the_densities(make_policy: Factory, small_data: Dataset) -> None:
    """The surrogate's log ratio, computed from the noise, equals two log-probabilities' difference."""
    policy, moved = make_policy(), make_policy(seed=4).eval()
    learner = make(PPO, policy, small_data, replace(SMALL, samples_per_user=1))
    rollout = roll_out(policy, learner.env, torch.arange(8), generator=learner.noise_generator)
    moved.set_exploration(SMALL.exploration_std)
    for t in range(policy.num_steps):
        state, old = rollout.states[t], rollout.means[t].detach()
        action = old + policy.std[t] * rollout.noise[t]
        delta = (old - moved.mean(state, t)) / policy.std[t]
        ours = -(delta * rollout.noise[t] + 0.5 * delta.square()).sum(1)
        theirs = moved.log_prob(action, state, t) - policy.log_prob(action, state, t)
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2)


def test_a_cut_ratio_has_no_gradient_on_its_own_side_alone() -> None:
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5]).requires_grad_()
    gain, cut = clipped_gain(log_ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    gain.sum().backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == pytest.approx([0.0, -math.exp(0.5), math.exp(-0.5), 0.0])
    assert float(cut) == 1.0
    _, none = clipped_gain(log_ratio.detach(), torch.zeros(4), 0.2)
    assert float(none) == 0.0  # what has no advantage is not counted


def test_the_clip_keeps_the_policy_near(make_policy: Factory, small_data: Dataset) -> None:
    moved = {}
    for clip_range in (1e-4, 0.9):
        config = replace(SMALL, clip_range=clip_range, epochs=60, minibatches=1)
        learner = make(PPO, make_policy(), small_data, config)
        moved[clip_range] = learner.update(torch.arange(8))["train/approx_kl"]
    assert moved[1e-4] < 0.7 * moved[0.9]


def test_target_kl_ends_the_passes(make_policy: Factory, small_data: Dataset) -> None:
    config = replace(SMALL, epochs=50, learning_rate=1e-2, minibatches=1, target_kl=1e-4)
    updates = make(PPO, make_policy(), small_data, config).update(torch.arange(8))["train/updates"]
    assert 1 <= updates < 50


def test_kl_pulls_back_to_the_pretrained_policy(make_policy: Factory, small_data: Dataset) -> None:
    gaps = {}
    for weight in (0.0, 10.0):
        config = replace(SMALL, kl_weight=weight, iterations=20, train_steps="all")
        learner = make(PPO, make_policy(), small_data, config)
        learner.learn()
        gaps[weight] = learner.history[-1]["policy/kl_to_pretrained"]
    assert gaps[10.0] < 0.5 * gaps[0.0]


def test_dr_grpo_divides_by_nothing() -> None:
    reward = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.3]])
    assert torch.allclose(advantage("group_mean", reward), reward - reward.mean(1, keepdim=True), atol=1e-6)
    assert torch.allclose(
        advantage("group", reward), advantage("group_mean", reward) / reward.std(1, keepdim=True)
    )


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(("cls", "config"), AGENTS)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    cls: type[ClippedSurrogate], config: SurrogateConfig, check_resume: ResumeCheck, small_data: Dataset
) -> None:
    check_resume(lambda policy: make(cls, policy, small_data, config))


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (PPO, PPOConfig(learning_rate=1e-3, users_per_batch=32)),
        (GRPO, GRPOConfig(learning_rate=3e-3, users_per_batch=32, samples_per_user=8)),
    ],
)
def test_it_raises_its_reward(
    cls: type[ClippedSurrogate], config: SurrogateConfig, make_policy: Factory, small_data: Dataset
) -> None:
    learner = make(cls, make_policy(), small_data, replace(config, iterations=120, eval_every=120))
    rewards = [row["reward/mean"] for row in learner.learn().history if "reward/mean" in row]
    assert sum(rewards[-20:]) / 20 > sum(rewards[:20]) / 20 + 0.05


def test_ddpos_preset() -> None:
    ddpo = PPOConfig.preset("ddpo")
    assert (ddpo.credit, ddpo.clip_range, ddpo.epochs, ddpo.advantage_clip) == ("episode", 1e-4, 1, 5.0)
    assert ddpo.train_steps == "all" and set(PPOConfig.presets()) == {"default", "ddpo"}
    with pytest.raises(ValueError, match="Did you mean 'ddpo'"):
        PPOConfig.preset("dpo")


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"credit": "coordinat"}, "Did you mean 'coordinate'"),
        ({"baseline": "groop"}, "Did you mean 'group'"),
        ({"logprob_reduction": "max"}, "must be one of mean, sum; found 'max'"),
        ({"clip_range": 0.0}, r"clip_range must be > 0 and < 1, found 0\.0"),
        ({"epochs": 0}, "epochs must be >= 1 .*found 0"),
        ({"baseline": "group", "samples_per_user": 1}, "samples_per_user must be >= 2 for baseline 'group'"),
        ({"train_steps": "random:1"}, "train_steps must be 'all' or 'last:n' for credit 'coordinate'"),
        ({"train_steps": "first:1"}, "must be 'all', 'random:n' or 'last:n'"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    change: dict[str, Any], message: str, make_policy: Factory, small_data: Dataset
) -> None:
    with pytest.raises(ValueError, match=message):
        make(PPO, make_policy(), small_data, replace(SMALL, **change))


def test_misfits_are_refused_before_training(make_policy: Factory, small_data: Dataset) -> None:
    with pytest.raises(ValueError, match="credit 'episode'"):
        make(PPO, make_policy(), small_data, SMALL, reward="r_cos")
    with pytest.raises(
        ValueError, match="baseline must be one of leave_one_out, group, group_mean; found 'batch'"
    ):
        make(GRPO, make_policy(), small_data, GRPOConfig(baseline="batch"))


def test_a_reward_that_is_not_finite_is_refused(make_policy: Factory, small_data: Dataset) -> None:
    def broken(scores: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        return torch.where(users == 3, math.nan, 1.0)

    config = replace(SMALL, credit="episode")
    learner = make(PPO, make_policy(), small_data, config, reward=broken)
    before = {k: v.clone() for k, v in learner.policy.state_dict().items()}
    with pytest.raises(ValueError, match="returned nan for user 3"):
        learner.update(torch.arange(8))
    assert all(torch.equal(before[k], v) for k, v in learner.policy.state_dict().items())
