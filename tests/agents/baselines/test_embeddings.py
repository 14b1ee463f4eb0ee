"""Graph models against dense matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional

from agents.baselines import baseline
from agents.baselines.embeddings import contrast
from agents.baselines.learning import Learned, Learner, ready
from agents.baselines.mhcn import CHANNELS, motif_channels
from refit_env.data import Dataset


def built(name: str, data: Dataset, **settings: Any) -> Any:
    kind = baseline(name)
    made = kind(kind.config_class(embedding=3, **settings))
    assert isinstance(made, Learned)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Learner = made.build(data)
    return model


@pytest.fixture
def adjacency(table: np.ndarray) -> Tensor:
    """(11, 11) the normalised graph of users, then items."""
    both = np.zeros((11, 11))
    both[:5, 5:], both[5:, :5] = table, table.T
    degree = both.sum(1)
    return torch.as_tensor(both / np.sqrt(degree[:, None] * degree[None, :])).float()


def nodes(model: Any) -> Tensor:
    return torch.cat([model.users.weight, model.items.weight])


def close(found: tuple[Tensor, Tensor], wanted: Tensor) -> None:
    torch.testing.assert_close(torch.cat(found), wanted, atol=1e-5, rtol=0)


def test_lightgcn_averages_powers_of_the_graph(few: Dataset, adjacency: Tensor) -> None:
    model = built("lightgcn", few, layers=2)
    x = nodes(model)
    close(model.embed(), (x + adjacency @ x + adjacency @ adjacency @ x) / 3)
    ready(model)
    users, items = model.embed()
    torch.testing.assert_close(model.scores(torch.tensor([4, 1])), users[[4, 1]] @ items.T)


def test_lightgcn_has_the_gradient_of_the_dense_product(few: Dataset, adjacency: Tensor) -> None:
    model = built("lightgcn", few, layers=2)
    weight = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
    (torch.cat(model.embed()) * weight).sum().backward()
    wanted = (weight + adjacency @ weight + adjacency @ adjacency @ weight) / 3  # the graph is symmetric
    close((model.users.weight.grad, model.items.weight.grad), wanted)


def test_ngcf_is_its_two_matrices(few: Dataset, adjacency: Tensor) -> None:
    model = built("ngcf", few, layers=1, dropout=0.0)
    x, near = nodes(model), adjacency @ nodes(model)
    mixed = functional.leaky_relu(model.sums[0](x + near) + model.products[0](near * x), 0.2)
    close(model.embed(), torch.cat([x, functional.normalize(mixed, dim=1)], 1))


def test_xsimgcl_leaves_layer_zero_out_and_adds_noise_in_training(few: Dataset, adjacency: Tensor) -> None:
    model = built("xsimgcl", few, layers=2, noise=0.3)
    x = nodes(model)
    model.eval()
    close(model.embed(), (adjacency @ x + adjacency @ adjacency @ x) / 2)
    model.train()
    first = torch.cat(model.layers()[0])
    added = first - adjacency @ x
    torch.testing.assert_close(added.norm(dim=1), torch.full((11,), 0.3))
    assert bool((added.sign() * (adjacency @ x).sign() >= 0).all())


def test_simplex_is_cosines_with_the_mean_of_a_users_items(few: Dataset, table: np.ndarray) -> None:
    model = built("simplex", few, own=0.3, negatives=2, negative_weight=5.0, margin=0.1)
    mean = torch.as_tensor(table / table.sum(1, keepdims=True)).float() @ model.items.weight
    users = 0.3 * model.users.weight + 0.7 * mean @ model.mix.weight.T
    close(
        model.embed(),
        torch.cat([functional.normalize(users, dim=1), functional.normalize(model.items.weight, dim=1)]),
    )
    model.negatives = lambda who: torch.full_like(who, 3)
    ids = torch.tensor([0, 4])  # user 0 with item 0, user 1 with item 1
    cosine = functional.cosine_similarity(users[:, None], model.items.weight[None], dim=2)
    pairs = model.pairs[:, ids]
    wanted = [1 - cosine[u, i] + 5.0 * functional.relu(cosine[u, 3] - 0.1) for u, i in pairs.T.tolist()]
    torch.testing.assert_close(model.loss(ids, "all"), torch.stack(wanted).mean())


def test_sgl_contrasts_two_graphs_without_some_edges(few: Dataset) -> None:
    model = built("sgl", few, edge_dropout=0.5, contrast=0.0)
    plain = built("lightgcn", few)
    ids = torch.arange(model.num_examples)
    torch.manual_seed(2)
    model.begin("all")
    stored = [graph.matrix.values().numel() for graph in model._drawn]
    assert all(0 < count < model.num_examples for count in stored)
    kept = [graph.matrix.to_dense() > 0 for graph in model._drawn]
    assert not torch.equal(*kept)
    for one in (model, plain):
        one.negatives = lambda who: torch.full_like(who, 3)
    torch.testing.assert_close(model.loss(ids, "all"), plain.loss(ids, "all"))


def test_a_contrast_is_lowest_where_the_views_agree() -> None:
    one = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert contrast(one, 2 * one, 0.2) < contrast(one, one.roll(1, 0), 0.2)
    logits = functional.cosine_similarity(one[:, None], one.flip(0)[None], dim=2) / 0.5
    wanted = -torch.log_softmax(logits, 1).diagonal().mean()
    torch.testing.assert_close(contrast(one, one.flip(0), 0.5), wanted)


def test_bpr_and_its_l2(few: Dataset) -> None:
    model = built("mf-bpr", few, l2=0.5)
    model.negatives = lambda who: torch.full_like(who, 2)
    users, items = model.pairs[:, [0, 5]]
    loss = model.loss(torch.tensor([0, 5]), "all").item()
    w, h = model.users.weight.detach().numpy(), model.items.weight.detach().numpy()
    wanted = 0.0
    for u, i in zip(users.tolist(), items.tolist(), strict=True):
        wanted += np.log1p(np.exp(-(w[u] @ h[i] - w[u] @ h[2])))
        wanted += 0.25 * (w[u] @ w[u] + h[i] @ h[i] + h[2] @ h[2])
    assert loss == pytest.approx(wanted / 2, abs=1e-6)


def test_tables_that_no_graph_smooths_have_a_larger_l2_by_default() -> None:
    of_tables, of_graph = (baseline(name).config_class() for name in ("mf-bpr", "lightgcn"))
    assert (of_tables.l2, of_graph.l2) == (1e-2, 1e-4)


def test_negatives_are_items_that_the_user_does_not_have(few: Dataset, table: np.ndarray) -> None:
    model = built("mf-bpr", few)
    users = torch.arange(5).repeat(40)
    assert not table[users.numpy(), model.negatives(users).numpy()].any()


def test_diffnet_sums_layers_of_trust_and_the_mean_of_items(task_data: dict[str, Dataset]) -> None:
    data = task_data["social"]
    model = built("diffnet", data, layers=2)
    assert data.social is not None
    trust = np.zeros((data.num_users, data.num_users))
    trust[tuple(data.social.T)] = 1
    mean = [
        torch.as_tensor(matrix / np.maximum(matrix.sum(1, keepdims=True), 1)).float()
        for matrix in (trust, data.train.csr.toarray())
    ]
    w, h = model.users.weight, model.items.weight
    first = w + mean[0] @ w
    second = first + mean[0] @ first
    close(model.embed(), torch.cat([w + first + second + mean[1] @ h, h]))


def test_the_channels_of_mhcn_count_triangles_and_common_items() -> None:
    draws = np.random.default_rng(0)
    trust = (draws.random((12, 12)) < 0.25) & ~np.eye(12, dtype=bool)
    rows = (draws.random((12, 9)) < 0.3).astype(float)
    found = motif_channels(sp.csr_matrix(trust.astype(float)), sp.csr_matrix(rows))
    linked, common = trust | trust.T, rows @ rows.T
    wanted = {name: np.zeros((12, 12)) for name in CHANNELS}
    for one in range(12):
        for other in range(12):
            if one == other:
                continue
            if linked[one, other]:
                wanted["social"][one, other] = (linked[one] & linked[other]).sum()
                wanted["joint"][one, other] = common[one, other]
            elif common[one, other] >= 2:
                wanted["purchase"][one, other] = common[one, other]
    for name, matrix in wanted.items():
        total = matrix.sum(1, keepdims=True)
        wanted_rows = np.divide(matrix, total, where=total > 0, out=np.zeros_like(matrix))
        np.testing.assert_allclose(found[name].toarray(), wanted_rows, atol=1e-12)


def test_mhcn_mixes_its_channels_with_the_graph_of_interactions(few: Dataset, adjacency: Tensor) -> None:
    social = np.array([[0, 1], [1, 2], [2, 0], [3, 4], [4, 3]], np.int32)
    model = built("mhcn", replace(few, task="social", social=social), layers=1)
    graph, p, q = adjacency[:5, 5:], model.users.weight, model.items.weight
    views = [p * torch.sigmoid(gate(p)) for gate in model.gates]
    simple = views.pop()

    def mixed(parts: list[Tensor]) -> Tensor:
        weights = torch.softmax(torch.stack([part @ model.mix.weight.T @ model.query for part in parts]), 0)
        return sum(weight[:, None] * part for weight, part in zip(weights, parts, strict=True))  # type: ignore

    first = mixed(views) + simple / 2
    dense = [torch.as_tensor(model._channels[name].toarray()).float() for name in CHANNELS]
    sums = [view + functional.normalize(h @ view, dim=1) for h, view in zip(dense, views, strict=True)]
    users = mixed(sums) + (simple + functional.normalize(graph @ q, dim=1)) / 2
    items = q + functional.normalize(graph.T @ first, dim=1)
    close(model.embed(), torch.cat([users, items]))


@pytest.mark.parametrize("name", ["mf-bpr", "lightgcn", "ngcf"])
def test_pairs_by_user_are_of_all_users_alike(name: str, few: Dataset) -> None:
    model = built(name, few, by_user=True)
    counts = np.diff(few.train.csr.indptr)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.cat([model.examples(torch.device("cpu")) for _ in range(4000)])
    users, items = (side.numpy() for side in model.pairs[:, drawn])
    assert drawn.numel() == 4000 * model.num_examples
    table = np.zeros((few.num_users, few.num_items))
    np.add.at(table, (users, items), 1 / drawn.numel())
    wanted = few.train.csr.toarray() > 0
    expected = wanted / np.maximum(counts, 1)[:, None] / np.count_nonzero(counts)
    assert not table[~wanted].any()  # interactions alone
    np.testing.assert_allclose(table, expected, atol=0.01)  # of some 1 / 12; its standard error is about .002


@pytest.mark.parametrize("name", ["sgl", "xsimgcl", "simplex", "lightgcn", "mf-bpr"])
def test_else_an_epoch_has_each_interaction_once(name: str, few: Dataset) -> None:
    model = built(name, few, by_user=False)
    drawn = model.examples(torch.device("cpu"))
    assert drawn.sort().values.tolist() == list(range(model.num_examples))
