"""Shares of a batch make the gradient and the state of the whole batch, for every backbone and its draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer, has_ranking_loss
from agents.training.shares import Share, gathered, shared
from agents.training.world import World
from refit_env.backbones import backbone_class, backbone_for, backbone_names
from refit_env.backbones.sampling import HISTORY
from refit_env.backbones.whole_batch import gathered_by
from refit_env.data import Dataset
from refit_env.errors import SettingError

ROWS = 11


class Recorded(World):
    """One of several processes: what the others send was recorded, of the whole batch, before."""

    def __init__(self, rank: int, size: int, sent: Iterator[Tensor]) -> None:
        self.rank, self.size, self.sent = rank, size, sent

    def gather(self, tensor: Tensor) -> Tensor:
        whole = next(self.sent)
        shares = [Share(rank, self.size, len(whole)) for rank in range(self.size)]
        own = shares[self.rank]
        assert torch.allclose(tensor[: own.rows], whole[own.first : own.first + own.rows], atol=1e-5)
        out = tensor.new_zeros((self.size, *tensor.shape))
        for rank, share in enumerate(shares):
            out[rank, : share.rows] = whole[share.first : share.first + share.rows]
        return out.flatten(0, 1)


def trainer(
    name: str, objective: str, data: dict[str, Dataset], configs: dict[str, dict[str, Any]]
) -> Pretrainer:
    dataset = data[backbone_class(name).tasks[0]]
    backbone = backbone_for(dataset, name, configs[name], seed=0)
    target = "train" if objective == "elbo" or has_ranking_loss(backbone) else "holdout"
    config = PretrainConfig(objective=objective, target=target, users_per_batch=ROWS, eval_steps=2)
    return Pretrainer(dataset, backbone, config, device="cpu")


def drawn_often(model: nn.Module) -> None:
    """Let samplers of steps draw by losses, as they do after some epochs."""
    for name, buffer in model.named_buffers():
        if name.endswith("sampler.seen"):
            buffer.fill_(HISTORY)
        if name.endswith("sampler.losses"):
            buffer.copy_(1.0 + torch.arange(buffer.numel()).reshape(buffer.shape) % 3)


@pytest.mark.parametrize("count", [2, 3, ROWS + 2])
@pytest.mark.parametrize(
    ("name", "objective"),
    [(name, "elbo") for name in backbone_names()]
    + [(name, "ranking") for name in ("diffrec", "dreamrec", "causal-dreamrec")],
)
def test_shares_make_the_gradient_of_the_batch(
    name: str,
    objective: str,
    count: int,
    task_data: dict[str, Dataset],
    small_configs: dict[str, dict[str, Any]],
) -> None:
    learner = trainer(name, objective, task_data, small_configs)
    model, ids = learner.backbone, learner.examples.ids[:ROWS]
    model.train()
    drawn_often(model)
    state = copy.deepcopy(model.state_dict())

    def gradients(share: Share, world: World) -> tuple[Tensor, list[Tensor]]:
        model.load_state_dict(state)
        model.zero_grad(set_to_none=False)
        learner.generator.manual_seed(5)
        torch.manual_seed(6)
        with shared(share, world):
            loss = learner._loss(ids[share.used]) * share.weight
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    sent: list[Tensor] = []
    with torch.random.fork_rng(), gathered_by(lambda rows: sent.append(rows) or rows):  # type: ignore[func-returns-value]
        loss, expected = gradients(Share(0, 1, ROWS), World())
        buffers = {key: value.clone() for key, value in model.named_buffers()}
        after = learner.generator.get_state()
        losses, found = [], [torch.zeros_like(gradient) for gradient in expected]
        for rank in range(count):
            part, own = gradients(Share(rank, count, ROWS), Recorded(rank, count, iter(sent)))
            losses.append(part)
            found = [total + one / count for total, one in zip(found, own, strict=True)]
            assert torch.equal(learner.generator.get_state(), after)
            for key, value in model.named_buffers():
                assert torch.allclose(value, buffers[key], atol=1e-5), key
    assert torch.allclose(sum(losses, torch.zeros(())) / count, loss, rtol=1e-5, atol=1e-6)
    assert expected and any(bool(gradient.abs().max() > 0) for gradient in expected)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5 * largest)


DRAWS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "randn": lambda rows, g: torch.randn(rows, 3, generator=g),
    "rand": lambda rows, g: torch.rand((rows, 1), generator=g, dtype=torch.float64),
    "randint": lambda rows, g: torch.randint(9, (rows,), generator=g),
    "randint_low": lambda rows, g: torch.randint(3, 9, (rows, 2), generator=g),
    "multinomial": lambda rows, g: torch.multinomial(torch.arange(1.0, 7), rows, True, generator=g),
    "normal_": lambda rows, g: torch.empty(rows, 4).normal_(1, 2, generator=g),
    "uniform_": lambda rows, g: torch.empty(rows).uniform_(generator=g),
    "bernoulli_": lambda rows, g: torch.ones(rows, 5).bernoulli_(0.3, generator=g),
    "randn_like": lambda rows, g: torch.randn_like(torch.ones(rows, 2)),
    "dropout": lambda rows, g: functional.dropout(torch.ones(rows, 5), 0.4),
    "native_dropout": lambda rows, g: torch.native_dropout(torch.ones(rows, 5), 0.4, True)[0],
    "heads": lambda rows, g: functional.dropout(torch.ones(rows * 4, 2), 0.4).reshape(rows, 4, 2),
    "other_order": lambda rows, g: functional.dropout(torch.ones(6, rows, 5).transpose(0, 1), 0.4),
    "attention": lambda rows, g: functional.scaled_dot_product_attention(
        torch.ones(rows, 2, 3, 4), torch.ones(rows, 2, 3, 4), torch.ones(rows, 2, 3, 4), dropout_p=0.5
    ),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_draw_is_divided(draw: Callable[[int, torch.Generator], Tensor]) -> None:
    def drawn(share: Share) -> Tensor:
        torch.manual_seed(1)
        with shared(share, World()):
            return draw(share.rows, torch.Generator().manual_seed(2))

    with torch.random.fork_rng():
        whole = drawn(Share(0, 1, 8))
        parts = torch.cat([drawn(Share(rank, 3, 8)) for rank in range(3)])
    assert torch.allclose(parts, whole, rtol=1e-6, atol=0) and len(whole.unique()) > 1


def test_draws_that_are_of_no_rows_are_the_same_in_all_processes() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.randn(7), torch.randperm(9)
        for rank in range(2):
            torch.manual_seed(0)
            with shared(Share(rank, 2, 8), World()):
                assert torch.equal(torch.randn(7), expected[0])
                assert torch.equal(torch.randperm(9), expected[1])


@pytest.mark.parametrize("draw", [torch.bernoulli, lambda p: torch.multinomial(p[:, None], 1)])
def test_a_draw_with_parameters_of_each_row_is_refused(draw: Callable[[Tensor], Tensor]) -> None:
    with (
        shared(Share(0, 2, 8), World()),
        pytest.raises(ValueError, match="cannot be divided among processes"),
    ):
        draw(torch.full((4,), 0.5))


def test_rows_of_unequal_shares_are_gathered_in_order() -> None:
    whole = torch.arange(8).reshape(4, 2)
    for rank in range(3):
        share = Share(rank, 3, 4)
        own = whole[share.first : share.first + share.rows]
        assert torch.equal(gathered(own, share, Recorded(rank, 3, iter([whole]))), whole)


def test_fewer_rows_than_processes_are_refused(
    task_data: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Many(World):
        size = 5

    monkeypatch.setattr("agents.training.pretrainer.world_of", lambda device: Many())
    backbone = backbone_for(task_data["cf"], "diffrec", {"hidden": (4,), "num_steps": 2})
    with pytest.raises(SettingError, match=r"users_per_batch must be at least 5, .* found 4"):
        Pretrainer(task_data["cf"], backbone, PretrainConfig(users_per_batch=4), device="cpu")
