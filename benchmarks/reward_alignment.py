"""Does ascending a reward raise held-out NDCG? Rewards and the settings of RACS on closed-form models.

    python -m benchmarks.reward_alignment --env ReFiT-ML1M-v0 --out runs/alignment.jsonl
    python -m benchmarks.reward_alignment --out runs/alignment.jsonl --finished  # the tables

A chain of one step is x W plus noise. ``alignment`` is the cosine of two derivatives in W: that of the
expected reward (users as an environment shows them to an agent), and that of the expected NDCG of validation
items (users as a recommender sees them), each item's own noise integrated out
(``agents.gradients.estimators``). Above 0, a small step that raises the reward raises held-out NDCG, too.
``correlation`` is that of the two values over perturbed lists, within users
(``agents.reward_checks.relations``), with a bootstrap interval over users. Validation items are read, test
items are not. Rows that are there are not measured again.

Letters: B users, I items, n batches of users.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.experiments.provenance import provenance
from agents.experiments.records import append_record, read_records
from agents.experiments.training import data_of
from agents.gradients.estimators import rao_blackwell
from agents.gradients.rank_thresholds import list_parts
from agents.reward_checks.episodes import SCALES, make_env, run_episodes
from agents.reward_checks.properties import spread
from agents.reward_checks.relations import correlation_in_words, with_held_out
from agents.rollouts.rollout import Graph, roll_out
from agents.training.closed_form_search import fitted_policy
from benchmarks.harness import RESULTS
from refit_env.policy import DiffusionPolicy
from refit_env.utils.atomic_io import write_json

STD = 0.05
"""Standard deviation of the exploration."""
USERS, BATCHES, HELD_OUT = 384, 4, 2048
"""Users in a batch, batches, and users whose validation items give the other derivative."""
LISTED = 128
"""Users of the correlation."""


@dataclass(frozen=True)
class Row:
    """One reward."""

    title: str
    """What the table calls it."""
    reward: str
    """Its name."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Its settings."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the environment."""


def racs(title: str, env: Mapping[str, Any] | None = None, **kwargs: Any) -> Row:
    """RACS with one setting changed."""
    return Row(f"racs, {title}", "racs", kwargs, env or {})


def better(title: str, **kwargs: Any) -> Row:
    """``racs_ndcg`` with some settings."""
    return Row(f"racs_ndcg, {title}", "racs_ndcg", kwargs)


ROWS: Sequence[Row] = (
    Row("ndcg", "ndcg"),
    Row("racs (alpha .5, M 10, K 20)", "racs"),
    Row("r_ra", "r_ra"),
    Row("recall", "recall"),
    racs("log discount", discount="log"),
    racs("log discount, alpha 1", discount="log", alpha=1.0),
    *(racs(f"alpha {alpha:g}", alpha=alpha) for alpha in (0.0, 0.3, 0.7, 0.9)),
    *(racs(f"M {count}", neighbors=count) for count in (1, 5, 20, 50)),
    *(racs(f"K {k}", {"k": k}) for k in (5, 10, 50)),
    racs("neighbours by factors", neighbors_by="factors"),
    racs("all train items of neighbours", neighbor_relevance="train"),
    racs("relevance train", {"relevance": "train"}),
    racs("relevance holdout", {"relevance": "holdout"}),
    better("alpha .5, M 10"),
    *(better(f"alpha {alpha:g}, M 10", alpha=alpha) for alpha in (0.0, 0.3, 0.7, 0.9)),
    better("alpha .5, M 50", neighbors=50),
    better("alpha .7, M 50", alpha=0.7, neighbors=50),
    better("alpha .5, M 10, excess", excess=True),
    better("alpha .5, M 50, excess", neighbors=50, excess=True),
    better("alpha .7, M 50, excess", alpha=0.7, neighbors=50, excess=True),
    better("alpha .5, M 50, by factors", neighbors=50, neighbors_by="factors"),
    Row("unbiased_hits", "unbiased_hits"),
)
STARTS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "ReFiT-ML1M-v0": ("linear", {"recency": "rising", "oldest": 0.1, "l2": 2000.0}, "recent"),
    "ReFiT-ML100K-v0": ("linear", {"l2": 200.0}, "recent"),
    "ReFiT-Foursquare-v0": ("linear", {"l2": 200.0}, "holdout"),
    "ReFiT-Ciao-v0": ("spectral", {"rank": 256, "l2": 0.3, "user_power": 0.5, "item_power": 0.5}, "holdout"),
    "ReFiT-YooChoose-v0": ("linear", {"recency": "reciprocal", "l2": 100.0}, "train"),
    "ReFiT-Synthetic-v0": ("linear", {"l2": 50.0}, "recent"),
}
"""Environment -> closed form, its settings (as the study ``rewards``), relevance."""


@dataclass(frozen=True)
class Derivative:
    """A derivative sum_u x_u (x) g_u in W, by its factors.

    Attributes:
        x: (B, I) the vectors from which the chains start.
        g: (B, I) derivatives of each user's value in the mean of u_0.
    """

    x: Tensor
    g: Tensor

    def dot(self, other: Derivative) -> float:
        """The inner product, without a matrix of I x I."""
        return float(((self.x @ other.x.T) * (self.g @ other.g.T)).double().sum())

    def cosine(self, other: Derivative) -> float:
        """The cosine; 0 where one of the two is 0."""
        size = math.sqrt(self.dot(self)) * math.sqrt(other.dot(other))
        return self.dot(other) / size if size > 0 else 0.0


def derivative(
    env_id: str, policy: DiffusionPolicy, env_kwargs: Mapping[str, Any], users: Tensor | int, seed: int
) -> Derivative | None:
    """The derivative of a list reward on one episode of each user.

    Args:
        env_id: a registered id.
        policy: a closed form of one step.
        env_kwargs: keywords of the environment.
        users: (B,), or how many to draw.
        seed: of the users and the noise.

    Returns:
        None for a reward that is no list reward.
    """
    probe = make_env(env_id, policy, 1, env_kwargs, torch.device("cpu")).problem
    try:
        list_parts(probe.reward_fn)
    except ValueError:
        return None
    if isinstance(users, int):
        everyone = torch.as_tensor(probe.users)
        order = torch.randperm(everyone.numel(), generator=torch.Generator().manual_seed(seed))
        users = everyone[order[:users]]
    env = make_env(env_id, policy, users.numel(), env_kwargs, torch.device("cpu"))
    policy.set_exploration(STD, 0.0)
    draws = torch.Generator().manual_seed(seed + 1)
    rollout = roll_out(policy, env, users, generator=draws, graph=Graph(steps=()))
    [(_, slope)] = rao_blackwell(rollout, policy, env.problem.reward_fn)
    return Derivative(rollout.states[0], slope)


def measure(env_id: str, policy: DiffusionPolicy, row: Row, held_out: Derivative) -> dict[str, Any]:
    """One row's figures."""
    relevance = STARTS[env_id][2]
    kwargs: dict[str, Any] = {"relevance": relevance, "reward": row.reward, **row.env}
    kwargs |= {"reward_kwargs": dict(row.kwargs)} if row.kwargs else {}
    cosines = []
    for batch in range(BATCHES):
        found = derivative(env_id, policy, kwargs, USERS, 100 + batch)
        cosines += [] if found is None else [found.cosine(held_out)]
    probe = make_env(env_id, policy, 1, kwargs, torch.device("cpu")).problem
    tested = torch.as_tensor(probe.dataset.valid.users.astype(np.int64))
    everyone = torch.as_tensor(probe.users)
    everyone = everyone[torch.isin(everyone, tested)]
    order = torch.randperm(everyone.numel(), generator=torch.Generator().manual_seed(7))
    users = everyone[order[:LISTED]].sort().values
    held, varied = None, {}
    if users.numel() > 1:
        env = make_env(env_id, policy, users.numel() * 2, kwargs, torch.device("cpu"))
        episodes = run_episodes(env, policy, users, STD, SCALES, 7)
        value = episodes.problem.reward_fn(episodes.scores, episodes.users).value
        held, varied = with_held_out(value, episodes), spread(value, episodes)
    return {"alignment": cosines, "correlation": held, "spread": varied}


def run(env_id: str, records: Path, seconds: float) -> None:
    """Measure the rows of an environment that are missing."""
    begin, there = time.perf_counter(), read_records(records)
    missing = [row for row in ROWS if f"{env_id}_{row.title}" not in there]
    if not missing:
        return
    name, options, _ = STARTS[env_id]
    dataset = data_of(env_id)
    policy = fitted_policy(dataset, name, options, 1, torch.device("cpu"))
    seen = {"relevance": "validation", "relevance_kwargs": {"selection_share": 0.0}, "reward": "ndcg"}
    held_out = derivative(env_id, policy, seen, HELD_OUT, 1)
    assert held_out is not None  # ndcg is a list reward
    for row in missing:
        if time.perf_counter() - begin > seconds:
            return
        base = {"key": f"{env_id}_{row.title}", "env": env_id, "title": row.title}
        try:
            found = measure(env_id, policy, row, held_out)
        except ValueError as error:  # the data set does not allow it
            found = {"refused": str(error)}
        source = provenance(dataset.name).to_json()
        append_record(records, base | {"provenance": source} | found)
        print(env_id, row.title, found.get("refused", found.get("alignment")), flush=True)


def tables(records: Path) -> list[dict[str, Any]]:
    """A table for each environment, in the order of ``ROWS``."""
    found, out = list(read_records(records).values()), []
    for env_id in STARTS:
        rows = [_cells(r) for row in ROWS for r in found if (r["env"], r["title"]) == (env_id, row.title)]
        if rows:
            columns = ["reward", "alignment", "correlation [95 %]", "std within a user"]
            title = f"Rewards against held-out NDCG on {env_id}, a {STARTS[env_id][0]} model"
            out.append({"title": title, "columns": columns, "rows": [row for row in rows if row]})
    return out


def _cells(record: Mapping[str, Any]) -> list[str]:
    """A record's row; empty where the data set did not allow it."""
    if "refused" in record:
        return []
    cosines = np.array(record["alignment"])
    half = 3.182 * cosines.std(ddof=1) / math.sqrt(cosines.size) if cosines.size == BATCHES else math.nan
    level = f"{cosines.mean():+.3f} ± {half:.3f}" if cosines.size else "-"
    held, varied = record["correlation"], record["spread"]
    text = "-" if held is None else correlation_in_words(held)
    return [record["title"], level, text, f"{varied['within_user_std']:.4f}" if varied else "-"]


NOTE = (
    "alignment: cosine of the derivatives, in the weights of a closed-form model, of the expected reward and "
    f"of the expected NDCG@20 of validation items, mean over {BATCHES} batches of {USERS} users ± half a "
    "95 % interval (Student's t). correlation: of reward and validation NDCG@20 within users over perturbed "
    f"lists (exploration std {STD}, 0.5 to 4 times), with a bootstrap interval over users. K 20, relevance "
    "recent (ML-1M, ML-100K), holdout or train, unless stated. Test items are not read."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, or with ``--finished`` write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS / "reward_alignment.jsonl")
    parser.add_argument("--seconds", type=float, default=1e9, help="after these no row is begun")
    parser.add_argument("--finished", action="store_true")
    given = parser.parse_args(arguments)
    for env_id in given.env:
        run(env_id, given.out, given.seconds)
    if given.finished:
        records = list(read_records(given.out).values())
        data = {r["provenance"]["data"]["name"]: [r["provenance"]["data"]["fingerprint"]] for r in records}
        content = {
            "title": "Rewards against held-out NDCG",
            "command": "python -m benchmarks.reward_alignment",
            "note": NOTE,
            "tables": tables(given.out),
            "provenance": {"data": data},
        }
        write_json(given.out.with_suffix(".json"), content)
        print(json.dumps(content["tables"], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
