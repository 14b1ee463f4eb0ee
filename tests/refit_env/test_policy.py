"""The policy: its Gaussian, its noise-free chain, and its files."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refit_env.backbones import backbone_for, make_backbone
from refit_env.backbones.latest import is_trained
from refit_env.checkpoint import load_state, save_state
from refit_env.data import synthesize
from refit_env.data.rows import SparseRows
from refit_env.errors import CheckpointError, DataError
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from tests.fuzzing import generators, mutate_json, mutate_safetensors

CONFIG = {"hidden": (8,), "num_steps": 6, "noise_scale": 0.5, "noise_min": 0.01, "noise_max": 0.5}


def policy(num_steps: int | None = 4, exploration_std: float = 0.05, items: int = 12) -> DiffusionPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiffusionPolicy(make_backbone("diffrec", items, CONFIG), num_steps, exploration_std).eval()


@torch.no_grad()
def step_by_step(p: DiffusionPolicy, u: torch.Tensor) -> torch.Tensor:
    for t in range(p.num_steps):
        u = p.mean(u, t)
    return u


def test_a_share_of_the_posterior_leaves_the_floor_and_survives_saving(tmp_path: Path) -> None:
    p = policy()
    p.set_exploration(0.0)
    whole = p.std.clone()
    p.set_exploration(0.0, posterior_share=0.5)
    assert torch.allclose(p.std, whole / 2)
    p.set_exploration(0.3, posterior_share=0.0)
    assert torch.equal(p.std, torch.full_like(whole, 0.3))
    p.save(tmp_path)
    assert torch.equal(DiffusionPolicy.load(tmp_path).std, p.std)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"posterior_share={share}"):
            p.set_exploration(0.1, share)


@pytest.mark.parametrize("t", [-1, 4])
def test_a_step_beyond_the_chain_is_refused(t: int) -> None:
    p, u = policy(), torch.rand(2, 12)
    refused = pytest.raises(
        ValueError, match=rf"t={t} must lie in 0\.\.3, the steps of this policy's chain.*num_steps=4"
    )
    with refused:
        p.mean(u, t)
    with refused:
        p.step_std(t)
    with refused:
        p.act({"u": u.numpy(), "t": [[0], [t]]})


def test_scores_do_not_depend_on_the_batch_and_leave_training_mode_alone() -> None:
    data = synthesize(num_users=20, num_items=24, num_clusters=4)
    p = policy(items=24).train()
    score = p.scorer(data)
    users = torch.arange(20)
    one_by_one = torch.cat([score(users[i : i + 1]) for i in range(20)])
    assert torch.allclose(score(users), one_by_one, atol=1e-6)
    assert p.training and p.backbone.training
    trained = DiffusionPolicy(
        p.backbone.eval(), 4
    )  # as pretraining leaves it: a policy begins in training mode
    assert torch.equal(trained.scorer(data)(users), score(users)) and trained.training
    assert not trained.backbone.training and not trained.respaced(num_steps=2).backbone.training
    rows = SparseRows(data.train.csr).dense(users)
    with torch.no_grad():
        assert torch.equal(score(users), p.eval().denoise(rows))
    assert torch.allclose(score(users), p.denoise(rows), atol=1e-6)  # step by step, with its graph
    with pytest.raises(ValueError, match="ranks 12 items, data set 'synthetic' has 24"):
        policy().scorer(data)


def test_a_policy_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    policy(exploration_std=0.07).save(tmp_path)
    (tmp_path / "ids.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"holds a policy already \(policy\.safetensors, policy\.json, ids\.json\).*overwri"
    ):
        policy(exploration_std=0.5).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    policy(exploration_std=0.5).save(tmp_path, overwrite=True)
    assert DiffusionPolicy.load(tmp_path).exploration_std == 0.5 and not (tmp_path / "ids.json").exists()


def test_tensors_and_data_of_another_kind_are_refused() -> None:
    p, rows, wrong = policy(), torch.zeros(2, 12), "x"
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: p.log_prob(None, rows, 0), r"action must be a tensor \(B, 12\); found None"),  # type: ignore[arg-type]
        (lambda: p.log_prob(rows, [1], 0), r"u must be a tensor \(B, 12\), .* found a list"),  # type: ignore[arg-type]
        (lambda: p.mean(rows.long(), 0), "u must be of floating-point numbers; found int64"),
        (lambda: p.scorer(wrong), "dataset must be a Dataset, found 'x'"),  # type: ignore[arg-type]
        (lambda: p.save("nowhere", wrong), "dataset must be a Dataset or None, found 'x'"),  # type: ignore[arg-type]
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("name", "message", "always"),
    [
        ("ids.json", r"holds a file of a run already \(ids\.json\).*overwrite=True", False),
        ("config.json", r"holds a file of a run already \(config\.json\).*overwrite=True", False),
        (".earlier", r"holds a file of a run already \(\.earlier\).*overwrite=True", False),
        ("dataset.json", r"is a data set's folder \(dataset\.json\): choose another folder", True),
    ],
)
def test_a_policy_is_not_saved_among_files_of_others(
    name: str, message: str, always: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True)[: 1 + always]:
        with pytest.raises(CheckpointError, match=message):
            policy().save(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_where_a_policy_is_saved_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="folder must name a folder, found ''"):
        policy().save("")
    with pytest.raises(ValueError, match="overwrite must be a bool, found 'no'"):
        policy().save("here", overwrite="no")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_loaded_policy_equals_the_saved_one(tmp_path: Path) -> None:
    p = policy(num_steps=3, exploration_std=0.07)
    p.save(tmp_path)
    again = DiffusionPolicy.load(tmp_path)
    u = torch.rand(2, 12)
    assert torch.equal(p.denoise(u), again.eval().denoise(u))
    assert again.num_steps == 3 and again.exploration_std == 0.07 and torch.equal(p.std, again.std)
    assert json.loads((tmp_path / "policy.json").read_text())["backbone"] == "diffrec"


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        DiffusionPolicy.load(tmp_path)
    policy().save(tmp_path)
    whole = (tmp_path / "policy.safetensors").read_bytes()
    (tmp_path / "policy.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        DiffusionPolicy.load(tmp_path)
    state = {k: v for k, v in policy().backbone.state_dict().items() if k != "time.weight"}
    meta = json.loads((tmp_path / "policy.json").read_text())
    save_state(tmp_path / "policy", state, meta)
    with pytest.raises(CheckpointError, match=r"policy\.safetensors: 'time\.weight' is missing"):
        DiffusionPolicy.load(tmp_path)
    (tmp_path / "policy.json").unlink()
    save_state(tmp_path / "policy", policy().backbone.state_dict(), meta | {"backbone": "diffrex"})
    with pytest.raises(CheckpointError, match="Did you mean 'diffrec'"):
        DiffusionPolicy.load(tmp_path)


def test_eta_survives_saving_and_a_loaded_policy_is_in_evaluation_mode(tmp_path: Path) -> None:
    backbone = policy().backbone
    DiffusionPolicy(backbone, 3, exploration_std=0.0, eta=0.0).save(tmp_path)
    loaded = DiffusionPolicy.load(tmp_path)
    assert loaded.diffusion.eta == 0.0 and not loaded.training and not loaded.backbone.training
    assert float(loaded.std.max()) == 0.0  # DDIM's steps add nothing of their own
    u = torch.rand(2, backbone.dim)
    assert not torch.allclose(loaded.denoise(u), DiffusionPolicy(backbone.eval(), 3).denoise(u))


# ---------------------------------------------------------------------- the data set of its training


def test_a_policy_meets_no_other_data_set_than_its_own(tmp_path: Path) -> None:
    own = synthesize(num_users=20, num_items=24, num_clusters=4)
    other = synthesize(seed=5, num_users=20, num_items=24, num_clusters=4)
    policy(items=24).save(tmp_path, own)
    loaded = DiffusionPolicy.load(tmp_path)
    loaded.scorer(own)
    loaded.scorer(own.learning_validation_of(np.arange(5)))  # another arrangement of the same data
    with pytest.raises(DataError) as refused:
        loaded.scorer(other)
    message = str(refused.value)
    assert own.fingerprint[:12] in message and other.fingerprint[:12] in message
    assert "synthesize(seed=0)" in message and "synthesize(seed=5)" in message and "--other-data" in message
    loaded.save(tmp_path / "again")  # what is known is kept
    with pytest.raises(DataError):
        DiffusionPolicy(DiffusionPolicy.load(tmp_path / "again").backbone, 2).scorer(other)
    DiffusionPolicy.load(tmp_path, other_data=True).scorer(other)


def test_a_policy_of_an_earlier_version_names_no_data_set_and_loads(tmp_path: Path) -> None:
    p = policy(items=24)
    meta = p.describe() | {"dataset": "synthetic"}
    for name in ("data_fingerprint", "data_source", "eta", "posterior_share"):
        del meta[name]
    save_state(tmp_path / "policy", p.backbone.state_dict(), meta)
    loaded = DiffusionPolicy.load(tmp_path)
    loaded.scorer(synthesize(seed=5, num_users=20, num_items=24, num_clusters=4))
    assert loaded.diffusion.eta == 1.0


# ---------------------------------------------------------------------- damaged and hostile files


def test_policy_json_of_another_model_is_refused(tmp_path: Path) -> None:
    policy(items=12).save(tmp_path / "a")
    policy(items=15).save(tmp_path / "b")
    (tmp_path / "a" / "policy.json").write_bytes((tmp_path / "b" / "policy.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"policy\.json: states 'num_items' 15, policy\.safetensors 12"):
        DiffusionPolicy.load(tmp_path / "a")
    (tmp_path / "a" / "policy.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"policy\.json: must be an object {...}, found a list"):
        DiffusionPolicy.load(tmp_path / "a")
    (tmp_path / "a" / "policy.json").unlink()
    assert DiffusionPolicy.load(tmp_path / "a").backbone.num_items == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_items": 10**9}, "num_items holds a size beyond"),
        ({"backbone_config": {"hidden": [10**9]}}, "backbone_config holds a size beyond"),
        ({"backbone_config": {"hidden": [1] * 20_000}}, "backbone_config holds a size beyond"),
        ({"backbone_config": {"hidden": "wide"}}, "cannot be built: hidden must be a list"),
        ({"backbone_config": {"num_steps": -3}}, "the backbone cannot be built"),
        ({"num_steps": 0}, r"num_steps must be a whole number >= 1"),
        ({"num_steps": 7}, r"num_steps must lie in 1\.\.6.*found 7"),
        ({"eta": 2}, r"eta must be a number <= 1\.0"),
        ({"exploration_std": None}, "must be a number, found null"),
        ({"backbone": ["diffrec"]}, "must be text, found a list"),
    ],
)
def test_a_description_of_no_policy_is_refused_before_anything_is_built(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    p = policy()
    save_state(tmp_path / "policy", p.backbone.state_dict(), p.describe() | change)
    with pytest.raises(CheckpointError, match=message):
        DiffusionPolicy.load(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    p = policy()
    state = p.backbone.state_dict()
    state["layers.0.bias"][3] = value
    save_state(tmp_path / "policy", state, p.describe())
    with pytest.raises(CheckpointError, match=r"'layers\.0\.bias' holds NaN or infinity"):
        DiffusionPolicy.load(tmp_path)


@pytest.mark.parametrize("loss", [0.0, 1e200])
def test_a_memory_that_no_step_can_be_drawn_by_is_refused(loss: float, tmp_path: Path) -> None:
    p = policy()
    state = p.backbone.state_dict()
    state["sampler.losses"].fill_(loss)
    state["sampler.seen"].fill_(10)
    save_state(tmp_path / "policy", state, p.describe())
    with pytest.raises(CheckpointError, match="give no probabilities"):
        DiffusionPolicy.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("hdrm", "interactions", "'interactions' names a node outside"),
        ("cf-diff", "interactions", "'interactions' names a node outside"),
        ("l-diffrec", "order", "'order' must hold each item once"),
    ],
)
def test_indices_beyond_the_model_are_refused(name: str, tensor: str, message: str, tmp_path: Path) -> None:
    data = synthesize(num_users=30, num_items=24, num_clusters=4)
    p = DiffusionPolicy(backbone_for(data, name, seed=0), 2)
    for value in (10**9, -1):
        state = p.backbone.state_dict()
        state[tensor].view(-1)[0] = value
        save_state(tmp_path / "policy", state, p.describe())
        with pytest.raises(CheckpointError, match=message):
            DiffusionPolicy.load(tmp_path)


@pytest.mark.fuzz
def test_other_weights_than_those_that_were_saved_are_refused(tmp_path: Path) -> None:
    policy(items=12).save(tmp_path)
    state, meta = load_state(tmp_path / "policy")
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name] = state[name] + 1e-3
    save_state(tmp_path / "policy", state, meta)
    with pytest.raises(CheckpointError, match="these are not the weights that were saved"):
        DiffusionPolicy.load(tmp_path)


def test_the_weights_of_another_training_are_noticed_by_the_readable_copy(tmp_path: Path) -> None:
    one, other = policy(items=12), policy(items=12)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "policy.safetensors", tmp_path / "one" / "policy.safetensors")
    with pytest.raises(CheckpointError, match=r"policy\.json: states 'weights' .* of different models"):
        DiffusionPolicy.load(tmp_path / "one")


def test_a_damaged_policy_is_refused_or_ranks(tmp_path: Path) -> None:
    data = synthesize(num_users=6, num_items=18, num_clusters=2)
    policy(items=18).save(tmp_path, data)
    state, meta = load_state(tmp_path / "policy")
    del meta["weights"]  # as earlier versions wrote it; with it, every other weight is refused
    save_state(tmp_path / "policy", state, meta)
    (tmp_path / "policy.json").write_text(json.dumps(meta))
    whole = {name: (tmp_path / name).read_bytes() for name in ("policy.safetensors", "policy.json")}
    outcomes = set()
    for rng in generators():
        name = rng.choice(("policy.safetensors", "policy.safetensors", "policy.json"))
        damage = mutate_json if name == "policy.json" else mutate_safetensors
        for file, content in whole.items():
            (tmp_path / file).write_bytes(damage(content, rng) if file == name else content)
        try:
            loaded = DiffusionPolicy.load(tmp_path, other_data=True)
        except CheckpointError as error:
            assert len(str(error)) < 1000
            outcomes.add("refused")
        else:
            assert torch.isfinite(loaded.scorer(data)(torch.arange(6))).all()
            outcomes.add("loaded")
    assert outcomes == {"refused", "loaded"}


@pytest.mark.parametrize("backbone", ["diffrec", "spectral"])
def test_an_evaluation_holds_the_weights_and_the_next_one_has_those_that_training_moved(
    backbone: str,
) -> None:
    data = synthesize(num_users=40, num_items=24, num_clusters=4)
    p = DiffusionPolicy(backbone_for(data, backbone, seed=0), 3)
    score, optimizer = p.scorer(data), torch.optim.Adam(p.parameters(), 0.5, fused=True)
    lists = []
    for _ in range(2):
        lists.append(evaluate(score, data, "test", batch=10).lists)
        assert all(parameter.requires_grad for parameter in p.parameters())
        plain = evaluate(lambda users: score(users), data, "test", batch=10).lists  # does not hold them
        assert (lists[-1] == plain).mean() > 0.95  # rounding may exchange two items
        for parameter in p.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
    assert (lists[0] != lists[1]).any()


def test_weights_are_held_until_the_end_of_the_block_also_after_an_error() -> None:
    p = policy()
    with pytest.raises(RuntimeError, match="stop"), p.held():
        assert not any(map(is_trained, p.parameters()))
        raise RuntimeError("stop")
    assert all(map(is_trained, p.parameters()))


def test_a_copy_of_a_held_policy_is_trained_and_scores_by_its_own_weights() -> None:
    p, users, shown = policy(items=40), torch.arange(3), torch.rand(3, 40)
    with p.held():
        before = p.recommend_scores(users, shown)
        twin = copy.deepcopy(p)
    twin.scores(users, shown).sum().backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())
    for parameter in twin.parameters():
        parameter.data.add_(0.1)
    expected = step_by_step(twin, shown)
    torch.testing.assert_close(twin.recommend_scores(users, shown), expected)
    assert not torch.allclose(before, expected)


def test_frozen_weights_that_are_changed_score_by_what_they_are() -> None:
    p, users, shown = policy(items=40), torch.arange(3), torch.rand(3, 40)
    p.requires_grad_(False)
    p.recommend_scores(users, shown)
    for parameter in p.parameters():
        parameter.data.mul_(1.5)  # torch counts no version
    torch.testing.assert_close(p.recommend_scores(users, shown), step_by_step(p, shown))


def test_a_policy_that_was_made_without_versions_scores() -> None:
    with torch.inference_mode():
        made, rows = policy(items=40), torch.ones(2, 40)
        found = made.recommend_scores(torch.arange(2), rows)
    expected = policy(items=40).recommend_scores(torch.arange(2), torch.ones(2, 40))
    torch.testing.assert_close(found.clone(), expected)


def test_a_graph_from_before_an_evaluation_is_differentiated_after_it() -> None:
    p, users, shown = policy(), torch.arange(3), torch.ones(3, 12)
    loss = p.scores(users, shown).sum()
    with p.held():
        p.recommend_scores(users, shown)
    loss.backward()
    assert all(parameter.grad is not None for parameter in p.parameters())


def test_what_was_kept_of_held_weights_is_not_valid_for_weights_frozen_later() -> None:
    p, u = policy(), torch.rand(3, 12)
    optimizer = torch.optim.Adam(p.parameters(), 0.1, fused=True)  # its steps change no version
    for parameter in p.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        for _ in range(2):
            with p.held():
                found = p.denoise(u)
            twin = copy.deepcopy(p)
            assert torch.equal(found, twin.requires_grad_(False).denoise(u))
            optimizer.step()
        p.requires_grad_(False)
        assert torch.equal(p.denoise(u), copy.deepcopy(p).denoise(u))
