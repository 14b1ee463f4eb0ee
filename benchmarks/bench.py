"""One table of this project's ratios, with their targets: ``refit bench``, ``make bench``.

What one process can measure alternately is measured: an iteration of the default agent and its bare matrix
products, evaluation and a loop over users, pretraining and a plain PyTorch loop. Ratios that need processes
of their own, peers or a GPU are read from ``benchmarks/results``; the last column names each one's command.

Letters: B users in a batch, I items, K list length.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import Pretrainer
from benchmarks.harness import RESULTS, in_turns, report
from benchmarks.workloads import (
    CATALOGUES,
    NUM_STEPS,
    bare_products,
    default_policy,
    load_or_generate,
    make_agent,
)
from refit_env.data import Dataset
from refit_env.errors import unknown_name
from refit_env.evaluation.ranking import evaluate, evaluated_users
from refit_env.policy import DiffusionPolicy

ITERATION, EVALUATION, PRETRAINING, PER_EPOCH = 1.15, 20.0, 1.0, 1.0
"""Targets."""
HERE = "refit bench"
Rows = list[list[str]]
Ids = npt.NDArray[np.int64]


def row(
    what: str, found: float, target: float, least: bool, command: str = HERE, detail: str = ""
) -> list[str]:
    """Return a row of the table; ``least``: whether the target is a lower limit."""
    met = found >= target if least else found <= target
    return [
        what,
        f"{found:.2f}",
        f"{'>=' if least else '<='} {target:g}",
        "yes" if met else "no",
        detail,
        command,
    ]


def cpu_seconds(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the least CPU seconds of each contestant over the rounds."""
    timings = in_turns(contestants, rounds, clock=time.process_time)
    return {name: min(timing.seconds) for name, timing in timings.items()}


def pretrained(data: Dataset, epochs: int) -> DiffusionPolicy:
    """Return a policy after a few epochs, whose scores and lists are those of a recommender."""
    policy = default_policy(data)
    Pretrainer(data, policy.backbone, PretrainConfig(epochs=epochs, eval_every=epochs), device="cpu").learn()
    return policy


def iterations(data: Dataset, policy: DiffusionPolicy, label: str, rounds: int) -> Rows:
    """Return the rows of the default agent's iteration over its bare products, and over an epoch."""
    contestants: dict[str, Callable[[], Any]] = {}
    generator = torch.Generator().manual_seed(0)
    for reward in ("ndcg", "racs"):
        agent = make_agent(data, policy, reward)
        everyone = torch.as_tensor(agent.env.problem.users)
        some = everyone[torch.randperm(len(everyone), generator=generator)[: agent.config.users_per_batch]]
        contestants[reward] = partial(agent.update, some)
    products, operations = bare_products(agent)
    config = PretrainConfig(epochs=10**6, eval_every=10**6)
    trainer = Pretrainer(data, default_policy(data).backbone, config, device="cpu")
    contestants |= {"products": products, "epoch": lambda: trainer._step()}
    found = {
        name: min(t.seconds) for name, t in in_turns(contestants, rounds, clock=time.process_time).items()
    }
    work = f"{operations / 1e9:.1f} GFLOP, 128 users, T = {NUM_STEPS}"
    rows = [
        row(
            f"{label}: iteration ({reward}) over bare products",
            found[reward] / found["products"],
            ITERATION,
            False,
        )
        for reward in ("ndcg", "racs")
    ]
    rows[0][4] = work
    over = found["epoch"] / found["racs"]
    return [*rows, row(f"{label}: an epoch of ELBO over an iteration", over, PER_EPOCH, True)]


def user_by_user(policy: DiffusionPolicy, data: Dataset, users: Ids, ks: tuple[int, ...]) -> float:
    """Return Recall and NDCG, summed, of users who are scored and ranked one after the other."""
    seen, truth = data.masked("test"), data.test.csr
    shown = policy.backbone.shown(data, "cpu")
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


def evaluations(data: Dataset, policy: DiffusionPolicy, label: str, rounds: int) -> Rows:
    """Return the row of the evaluation of all users and that of a loop over users."""
    users = evaluated_users(data, "test")
    some = users[:: max(1, len(users) // 200)]
    score = policy.scorer(data)
    ours = evaluate(score, data, "test")
    chosen = np.isin(ours.users, some)
    expected = sum(float(values[chosen].sum()) for values in ours.per_user.values())
    assert abs(user_by_user(policy, data, some, (10, 20)) - expected) < 1e-3 * max(expected, 1.0)
    contestants: dict[str, Callable[[], Any]] = {
        "loop": lambda: user_by_user(policy, data, some, (10, 20)),
        "ours": lambda: evaluate(score, data, "test"),
    }
    found = {
        name: min(t.seconds)
        for name, t in in_turns(contestants, max(2, rounds // 2), clock=time.process_time).items()
    }
    ratio = found["loop"] / len(some) * len(users) / found["ours"]
    rate = f"{len(users) / found['ours']:.0f} users a second"
    return [row(f"{label}: a loop over users over the evaluation", ratio, EVALUATION, True, detail=rate)]


def plain_epoch(data: Dataset, batch: int) -> Callable[[], None]:
    """Return an epoch of the same training as a plain PyTorch loop over dense rows."""
    backbone = default_policy(data).backbone.train()
    optimizer = torch.optim.AdamW(backbone.parameters(), 1e-3)
    rows = torch.from_numpy(data.train.csr.toarray()).float()  # (U, I)
    loader = DataLoader(TensorDataset(rows), batch_size=batch, shuffle=True)

    def run() -> None:
        for (x,) in loader:
            loss: Tensor = backbone.elbo_loss(x, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def trainings(data: Dataset, label: str, rounds: int) -> Rows:
    """Return the row of an epoch and of a plain loop's."""
    config = PretrainConfig(epochs=10**6, eval_every=10**6)
    trainer = Pretrainer(data, default_policy(data).backbone, config, device="cpu")
    contestants: dict[str, Callable[[], Any]] = {
        "ours": lambda: trainer._step(),
        "plain": plain_epoch(data, config.users_per_batch),
    }
    found = {
        name: min(t.seconds)
        for name, t in in_turns(contestants, max(2, rounds // 2), clock=time.process_time).items()
    }
    name = f"{label}: a plain PyTorch epoch over pretraining's"
    return [row(name, found["plain"] / found["ours"], PRETRAINING, True)]


def stored(folder: Path) -> Rows:
    """Return the rows of results that other commands wrote."""
    rows: Rows = []

    def read(name: str) -> dict[str, Any]:
        path = folder / f"{name}.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    cost = read("fine_tuning_cost")
    for what, ratio in cost.get("memory_over_pretraining", {}).items():
        if not what.endswith("pretraining"):
            rows.append(row(f"ML-1M: memory, {what}", ratio, 1.0122, False, cost["command"]))
    growth = read("scaling")
    for what, (exponent, low, high) in growth.get("exponents", {}).items():
        detail = f"interval {low:.2f} to {high:.2f}"
        rows.append(row(f"growth: {what}", exponent, 1.0, False, growth["command"], detail))
    older = read("reinforce_iteration")
    if older:
        rows.append(
            row(
                "ML-1M: iteration (score, 16 episodes)",
                older["agent_over_bare"],
                1.3,
                False,
                older["command"],
            )
        )
    return rows


def markdown(rows: Rows, columns: Sequence[str], note: str) -> str:
    """Return the table as a Markdown page."""
    lines = ["# Ratios and their targets", "", "Written by `make bench`. " + note, ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def measure(
    data: Sequence[str],
    rounds: int = 5,
    epochs: int = 3,
    out: Path | None = None,
    write: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Measure, print the table, write ``bench.json`` and a page.

    Args:
        data: data sets of ``CATALOGUES``; synthetic ones of their size where they are absent.
        rounds: rounds of measurements, the best of which counts.
        epochs: epochs of pretraining before the iterations.
        out: folder of the result file; None is ``benchmarks/results``.
        write: Markdown page to write; None writes none.
        quiet: print nothing.

    Returns:
        The result file.

    Raises:
        ValueError: for an unknown data set.
    """
    for name in data:
        if name not in CATALOGUES:
            raise unknown_name("data set of the benchmarks", name, CATALOGUES)
    torch.set_num_threads(1)  # other processes do not change its CPU seconds
    begin, rows = time.perf_counter(), []
    for name in data:
        loaded, label = load_or_generate(name)
        policy = pretrained(loaded, epochs)
        rows += evaluations(loaded, policy, label, rounds)
        rows += iterations(loaded, policy, label, rounds)
        rows += trainings(loaded, label, rounds)
    rows += stored(RESULTS)
    columns = ["ratio", "found", "target", "met", "detail", "measured by"]
    note = (
        f"Best of {rounds} rounds in one process, CPU seconds, {torch.get_num_threads()} threads, "
        f"{time.perf_counter() - begin:.0f} s; rows of other commands are as they were stored."
    )
    path = report(
        "bench",
        title="Ratios and their targets",
        command="refit bench",
        columns=columns,
        rows=rows,
        note=note,
        folder=RESULTS if out is None else out,
        quiet=quiet,
    )
    if write is not None:
        write.write_text(markdown(rows, columns, note), encoding="utf-8")
    return path
