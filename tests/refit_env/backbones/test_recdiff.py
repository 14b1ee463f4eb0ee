"""Tests of RecDiff: the graphs by hand, hidden items, the loss, freezing, saving."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from refit_env.backbones import backbone_for, make_backbone, published_config
from refit_env.backbones.recdiff import RecDiff, both_directions
from refit_env.checkpoint import load_checkpoint, save_checkpoint
from refit_env.data import Dataset, Interactions, synthesize, synthesize_social
from refit_env.errors import CheckpointError, DataError
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import make_relevance

SMALL = {"embedding": 8, "hidden": 8, "num_steps": 6}


@pytest.fixture(scope="module")
def social() -> Dataset:
    return synthesize_social(num_users=40, num_items=30, meets=10)


def model(dataset: Dataset, **options: object) -> RecDiff:
    out = backbone_for(dataset, "recdiff", SMALL | options, seed=0)
    assert isinstance(out, RecDiff)
    return out.eval()


def by_the_book(backbone: RecDiff, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ui (U, D), items (I, D), e (U, D) by the published equations on one dense graph."""
    count, total = dataset.num_users, dataset.num_users + dataset.num_items
    bipartite = torch.zeros(total, total)
    rows = torch.from_numpy(dataset.train.csr.toarray())
    bipartite[:count, count:], bipartite[count:, :count] = rows, rows.T
    assert dataset.social is not None
    friends = torch.zeros(count, count)
    for a, b in dataset.social:
        friends[a, b] = friends[b, a] = float(a != b)

    def normalised(adjacency: Tensor) -> Tensor:
        root = adjacency.sum(1).clamp(min=1).rsqrt()
        return root[:, None] * adjacency * root

    nodes = torch.cat([backbone.users, backbone.items])
    out = nodes
    for u_w, v_w in zip(backbone.from_users, backbone.from_items, strict=True):
        turned = torch.cat([nodes[:count] @ u_w, nodes[count:] @ v_w])
        nodes = functional.leaky_relu(normalised(bipartite) @ turned, 0.5)
        out = out + functional.normalize(nodes, dim=1)
    own: Tensor = backbone.users
    clean = own
    for weight in backbone.from_friends:
        own = functional.leaky_relu(normalised(friends) @ own @ weight, 0.5)
        clean = clean + functional.normalize(own, dim=1)
    return out[:count], out[count:], clean


@pytest.mark.parametrize(("layers", "social_layers"), [(1, 2), (2, 1), (3, 3)])
def test_the_graphs_are_the_published_ones(social: Dataset, layers: int, social_layers: int) -> None:
    backbone = model(social, layers=layers, social_layers=social_layers)
    users = torch.arange(social.num_users)
    shown = backbone.shown(social, "cpu")(users)
    interaction, items, clean = by_the_book(backbone, social)
    context = backbone.context(users, shown)
    assert context is not None and torch.allclose(context, interaction, atol=1e-5)
    assert torch.allclose(backbone.initial_state(users, shown), clean, atol=1e-5)
    assert torch.allclose(backbone.score_table(), items, atol=1e-5)
    u0 = torch.randn(social.num_users, 8)
    assert torch.allclose(backbone.scores(u0, users, context), (interaction + u0) @ items.T, atol=1e-4)


def test_a_graph_of_two_users_by_hand() -> None:
    """User 0 has items 0 and 1, user 1 item 1; they are friends; all matrices are the identity."""
    pairs = Interactions.from_pairs([0, 0, 1], [0, 1, 1], num_users=2, num_items=3)
    data = Dataset("two", "social", pairs, pairs, pairs, False, social=np.array([[0, 1]], np.int32))
    backbone = model(data, embedding=2, layers=1, social_layers=1)
    with torch.no_grad():
        for weight in (*backbone.from_users, *backbone.from_items, *backbone.from_friends):
            weight.copy_(torch.eye(2))
        backbone.users.copy_(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
        backbone.items.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]]))
    shown = backbone.shown(data, "cpu")(torch.tensor([0, 1]))
    # User 0 receives 3 / sqrt(2) from item 0 and 4 / 2 from item 1; user 1 only from item 1.
    first = np.array([3 / 2**0.5, 2.0])
    first /= np.linalg.norm(first)
    expected = [[1 + first[0], first[1], 1.0, -1.0], [0.0, -1.0, 1.0, -2.0]]  # a friend's -2 / 2 -> -1
    assert torch.allclose(shown, torch.tensor(expected, dtype=torch.float32), atol=1e-6)
    # Item 1 receives 1 / 2 from user 0 and -2 / sqrt(2) from user 1, halved below zero; item 2 nothing.
    second = np.array([0.5, -(2**0.5) / 2])
    second /= np.linalg.norm(second)
    expected = [[4.0, 0.0], [second[0], 4 + second[1]], [1.0, 1.0]]
    assert torch.allclose(backbone.score_table(), torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_hiding_items_changes_only_those_users(social: Dataset) -> None:
    backbone = model(social)
    users = torch.arange(social.num_users)
    whole = backbone.shown(social, "cpu")(users)
    visible = social.train.csr.copy()
    visible.data[visible.indptr[3] : visible.indptr[3] + 2] = 0
    visible.eliminate_zeros()
    part = backbone.shown(social.showing(visible), "cpu")(users)
    moved = (part != whole).any(1)
    assert moved.nonzero().flatten().tolist() == [3]
    assert torch.equal(part[:, 8:], whole[:, 8:])  # social vectors do not depend on the row
    assert torch.equal(part[3, :8] != whole[3, :8], torch.ones(8, dtype=torch.bool))


def test_a_user_without_visible_items_has_the_own_embedding(social: Dataset) -> None:
    backbone = model(social)
    visible = social.train.csr.copy()
    visible.data[visible.indptr[5] : visible.indptr[6]] = 0
    visible.eliminate_zeros()
    shown = backbone.shown(social.showing(visible), "cpu")(torch.tensor([5]))
    assert torch.equal(shown[:, :8], backbone.users[5:6])


def test_the_box_holds_every_context(social: Dataset) -> None:
    backbone = model(social)
    box = backbone.context_box()
    assert box is not None and box[2] == 8
    for fraction in (0.2, 0.8):
        seen = social.showing(make_relevance("holdout", social, fraction).visible)
        shown = backbone.shown(seen, "cpu")(torch.arange(social.num_users)).detach()
        assert shown[:, :8].min() >= box[0] and shown[:, :8].max() <= box[1]
    assert backbone.largest() == pytest.approx(float(shown[:, 8:].abs().max()))


# ---------------------------------------------------------------------- training


def test_the_loss_by_hand(social: Dataset) -> None:
    backbone = model(social, regularization=0.3)
    examples = backbone.examples(social, "cpu")
    assert examples is not None
    shown, target, ids = examples
    pairs = {(int(shown(n[None])), int(target(n[None]))) for n in ids}
    assert len(pairs) == len(ids) and all(social.train.csr[u, i] for u, i in pairs)
    users, items = shown(ids[[0, 50, 7]]), target(ids[[0, 50, 7]])
    loss = backbone.elbo_loss(users, items, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    other = backbone._others().draw(users, generator)
    k = torch.randint(6, (3,), generator=generator)
    noise = torch.randn(3, 8, generator=generator)
    interaction, table, clean = by_the_book(backbone, social)
    snr = backbone.diffusion.snr
    parts = []
    for n in range(3):
        step = int(k[n])
        u = backbone.diffusion.q_sample(clean[users[n]][None], step, noise[n][None])
        x0 = backbone.predict_x0(u, step)[0]
        weight = 1.0 if step == 0 else snr[step - 1] - snr[step]
        user = interaction[users[n]] + x0
        near, far = table[items[n]], table[other[n]]
        ranking = -functional.logsigmoid(user @ near - user @ far)
        lengths = user.square().sum() + near.square().sum() + far.square().sum()
        parts.append(weight * (clean[users[n]] - x0).square().mean() + ranking + 0.3 * lengths)
    assert torch.allclose(loss, torch.stack(parts).mean().float(), rtol=1e-4)


def test_gradients_reach_every_weight_and_agree_with_the_dense_graphs(social: Dataset) -> None:
    backbone = model(social, dropout=0.0).train()
    users, items = backbone.interactions.long()
    backbone.elbo_loss(users, items, torch.Generator().manual_seed(1)).backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    twin = copy.deepcopy(backbone)
    for one, two in ((backbone, backbone._item_side()[0]), (twin, by_the_book(twin, social)[1])):
        one.zero_grad()
        two.square().sum().backward()
    for name in ("users", "items"):
        assert torch.allclose(getattr(backbone, name).grad, getattr(twin, name).grad, atol=1e-4)


def test_the_denoiser_has_its_own_learning_rate(social: Dataset) -> None:
    backbone = model(social, denoiser_rate=0.25)
    graphs, denoiser = backbone.parameter_groups(0.4)
    assert (graphs["lr"], denoiser["lr"]) == (0.4, pytest.approx(0.1))
    both = [id(p) for p in graphs["params"] + denoiser["params"]]
    assert len(both) == len(set(both)) == sum(1 for _ in backbone.parameters())


def test_everything_except_the_denoiser_is_frozen(social: Dataset) -> None:
    backbone = model(social)
    table = backbone.score_table()
    assert table.requires_grad
    backbone.freeze_scores()
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("denoiser.") for name in trained)
    assert torch.equal(backbone.score_table(), table) and backbone.score_table() is backbone.score_table()
    with torch.no_grad():
        backbone.items.add_(1.0)
    assert not torch.equal(backbone.score_table(), table)


def test_dropout_is_off_in_evaluation_and_on_in_training(social: Dataset) -> None:
    backbone, u = model(social), torch.randn(5, 8)
    assert torch.equal(backbone.predict_x0(u, 2), backbone.predict_x0(u, 2))
    backbone.train()
    assert not torch.equal(backbone.predict_x0(u, 2), backbone.predict_x0(u, 2))


# ---------------------------------------------------------------------- as a policy


def test_a_checkpoint_holds_the_graphs(social: Dataset, tmp_path: Path) -> None:
    policy = DiffusionPolicy(model(social), num_steps=3)
    policy.save(tmp_path, social)
    again = DiffusionPolicy.load(tmp_path)
    for users in (torch.arange(social.num_users), torch.tensor([7])):
        assert torch.allclose(again.scorer(social)(users), policy.scorer(social)(users), atol=1e-5)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        f"backbone.denoiser.{n}" for n, _ in model(social).denoiser.named_parameters()
    }
    state, meta = load_checkpoint(tmp_path)
    meta["backbone_config"]["num_users"] += 1
    save_checkpoint(tmp_path, state, meta)
    with pytest.raises(CheckpointError):
        DiffusionPolicy.load(tmp_path)


def test_scores_are_the_published_chain(social: Dataset) -> None:
    """Scores are those of T noise-free steps from e_u, plus ui_u, times the items."""
    backbone = model(social)
    policy = DiffusionPolicy(backbone)
    interaction, items, clean = by_the_book(backbone, social)
    u = clean
    for k in range(5, -1, -1):
        x0 = backbone.predict_x0(u, k)
        u = backbone.diffusion.mean_x0[k] * x0 + backbone.diffusion.mean_u[k] * u
    found = policy.scorer(social)(torch.arange(social.num_users))
    assert torch.allclose(found, (interaction + u).float() @ items.T, atol=1e-4)
    assert evaluate(policy.scorer(social), social, "test").num_users == social.num_users


def test_data_without_ties_and_other_data_are_refused(social: Dataset) -> None:
    with pytest.raises(DataError, match="has no social ties"):
        backbone_for(replace(social, social=None), "recdiff")
    with pytest.raises(DataError, match=r"users outside 0\.\.39"):
        backbone_for(replace(social, social=np.array([[0, 40]], np.int32)), "recdiff")
    with pytest.raises(ValueError, match="is for social data"):
        backbone_for(synthesize(num_users=20, num_items=30), "recdiff")
    with pytest.raises(ValueError, match=r"backbone_for\(dataset, 'recdiff'\)"):
        make_backbone("recdiff", 30)
    other = synthesize_social(num_users=41, num_items=30, meets=10)
    with pytest.raises(ValueError, match="has 40 users and 30 items"):
        model(social).shown(other, "cpu")
    with pytest.raises(ValueError, match="also scores by the context"):
        model(social).scores(torch.zeros(1, 8), torch.tensor([0]))


def test_ties_count_once_in_each_direction(social: Dataset) -> None:
    data = replace(social, social=np.array([[3, 1], [1, 3], [2, 2], [0, 5]], np.int32))
    assert both_directions(data).T.tolist() == [[0, 5], [1, 3], [3, 1], [5, 0]]


def test_published_settings() -> None:
    ciao, epinions, yelp = (published_config("recdiff", name) for name in ("ciao", "epinions", "yelp"))
    assert [c.num_steps for c in (ciao, epinions, yelp)] == [20, 200, 50]
    assert ciao.diffusion().abar[[0, -1]] == pytest.approx([1 - 1e-4, 0.99])
    assert epinions.diffusion().abar[[0, -1]] == pytest.approx([1 - 1e-5, 0.999])
    weights = backbone_for(synthesize_social(num_users=40, num_items=30, meets=10), "recdiff")
    assert isinstance(weights, RecDiff)
    found = weights.denoiser.loss_weights()
    assert found[0] == 1.0 and found[[1, -1]] == pytest.approx([8.4e3, 5.5], rel=0.02)
