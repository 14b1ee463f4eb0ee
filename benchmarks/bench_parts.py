"""What ``benchmarks.bench`` measures of one data set: an iteration, the evaluation, an epoch.

Each function measures its contestants in turns in one process, in CPU seconds of one thread, so that other
programs change neither the ratios nor, much, the seconds. Of large data sets they take some of the users:
what is timed is proportional to the users, and the ratios are those of all.

Letters: B users in a batch, I items, K list length, U users.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from benchmarks.counting import count, seconds_by_group
from benchmarks.harness import in_turns
from benchmarks.workloads import NUM_STEPS, bare_products, default_policy, load_or_generate, make_agent
from refit_env.backbones.base import Lookup
from refit_env.data import Dataset
from refit_env.evaluation.ranking import evaluate, evaluated_users
from refit_env.policy import DiffusionPolicy
from refit_env.utils.memory import arrays_kept

ITERATION, EVALUATION, PRETRAINING, PER_EPOCH = 1.15, 20.0, 1.0, 1.0
"""Targets."""
EVALUATED, LOOPED = 4_000, 100
"""Users of the evaluation, and of the loop over users that it is compared with; the times are per user."""
ROWS = 512
"""Users in a batch of the evaluation."""
BATCHES = 4
"""Batches of the epochs that are compared."""
UPDATES = 20
"""Updates of pretraining before the iterations."""
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Budget:
    """How much a part may measure."""

    rounds: int
    """Rounds of measurements, of which the best counts."""
    seconds: float
    """Seconds on the clock after which no further round begins; one is always made."""

    def best_of(self, contestants: Mapping[str, Callable[[], Any]], begin: float) -> dict[str, float]:
        """Return the least CPU seconds of each contestant, by name.

        Args:
            contestants: name -> the function to time.
            begin: when the part began (``time.perf_counter``), its preparation included.
        """
        until = begin + self.seconds
        timings = in_turns(contestants, self.rounds, clock=time.process_time, until=until)
        return {name: min(timing.seconds) for name, timing in timings.items()}


def row(
    what: str,
    found: float,
    target: float,
    *,
    least: bool = False,
    detail: str = "",
    low: float | None = None,
) -> dict[str, Any]:
    """Return a ratio as a record.

    Args:
        what: its name.
        found: the ratio.
        target: an upper limit of it.
        least: whether the target is a lower limit instead.
        detail: more to print.
        low: the lower end of its 95 % interval, where the target is an upper limit.
    """
    interval = {} if low is None else {"low": low}
    return {"what": what, "found": found, "target": target, "least": least, "detail": detail} | interval


def iterations(name: str, budget: Budget, updates: int = UPDATES) -> dict[str, Any]:
    """Measure the default agent's iteration over its bare products, and over an epoch of ELBO.

    Args:
        name: a data set of ``benchmarks.workloads``.
        budget: of the measurements.
        updates: of pretraining before, so that scores and lists are those of a recommender.
    """
    begin = time.perf_counter()
    data, label = load_or_generate(name)
    policy = default_policy(data)
    trainer = _trainer(data, policy)
    ids, batch = trainer.examples.ids, trainer.config.users_per_batch
    parts = ids.split(batch)
    policy.backbone.train()
    for n in range(updates):
        trainer._update(parts[n % len(parts)])
    policy.backbone.eval()
    contestants: dict[str, Callable[[], Any]] = {}
    generator = torch.Generator().manual_seed(0)
    for reward in ("ndcg", "racs"):
        agent = make_agent(data, policy, reward)
        everyone = torch.as_tensor(agent.env.problem.users)
        some = everyone[torch.randperm(len(everyone), generator=generator)[: agent.config.users_per_batch]]
        contestants[reward] = partial(agent.update, some)
    products, operations = bare_products(agent)
    of_elbo = _trainer(data, default_policy(data))
    contestants |= {"products": products, "batch": partial(of_elbo._update, ids[:batch])}
    found = budget.best_of(contestants, begin)
    ours, bare = count(contestants["racs"]), count(products)
    computed = (
        f"computes {ours.operations / 1e9:.1f} of {operations / 1e9:.1f} GFLOP, moves "
        f"{ours.moved / 1e9:.2f} GB (products alone {bare.moved / 1e9:.2f}), 128 users, T = {NUM_STEPS}"
    )
    epoch = found["batch"] * len(ids) / min(batch, len(ids))
    rows = [
        row(f"{label}: iteration ({reward}) over bare products", found[reward] / found["products"], ITERATION)
        for reward in ("ndcg", "racs")
    ]
    rows[1]["detail"] = computed
    over = row(f"{label}: an epoch of ELBO over an iteration", epoch / found["racs"], PER_EPOCH, least=True)
    rows.append(over | {"detail": f"{epoch:.2f} s and {found['racs']:.3f} s"})
    return {"rows": rows, "profile": {label: seconds_by_group(contestants["ndcg"])}, "seconds": found}


def evaluations(name: str, budget: Budget) -> dict[str, Any]:
    """Measure the evaluation by full ranking against a loop over users.

    Args:
        name: a data set of ``benchmarks.workloads``.
        budget: of the measurements.
    """
    begin = time.perf_counter()
    data, label = load_or_generate(name)
    policy = default_policy(data)
    users = evaluated_users(data, "test")[:EVALUATED]
    some = users[:: max(1, len(users) // LOOPED)]
    score = policy.scorer(data)
    ours = evaluate(score, data, "test", users=users)
    chosen = np.isin(ours.users, some)
    expected = sum(float(values[chosen].sum()) for values in ours.per_user.values())
    shown = policy.backbone.shown(data, "cpu")
    loop = partial(user_by_user, policy, data, some, (10, 20), shown)
    if abs(loop() - expected) > 1e-3 * max(expected, 1.0):
        raise ValueError(f"{label}: the loop over users and the evaluation differ")
    contestants: dict[str, Callable[[], Any]] = {
        "loop": loop,
        "ours": lambda: evaluate(score, data, "test", users=users),
        "products": chain_products(policy, ROWS),
    }
    found = budget.best_of(contestants, begin)
    a_user = found["loop"] / len(some)
    ratio, floor = a_user * len(users) / found["ours"], a_user * ROWS / found["products"]
    detail = (
        f"{len(users) / found['ours']:.0f} users a second; over the products of all steps alone {floor:.1f}"
    )
    what = f"{label}: a loop over users over the evaluation"
    return {"rows": [row(what, ratio, EVALUATION, least=True, detail=detail)], "seconds": found}


def chain_products(policy: DiffusionPolicy, rows: int) -> Callable[[], None]:
    """Return the products of the noise-free chain of a batch, step after step, on allocated arrays."""
    layers: Any = policy.backbone.layers
    jobs = [
        (torch.randn(rows, width), weight.t(), torch.empty(rows, weight.shape[0]))
        for weight in (layer.weight.detach() for layer in layers)
        for width in [weight.shape[1]]
    ] * policy.num_steps

    def products() -> None:
        for a, b, out in jobs:
            torch.mm(a, b, out=out)

    return products


def user_by_user(
    policy: DiffusionPolicy, data: Dataset, users: Ids, ks: tuple[int, ...], shown: Lookup
) -> float:
    """Return Recall and NDCG, summed, of users who are scored and ranked one after the other."""
    seen, truth = data.masked("test"), data.test.csr
    total = 0.0
    for user in users:
        ids = torch.tensor([user])
        scores = policy.recommend_scores(ids, shown(ids))[0].numpy()  # (I,)
        scores[seen[user].indices] = -np.inf
        relevant = set(truth[user].indices.tolist())
        ranked = np.argsort(-scores)[: max(ks)].tolist()
        for k in ks:
            hits = [place for place, item in enumerate(ranked[:k]) if item in relevant]
            total += len(hits) / len(relevant)
            ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(relevant))))
            total += sum(1 / np.log2(place + 2) for place in hits) / ideal
    return total


def trainings(name: str, budget: Budget) -> dict[str, Any]:
    """Measure batches of pretraining against the same batches of a plain PyTorch loop over dense rows.

    Args:
        name: a data set of ``benchmarks.workloads``.
        budget: of the measurements.
    """
    begin = time.perf_counter()
    data, label = load_or_generate(name)
    trainer = _trainer(data, default_policy(data))
    trainer.backbone.train()
    batches = trainer.examples.ids.split(trainer.config.users_per_batch)[:BATCHES]

    def ours() -> None:
        with arrays_kept(trainer.largest_array):  # as ``learn`` does
            for ids in batches:
                trainer._update(ids)

    contestants: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "plain": plain_epoch(data, torch.cat(batches).tolist(), len(batches[0])),
    }
    found = budget.best_of(contestants, begin)
    what = f"{label}: a plain PyTorch epoch over pretraining's"
    detail = f"{len(batches)} batches of {len(batches[0])} users"
    ratio = found["plain"] / found["ours"]
    return {"rows": [row(what, ratio, PRETRAINING, least=True, detail=detail)], "seconds": found}


def plain_epoch(data: Dataset, users: list[int], batch: int) -> Callable[[], None]:
    """Return an epoch of the same training of some users as a plain PyTorch loop over dense rows."""
    backbone = default_policy(data).backbone.train()
    optimizer = torch.optim.AdamW(backbone.parameters(), 1e-3)
    rows = torch.from_numpy(data.train.csr[users].toarray()).float()  # (n, I)
    loader = DataLoader(TensorDataset(rows), batch_size=batch, shuffle=True)

    def run() -> None:
        for (x,) in loader:
            loss: Tensor = backbone.elbo_loss(x, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _trainer(data: Dataset, policy: DiffusionPolicy) -> Pretrainer:
    """Return pretraining of a policy's network with the default settings."""
    return Pretrainer(data, policy.backbone, PretrainConfig(), device="cpu")


PARTS: dict[str, Callable[[str, Budget], dict[str, Any]]] = {
    "evaluation": evaluations,
    "iteration": iterations,
    "training": trainings,
}
"""What is measured of a data set."""


def part_cell(name: str, part: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one part of a data set, with one thread.

    Args:
        name: a data set of ``benchmarks.workloads``.
        part: a name of ``PARTS``.
        rounds: rounds of measurements, at most.
        seconds: after which no further round begins.
    """
    torch.set_num_threads(1)  # other processes do not change its CPU seconds
    return PARTS[part](name, Budget(rounds, seconds)) | {"processor": time.process_time()}
