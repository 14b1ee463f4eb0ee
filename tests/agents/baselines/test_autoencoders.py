"""The losses of the autoencoders against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats

from agents.baselines import baseline
from agents.baselines.learning import ready
from agents.baselines.recvae import log_prior
from refit_env.data import Dataset


def built(name: str, data: Dataset, **settings: Any) -> Any:
    kind = baseline(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(kind.config_class(latent=3, dropout=0.0, **settings)).build(data)  # type: ignore[attr-defined]


def softmax_loss(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(1, keepdims=True)
    return -(rows * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)


def test_mult_dae_is_the_softmax_of_a_tanh_code(few: Dataset, table: np.ndarray) -> None:
    model = built("mult-dae", few)
    encoder, decoder = model.net[0][0], model.net[2][0]
    into, out = encoder.weight.detach().numpy(), decoder.weight.detach().numpy()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    code = np.tanh(unit @ into.T + encoder.bias.detach().numpy())
    logits = code @ out.T + decoder.bias.detach().numpy()
    ready(model)
    np.testing.assert_allclose(model.scores(torch.arange(5)).detach().numpy(), logits, atol=1e-5)
    loss = model.loss(torch.arange(5), "all").item()
    np.testing.assert_allclose(loss, softmax_loss(logits, table).mean(), atol=1e-5)


def test_mult_vae_adds_the_annealed_divergence(few: Dataset, table: np.ndarray) -> None:
    model = built("mult-vae", few, hidden=(), beta=0.6, anneal=3)
    model.begin("all")
    model.begin("all")  # two of three epochs: a weight of .4
    rows = torch.as_tensor(table).float()
    mean, logvar = model.code(rows)
    torch.manual_seed(5)
    loss = model.loss(torch.arange(5), "all").item()
    torch.manual_seed(5)
    mu, s2 = mean.detach().double().numpy(), np.exp(logvar.detach().double().numpy())
    z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    fit = softmax_loss(model.decoder(z).detach().numpy(), table)
    divergence = 0.5 * (mu**2 + s2 - 1 - np.log(s2)).sum(1)
    np.testing.assert_allclose(loss, (fit + 0.4 * divergence).mean(), atol=1e-5)
    for _ in range(9):
        model.begin("all")
    torch.manual_seed(5)
    np.testing.assert_allclose(
        model.loss(torch.arange(5), "all").item(), (fit + 0.6 * divergence).mean(), atol=1e-5
    )


def test_recvaes_prior_is_the_mixture_of_three() -> None:
    at, mean, logvar = (torch.tensor([[v]]) for v in (0.4, -1.0, 0.5))
    parts = [(0.15, 0.0, 1.0), (0.75, -1.0, np.exp(0.25)), (0.1, 0.0, np.exp(5.0))]
    density = sum(weight * stats.norm(m, s).pdf(0.4) for weight, m, s in parts)
    np.testing.assert_allclose(log_prior(at, mean, logvar).item(), np.log(density), atol=1e-5)


def test_recvaes_passes_train_one_side_each_and_renew_the_prior(few: Dataset) -> None:
    model = built("recvae", few, hidden=(4,), depth=2)
    named = dict(model.named_parameters())
    for phase, side in (("encoder", "encoder"), ("decoder", "decoder")):
        trained = {id(weight) for weight in model.trained_in(phase)}
        assert {name for name, weight in named.items() if id(weight) in trained} == {
            name for name in named if name.startswith(side)
        }
    with torch.no_grad():
        model.encoder.out.bias += 1.0
    model.begin("encoder")
    assert not torch.equal(model.last.out.bias, model.encoder.out.bias)
    model.begin("decoder")
    assert torch.equal(model.last.out.bias, model.encoder.out.bias)
    assert not any(weight.requires_grad for weight in model.last.parameters())


def test_recvaes_divergence_counts_a_users_items(few: Dataset, table: np.ndarray) -> None:
    model = built("recvae", few, hidden=(4,), depth=2, gamma=0.1)
    rows = torch.as_tensor(table).float()
    mean, logvar = model.encoder(torch.nn.functional.normalize(rows, dim=1))
    torch.manual_seed(1)
    loss = model.loss(torch.arange(5), "decoder").item()
    torch.manual_seed(1)
    z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    log_q = torch.distributions.Normal(mean, (0.5 * logvar).exp()).log_prob(z)
    gap = (log_q - log_prior(z, mean, logvar)).sum(1)  # the last encoder is this one
    fit = torch.as_tensor(softmax_loss(model.decoder(z).detach().numpy(), table)).float()
    torch.testing.assert_close(loss, (fit + 0.1 * rows.sum(1) * gap).mean().item(), atol=1e-5, rtol=0)


def test_users_without_train_items_are_no_examples(few: Dataset) -> None:
    bare = few.train.select(few.train.users != 2)
    from dataclasses import replace

    model = built("mult-dae", replace(few, train=bare))
    assert model.some.tolist() == [0, 1, 3, 4]
    assert model.loss(torch.arange(4), "all").isfinite()


def sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-values)))


def test_cfgan_plays_generated_vectors_against_those_of_items(few: Dataset, table: np.ndarray) -> None:
    kind = baseline("cfgan")
    settings: Any = {"hidden": 3, "critic": 4, "depth": 2, "masked": 0.0, "zeros": 1.0, "zero_weight": 0.7}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = kind(kind.config_class(**settings, l2=0.2)).build(few)  # type: ignore[attr-defined]
    weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    real = table.T  # (I, U)
    hidden = sigmoid(real @ weights["into.weight"].T + weights["into.bias"])
    made = hidden @ weights["out.weight"].T + weights["out.bias"]

    def chance(values: np.ndarray) -> np.ndarray:
        layer = np.concatenate([real, values], 1)
        for at in (0, 2):
            layer = sigmoid(layer @ weights[f"critic.{at}.weight"].T + weights[f"critic.{at}.bias"])
        return sigmoid(layer @ weights["critic.4.weight"].T + weights["critic.4.bias"])

    fake = chance(made * real)  # nothing but the item's users is read
    ids = torch.arange(6)
    against = -np.log(chance(real)) - np.log(1 - fake)
    np.testing.assert_allclose(model.loss(ids, "discriminator").item(), against.mean(), atol=1e-5)
    size = sum((weights[name] ** 2).sum() for name in weights if name.startswith(("into", "out")))
    pulled = (made**2 * (real == 0)).sum(1).mean()
    wanted = -np.log(fake).mean() + 0.7 * pulled + 0.1 * size
    np.testing.assert_allclose(model.loss(ids, "generator").item(), wanted, atol=1e-5)
    ready(model)
    np.testing.assert_allclose(model.scores(torch.arange(5)).detach().numpy(), made.T, atol=1e-5)
    trained = [{id(p) for p in model.trained_in(phase)} for phase in model.phases]
    assert not trained[0] & trained[1] and len(trained[0] | trained[1]) == len(weights)
