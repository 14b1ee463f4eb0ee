"""Resume states: what does not fit is refused before anything is used; what training has reached is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.algorithms.configs import ESConfig, ReinforceConfig
from agents.algorithms.es import EvolutionStrategy
from agents.algorithms.reinforce import Reinforce
from agents.runs.profiling import Usage
from agents.training.fine_tuner import FineTuner
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from refit_env.checkpoint import load_state, save_state
from refit_env.data import Dataset
from refit_env.errors import CheckpointError
from refit_env.policy import DiffusionPolicy
from tests.fuzzing import generators, mutate_safetensors, resized, unpack_safetensors

SMALL = ReinforceConfig(iterations=4, users_per_batch=8, eval_every=2, learning_rate=1e-3)
PRETRAIN = PretrainConfig(epochs=2, users_per_batch=16, eval_every=1, patience=0)
Factory = Callable[..., DiffusionPolicy]
Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def agent(
    policy: DiffusionPolicy, data: Dataset, config: ReinforceConfig = SMALL, reward: Any = "ndcg"
) -> Reinforce:
    goal = {"data": data, "reward": reward, "k": 5, "relevance": "recent"}
    return Reinforce(policy, "ReFiT-Custom-v0", config, env_kwargs=goal, seed=3, device="cpu")


def weights(learner: FineTuner | Pretrainer) -> dict[str, Tensor]:
    model = learner.policy if isinstance(learner, FineTuner) else learner.backbone
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history]


@pytest.fixture(scope="module")
def saved(small_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of two iterations of four, with lists of all users."""
    from refit_env.backbones import make_backbone

    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = make_backbone("diffrec", small_data.num_items, {"hidden": (16,), "num_steps": 5})
    learner = agent(DiffusionPolicy(backbone, 3, 0.1), small_data, reward={"ndcg": 1.0, "coverage": 0.5})

    def stop(trainer: FineTuner, scalars: dict[str, float]) -> None:
        if trainer.iteration == 2:
            raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("state")
    learner.learn(folder, callback=stop)
    return folder


@pytest.fixture
def fresh(small_data: Dataset) -> Callable[[], Reinforce]:
    """A factory of agents that the state is for."""
    from refit_env.backbones import make_backbone

    def make() -> Reinforce:
        backbone = make_backbone("diffrec", small_data.num_items, {"hidden": (16,), "num_steps": 5})
        return agent(DiffusionPolicy(backbone, 3, 0.1), small_data, reward={"ndcg": 1.0, "coverage": 0.5})

    return make


# ---------------------------------------------------------------------- hostile and damaged states


def put(name: str, value: Any) -> Change:
    def change(tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


def drop(prefix: str) -> Change:
    def change(tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


def say(**fields: Any) -> Change:
    def change(tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        meta.update(fields)

    return change


def no_optimizer(tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    drop("optimizer.")(tensors, meta)
    del meta["moved"]


DAMAGE: list[tuple[Change, str]] = [
    (put("optimizer.0.exp_avg", torch.zeros(1)), r"'0\.exp_avg' is float32 \[1\], the optimiser's state is"),
    (put("optimizer.0.exp_avg_sq", lambda t: t.double()), r"'0\.exp_avg_sq' is float64"),
    (put("optimizer.0.exp_avg", lambda t: torch.full_like(t, torch.nan)), "holds NaN or infinity"),
    (put("optimizer.0.exp_avg_sq", lambda t: t - 1), "negative mean of squares"),
    (put("optimizer.0.step", torch.tensor(0.0)), "is no number of steps"),
    (put("optimizer.0.step", torch.tensor(1e30)), "is no number of steps"),
    (put("optimizer.99.exp_avg", torch.zeros(1)), r"'99\.exp_avg' is not a tensor of the optimiser's state"),
    (put("optimizer.x", torch.zeros(1)), "'x' is not a tensor of the optimiser's state"),
    (say(moved=[0, 99]), "there is no number 99"),
    (drop("optimizer."), r"'0\.step' is missing"),
    (no_optimizer, "no state of the optimiser"),
    (say(iteration=-1), r"iteration must be a whole number >= 0"),
    (say(iteration=10**9), "1000000000 iterations are done, this training has iterations=4"),
    (say(iteration=3), "the history is not that of iteration 0 to 3"),
    (say(history=[]), "the history is not that of iteration 0 to 2"),
    (say(history=[{"iteration": "x"}]), r"must be a number or null, found text"),
    (say(best=[0.5, 3]), "the best iteration is 3, after 2"),
    (say(best=0.5), r"best must be a list, found a number"),
    (put("generator.users", torch.zeros(10, dtype=torch.uint8)), r"generator\.users: torch\.uint8 \[10\]"),
    (put("generator.noise", lambda t: t.float()), r"generator\.noise: torch\.float32"),
    (put("generator.noise", torch.zeros_like), "generator.noise: no state of a generator on cpu"),
    (drop("generator.noise"), r"generator\.noise: missing"),
    (put("policy.backbone.layers.0.bias", torch.zeros(3)), "another model's, or damaged"),
    (put("best.backbone.layers.0.bias", lambda t: t / 0), "holds NaN or infinity"),
    (drop("reference."), "is missing, a tensor of the agent's policy"),
    (put("lists", lambda t: t + 1000), "'lists' names items outside 0..39"),
    (put("lists", lambda t: t[:, :1]), "'lists' is int64"),
    (drop("lists"), "'lists' is missing"),
    (put("extra", torch.zeros(1)), "'extra' is not a tensor of a resume state"),
    (put("own.matrix", torch.zeros(1)), "'matrix' is not a tensor of agent 'reinforce'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    change: Change, message: str, saved: Path, fresh: Callable[[], Reinforce], tmp_path: Path
) -> None:
    tensors, meta = load_state(saved / "resume")
    learner = fresh()
    before, random = weights(learner), learner.noise_generator.get_state()
    change(tensors, meta)
    save_state(tmp_path / "resume", tensors, meta)
    with pytest.raises(CheckpointError, match=message):
        learner.load(tmp_path)
    assert equal(weights(learner), before) and learner.iteration == 0 and not learner.history
    assert not learner.optimizer.state_dict()["state"] and learner._lists is None
    assert torch.equal(learner.noise_generator.get_state(), random)


def test_moments_of_another_size_never_reach_the_fused_optimiser(
    saved: Path, fresh: Callable[[], Reinforce], tmp_path: Path
) -> None:
    header, numbers = unpack_safetensors((saved / "resume.safetensors").read_bytes())
    for name in [name for name in header if name.endswith((".exp_avg", ".exp_avg_sq"))]:
        content = resized(header, numbers, name, 1)
        header, numbers = unpack_safetensors(content)
    (tmp_path / "resume.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"float32 \[1\], the optimiser's state is float32"):
        fresh().load(tmp_path)


def test_a_state_of_an_earlier_version_is_taken_up(
    saved: Path, fresh: Callable[[], Reinforce], tmp_path: Path
) -> None:
    tensors, meta = load_state(saved / "resume")
    for name in ("moved", "spent", "policy", "seconds", "validation_seconds"):
        del meta[name]
    del meta["problem"]["data_fingerprint"]
    save_state(tmp_path / "resume", tensors, meta)
    old, new = fresh().load(tmp_path), fresh().load(saved)
    assert timeless(old.learn().history) == timeless(new.learn().history)
    assert equal(weights(old), weights(new))


@pytest.mark.fuzz
def test_a_damaged_state_is_refused_or_trains(
    saved: Path, fresh: Callable[[], Reinforce], tmp_path: Path
) -> None:
    content, outcomes = (saved / "resume.safetensors").read_bytes(), set()
    for rng in generators():
        (tmp_path / "resume.safetensors").write_bytes(mutate_safetensors(content, rng))
        learner = fresh()
        try:
            learner.load(tmp_path)
        except CheckpointError as error:
            assert len(str(error)) < 1000 and learner.iteration == 0
            outcomes.add("refused")
        else:
            learner._step()
            outcomes.add("trained")
    assert outcomes == {"refused", "trained"}


@pytest.mark.fuzz
def test_a_damaged_state_of_pretraining_is_refused_or_trains(
    make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    first = Pretrainer(small_data, make_policy().backbone, replace(PRETRAIN, epochs=1), device="cpu")
    first.learn(tmp_path)
    content, outcomes = (tmp_path / "pretrain.safetensors").read_bytes(), set()
    for rng in generators():
        (tmp_path / "pretrain.safetensors").write_bytes(mutate_safetensors(content, rng))
        learner = Pretrainer(small_data, make_policy().backbone, PRETRAIN, device="cpu")
        try:
            learner.load(tmp_path)
        except CheckpointError as error:
            assert len(str(error)) < 1000 and learner.epoch == 0
            outcomes.add("refused")
        else:
            try:
                learner._step()
            except ValueError as error:  # finite weights, but so large that the model overflows
                assert "scores hold NaN" in str(error)
            outcomes.add("trained")
    assert outcomes == {"refused", "trained"}


# ---------------------------------------------------------------------- after learn


def test_after_learn_the_state_is_what_training_has_reached(
    make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    """The policy holds the chosen weights; what is saved and gone on with are the last ones."""
    six = replace(SMALL, iterations=6)
    whole = agent(make_policy(), small_data, six)
    expected = whole.learn()
    first = agent(make_policy(), small_data)
    first._best = (2.0, 0)  # so that the chosen weights are the pretrained ones, not the last
    first.learn()
    first._best = (expected.history[0]["valid/ndcg@20"], 0)
    assert equal(weights(first), {name: value for name, value in make_policy().state_dict().items()})
    first.save(tmp_path)
    second = agent(make_policy(seed=9), small_data, six).load(tmp_path)
    assert equal(weights(second), first.training_weights())
    second.learn()
    assert equal(second.training_weights(), whole.training_weights())
    assert not equal(second.training_weights(), weights(first))


@pytest.mark.parametrize("kind", ["fine-tuning", "pretraining"])
def test_a_state_dict_continues_in_memory(kind: str, make_policy: Factory, small_data: Dataset) -> None:
    """Another training continues from the state as an unbroken one."""

    def make(steps: int, seed: int = 0) -> FineTuner | Pretrainer:
        if kind == "fine-tuning":
            return agent(make_policy(seed=seed), small_data, replace(SMALL, iterations=steps))
        backbone = make_policy(seed=seed).backbone
        return Pretrainer(small_data, backbone, replace(PRETRAIN, epochs=steps), device="cpu")

    whole, first, second = make(4), make(2), make(4, seed=9)
    whole.learn()
    first.learn()
    second.load_state_dict(first.state_dict())
    assert second.done == second.saved == 2
    second.learn()
    assert equal(second.training_weights(), whole.training_weights())
    assert timeless(second.history) == timeless(whole.history)
    with pytest.raises(CheckpointError, match=r"the state: 4 .*s are done, this training has .*s=2"):
        make(2).load_state_dict(whole.state_dict())


def test_learn_after_learn_goes_on_or_returns_the_same(make_policy: Factory, small_data: Dataset) -> None:
    whole = agent(make_policy(), small_data, replace(SMALL, blends=1))
    expected = whole.learn()
    chosen = weights(whole)
    again = whole.learn()
    assert equal(weights(whole), chosen)
    assert (again.best_value, again.best_iteration, again.share) == (
        expected.best_value, expected.best_iteration, expected.share,
    )  # fmt: skip
    assert len(again.history) == 5

    def stop(learner: FineTuner, scalars: dict[str, float]) -> None:
        if learner.iteration == 2:
            raise KeyboardInterrupt

    broken = agent(make_policy(), small_data, replace(SMALL, blends=1))
    assert broken.learn(callback=stop).interrupted
    broken.learn()
    assert equal(weights(broken), chosen) and timeless(broken.history) == timeless(expected.history)


def test_what_evolution_strategies_save_after_learn_fits_their_theta(
    make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    config = ESConfig(users_per_batch=16, iterations=2, eval_every=1, rank=3)
    goal = {"data": small_data, "reward": "ndcg", "k": 5, "relevance": "recent"}

    def make(iterations: int) -> EvolutionStrategy:
        settings = replace(config, iterations=iterations)
        return EvolutionStrategy(
            make_policy(), "ReFiT-Custom-v0", settings, env_kwargs=goal, seed=1, device="cpu"
        )

    whole, first = make(4), make(2)
    whole.learn()
    first.learn()
    first.save(tmp_path)
    second = make(4).load(tmp_path)
    second.learn()
    assert equal(second.training_weights(), whole.training_weights())


def test_pretraining_after_learn_goes_on_from_where_it_was(
    make_policy: Factory, small_data: Dataset, tmp_path: Path
) -> None:
    def make(epochs: int) -> Pretrainer:
        config = replace(PRETRAIN, epochs=epochs)
        return Pretrainer(small_data, make_policy().backbone, config, device="cpu")

    whole, first = make(4), make(2)
    whole.learn()
    first._best = (2.0, 0)  # nothing is better: the chosen weights are the untrained ones
    first.learn()
    assert equal(weights(first), dict(make_policy().backbone.state_dict()))
    first._best = (0.0, 0)
    first.save(tmp_path)
    second = make(4).load(tmp_path)
    second.learn()
    assert equal(second.training_weights(), whole.training_weights())
    chosen = weights(whole)
    whole.learn()
    assert equal(weights(whole), chosen)


@pytest.mark.parametrize("kind", [FineTuner, Pretrainer])
def test_an_end_before_the_first_validation_leaves_no_state(
    kind: type[FineTuner | Pretrainer],
    make_policy: Factory,
    small_data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(self: FineTuner | Pretrainer) -> dict[str, float]:
        raise KeyboardInterrupt

    def made() -> FineTuner | Pretrainer:
        if kind is FineTuner:
            return agent(make_policy(), small_data)
        return Pretrainer(small_data, make_policy().backbone, PRETRAIN, device="cpu")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_validate", stop)
        assert made().learn(tmp_path).interrupted
    assert not (tmp_path / f"{kind.stem}.safetensors").exists()
    assert not made().learn(tmp_path).interrupted


def test_an_update_that_was_cut_short_cannot_be_saved(
    make_policy: Factory, small_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = agent(make_policy(), small_data)
    update = Reinforce.update

    def stop(self: Reinforce, users: Tensor) -> dict[str, float]:
        if self.iteration == 3:
            raise KeyboardInterrupt
        return update(self, users)

    with monkeypatch.context() as patch:
        patch.setattr(Reinforce, "update", stop)
        assert learner.learn(tmp_path).interrupted
    for act in (lambda: learner.save(tmp_path), learner.learn):
        with pytest.raises(RuntimeError, match="cut short: load the last saved state"):
            act()
    assert learner.load(tmp_path).iteration == 2
    learner.learn()
    whole = agent(make_policy(), small_data)
    whole.learn()
    assert equal(weights(learner), weights(whole))


# ---------------------------------------------------------------------- cost


def test_seconds_and_memory_are_those_of_all_sessions(saved: Path, fresh: Callable[[], Reinforce]) -> None:
    learner = fresh().load(saved)
    learner._earlier = Usage(100.0, 10_000_000.0, 7.0)
    learner.seconds, learner.validation_seconds = 60.0, 30.0
    result = learner.learn()
    assert 100 < result.cost.seconds < 200 and result.cost.peak_memory_mib == 10_000_000.0
    assert result.cost.peak_device_memory_mib == 7.0
    updates = sum(row["seconds/update"] for row in result.history[3:])
    validated = sum(row.get("seconds/validation", 0.0) for row in result.history[3:])
    assert result.seconds == pytest.approx(60 + updates)
    assert result.validation_seconds >= 30 + validated


def test_the_cost_of_a_session_is_part_of_its_state(saved: Path, fresh: Callable[[], Reinforce]) -> None:
    learner = fresh().load(saved)
    assert learner._earlier.seconds > 0 and learner._earlier.peak_memory_mib > 50
    assert learner.seconds == pytest.approx(sum(row.get("seconds/update", 0.0) for row in learner.history))
