"""Gold against proxy: does a reward that an agent maximises stay a good one?

    python -m benchmarks.over_optimisation [--seeds 3] [--redo]

On ReFiT-Synthetic-v0 each user's true taste is known (reward ``refit_env.rewards.gold:Gold``). Each optimiser
maximises each proxy for far longer than validation would allow; proxy and gold are measured at every
validation, against d = sqrt(KL to the start). The laws of Gao et al. (arXiv 2210.10760, Eq. 1 and 2) are
fitted to the change of gold: d (a - b log d) for the agents, d (a - b d) for the best of n chains. With b > 0
gold falls again after the d in the table (``peak``).

The optimisers: REINFORCE, PPO, regression on the policy's own samples weighted by their advantages (``rwr``)
and by the exponential of their reward (``rwr-exp``; arXiv 2603.10279), and the best of n chains of the
pretrained policy, without training; its KL is log n - (n-1)/n.

Letters: B users in a batch, I items, n chains of each user, T steps.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from agents.algorithms.configs import RWRConfig
from agents.algorithms.registry import algorithm
from agents.experiments.provenance import sources
from agents.experiments.records import Cell, read_cell
from agents.training.pretrain_config import PretrainConfig
from agents.training.pretrainer import pretrain
from benchmarks.harness import RESULTS, finish_here, report
from refit_env.data import Dataset, load_dataset
from refit_env.policy import DiffusionPolicy
from refit_env.rewards import Reward, make_relevance, make_reward

CELLS = RESULTS / "over_optimisation.jsonl"
ENV, GOLD = "ReFiT-Synthetic-v0", "refit_env.rewards.gold:Gold"
STEPS, STD = 3, 0.05
"""T, and the deviation of exploration."""
PROXIES: dict[str, dict[str, Any]] = {
    "racs": {"reward": "racs", "relevance": "recent"},
    "ndcg": {"reward": "ndcg", "relevance": "recent"},
    "racs of train": {"reward": "racs", "relevance": "train"},
    "ease": {"reward": "ease", "relevance": "none"},
    "learned": {"reward": "learned", "relevance": "none"},
}
"""Proxy -> keywords of the environment."""
EXPONENTIAL = RWRConfig.preset("exponential")
WEIGHTS = ("weighting", "credit", "baseline")
"""What that preset sets."""
OPTIMISERS: dict[str, dict[str, Any]] = {
    "reinforce": {"learning_rate": 2e-4},
    "ppo": {"learning_rate": 1e-4},
    "rwr": {"learning_rate": 1e-4},
    "rwr-exp": {"learning_rate": 1e-4} | {name: getattr(EXPONENTIAL, name) for name in WEIGHTS},
}
"""Optimiser -> changes of the defaults of its algorithm, which is its name up to the hyphen."""
ITERATIONS, EVERY = 120, 3
"""Iterations of a run, of which every third is validated."""
BEST_OF = (1, 2, 4, 8, 16, 32, 64, 128)
"""Values of n."""
CHAINS = "best of n"
VALID = "valid/ndcg@20"
"""What early stopping would read."""


@cache
def start_of(seed: int) -> DiffusionPolicy:
    """Return a pretrained DiffRec, the start of all runs of a seed."""
    data = load_dataset("synthetic")
    config = PretrainConfig(epochs=200, patience=20)
    return DiffusionPolicy(pretrain(data, "diffrec", config, seed=seed, device="cpu").backbone, STEPS, STD)


def gold_of(data: Dataset) -> Reward:
    """Return the gold reward."""
    return make_reward(GOLD, data, make_relevance("none", data))


@torch.no_grad()
def gold_value(policy: DiffusionPolicy, data: Dataset, gold: Reward) -> float:
    """Return the mean gold of the lists of all users, items of the history left out."""
    users = torch.arange(data.num_users)
    return float(gold(without_known(policy.scorer(data)(users), users, data), users).value.mean())


def without_known(scores: Tensor, users: Tensor, data: Dataset) -> Tensor:
    """Return the scores (B, I) with -inf for the train and validation items of ``users`` (B,)."""
    known = (data.train.csr + data.valid.csr)[users.numpy()].toarray() > 0
    return scores.masked_fill(torch.as_tensor(known), -math.inf)


def cell(proxy: str, seed: int) -> dict[str, Any]:
    """Maximise a proxy; returns each optimiser's points: ``d``, ``proxy``, ``gold``, of agents ``valid``."""
    data = load_dataset("synthetic")
    policy, gold = start_of(seed), gold_of(data)
    found = {CHAINS: best_of_n(policy, data, PROXIES[proxy], gold, seed)}
    found |= {name: trained(policy, data, proxy, name, gold, seed) for name in OPTIMISERS}
    return {
        optimiser: {name: [round(point[name], 6) for point in points] for name in points[0]}
        for optimiser, points in found.items()
    }


def trained(
    policy: DiffusionPolicy, data: Dataset, proxy: str, optimiser: str, gold: Reward, seed: int
) -> list[dict[str, float]]:
    """Run an algorithm; returns a point for each validation."""
    kind = algorithm(optimiser.partition("-")[0])
    config = kind.config_class(
        iterations=ITERATIONS, eval_every=EVERY, exploration_std=STD, **OPTIMISERS[optimiser]
    )
    agent = kind(copy.deepcopy(policy), ENV, config, env_kwargs=PROXIES[proxy], seed=seed, device="cpu")
    found: list[float] = []

    def measure(agent: Any, scalars: Mapping[str, float]) -> None:
        if "monitor/reward" in scalars:
            found.append(gold_value(agent.policy, data, gold))

    before = gold_value(policy, data, gold)
    result = agent.learn(callback=measure)
    if result.interrupted:
        raise KeyboardInterrupt  # half a run is no result
    rows = [row for row in result.history if "monitor/reward" in row]
    values = [before] * (len(rows) - len(found)) + found
    return [
        {
            "d": math.sqrt(max(row["policy/kl_to_pretrained"], 0.0) * policy.backbone.dim),
            "proxy": row["monitor/reward"],
            "gold": value,
            "valid": row[VALID],
        }
        for row, value in zip(rows, values, strict=True)
    ]


@torch.no_grad()
def best_of_n(
    policy: DiffusionPolicy, data: Dataset, goal: Mapping[str, Any], gold: Reward, seed: int
) -> list[dict[str, float]]:
    """Draw chains of each user, and choose by the proxy; returns a point for each n."""
    relevance = make_relevance(goal["relevance"], data)
    proxy = make_reward(goal["reward"], data, relevance)
    generator = torch.Generator().manual_seed(seed)
    shown = torch.as_tensor(relevance.visible.toarray(), dtype=torch.float32)  # (U, I)
    total: dict[int, list[tuple[float, float]]] = {n: [] for n in BEST_OF}
    for user in range(0, data.num_users, 4):
        users = torch.full((BEST_OF[-1],), user)
        u = shown[users]
        for t in range(policy.num_steps):
            u = policy.sample(u, t, generator=generator)
        values = proxy(u, users).value  # (n,)
        true = gold(without_known(u, users, data), users).value  # (n,)
        for n in BEST_OF:
            best = int(values[:n].argmax())
            total[n].append((float(values[best]), float(true[best])))
    out = []
    for n in BEST_OF:
        mean = np.mean(total[n], axis=0)
        kl = math.log(n) - (n - 1) / n
        out.append({"d": math.sqrt(kl), "proxy": float(mean[0]), "gold": float(mean[1])})
    return out


def law(d: Sequence[float], gain: Sequence[float], *, chains: bool) -> tuple[float, float, float, float]:
    """Fit the change of gold by least squares.

    Args:
        d: square roots of the KL.
        gain: gold less its value at the start.
        chains: whether d (a - b d) is fitted, the law of the best of n; else d (a - b log d).

    Returns:
        a, b, the share of the variance that is explained, and the d where the law is at its peak (inf if it
        has none).

    Example:
        >>> d = [0.5, 1.0, 2.0, 3.0]
        >>> [round(float(x), 6) for x in law(d, [x * (0.4 - 0.1 * x) for x in d], chains=True)]
        [0.4, 0.1, 1.0, 2.0]
    """
    x, y = np.asarray(d), np.asarray(gain)
    x, y = x[x > 0], y[x > 0]
    design = np.stack([x, -x * x if chains else -x * np.log(x)], 1)
    (a, b), *_ = np.linalg.lstsq(design, y, rcond=None)
    left = float(((y - design @ np.array([a, b])) ** 2).sum())
    explained = 1.0 - left / max(float(((y - y.mean()) ** 2).sum()), 1e-300)
    peak = math.inf
    if b > 0 and a > 0:
        peak = a / (2 * b) if chains else math.exp(min(a / b - 1, 700.0))
    return float(a), float(b), explained, peak


def plan(seeds: int) -> list[Cell]:
    """Return the cells."""
    shared = {
        "std": STD,
        "steps": STEPS,
        "iterations": ITERATIONS,
        "every": EVERY,
        "best_of": list(BEST_OF),
    }
    return [
        Cell(
            f"{proxy.replace(' ', '-')}_{seed}",
            cell,
            (proxy, seed),
            {"goal": PROXIES[proxy], "optimisers": OPTIMISERS, "seed": seed} | shared,
            "synthetic",
        )
        for seed in range(seeds)
        for proxy in PROXIES
    ]


def runs_of(found: Mapping[str, Mapping[str, Any]], proxy: str, optimiser: str) -> list[dict[str, Any]]:
    """Return the points of all seeds."""
    return [got[optimiser] for key, got in found.items() if key.rsplit("_", 1)[0] == proxy.replace(" ", "-")]


def tabulate(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the table's rows: a proxy and an optimiser each, all seeds together."""
    rows = []
    for proxy in PROXIES:
        for optimiser in (CHAINS, *OPTIMISERS):
            each = runs_of(found, proxy, optimiser)
            if not each:
                continue
            d = [x for got in each for x in got["d"]]
            gain = [x - got["gold"][0] for got in each for x in got["gold"]]
            a, b, explained, peak = law(d, gain, chains=optimiser == CHAINS)
            start, best, end = (
                float(np.mean([pick(got["gold"]) for got in each])) for pick in (_first, max, _last)
            )
            proxies = [float(np.mean([pick(got["proxy"]) for got in each])) for pick in (_first, _last)]
            rows.append(
                [
                    f"{proxy}: {optimiser}",
                    f"{proxies[0]:.3f} -> {proxies[1]:.3f}",
                    f"{start:.3f}",
                    f"{best:.3f}",
                    chosen_gold(each),
                    f"{end:.3f}",
                    f"{max(d):.1f}",
                    f"{a:+.4f}",
                    f"{b:+.4f}",
                    f"{explained:.2f}",
                    "none" if not math.isfinite(peak) or peak > 10 * max(d) else f"{peak:.1f}",
                    str(len(each)),
                ]
            )
    return rows


def chosen_gold(each: Sequence[Mapping[str, Sequence[float]]]) -> str:
    """Return the mean gold of the points with the best validation; empty for records without validation.

    Example:
        >>> chosen_gold([{"gold": [0.5, 0.7, 0.6], "valid": [0.1, 0.2, 0.3]}])
        '0.600'
    """
    known = [got for got in each if "valid" in got]
    if len(known) < len(each) or not known:
        return ""
    return f"{np.mean([got['gold'][int(np.argmax(got['valid']))] for got in known]):.3f}"


def _first(values: Sequence[float]) -> float:
    return values[0]


def _last(values: Sequence[float]) -> float:
    return values[-1]


def draw(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw proxy and gold against d, a panel for each proxy, the mean of the seeds.

    A panel's limits are those of the optimisers that raised the proxy; the curves of others may leave it.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(PROXIES), figsize=(4 * len(PROXIES), 4.2), layout="constrained", squeeze=False
    )
    handles: dict[str, Any] = {}
    for panel, proxy in zip(panels[0], PROXIES, strict=True):
        raised: list[np.ndarray] = [np.zeros((3, 1))]  # of an optimiser d, and the changes of gold and proxy
        for place, optimiser in enumerate((CHAINS, *OPTIMISERS)):
            each = runs_of(found, proxy, optimiser)
            if not each:
                continue
            d, gold, value = (np.mean([got[name] for got in each], 0) for name in ("d", "gold", "proxy"))
            (line,) = panel.plot(d, gold - gold[0], color=f"C{place}")
            (dots,) = panel.plot(d, value - value[0], color=f"C{place}", linestyle=":")
            handles |= {f"{optimiser}: gold": line, f"{optimiser}: proxy": dots}
            if value[-1] > value[0]:
                raised.append(np.stack([d, gold - gold[0], value - value[0]]))
        panel.axhline(0.0, color="0.7", linewidth=0.8)
        panel.set_title(proxy)
        panel.set_xlabel("sqrt(KL to the start)")
        panel.set_xscale("symlog", linthresh=1.0)
        furthest, *changes = (np.concatenate(each) for each in zip(*raised, strict=True))
        panel.set_xlim(0.0, 1.1 * furthest.max() or 1.0)
        low, high = np.min(changes), np.max(changes)
        panel.set_ylim(low - 0.1 * (high - low) - 0.01, high + 0.1 * (high - low) + 0.01)
    panels[0][0].set_ylabel("change since the start")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
    figure.savefig(RESULTS / "over_optimisation.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure missing cells, print the table, draw, write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--finished", action="store_true", help="only tabulate the cells that are finished")
    parser.add_argument("--redo", action="store_true", help="measure stale cells again")
    options = parser.parse_args()
    cells = plan(options.seeds)
    if not options.finished:
        finish_here(cells, CELLS, redo=options.redo)
    found = {each.key: got for each in cells if (got := read_cell(CELLS, each)) is not None}
    draw(found)
    report(
        "over_optimisation",
        title="Gold against proxy",
        command=f"python -m benchmarks.over_optimisation --seeds {options.seeds}",
        columns=[
            "proxy: optimiser",
            "proxy",
            "gold at the start",
            "at its best",
            "at the best validation",
            "at the end",
            "largest d",
            "a",
            "b",
            "explained",
            "peak",
            "seeds",
        ],
        rows=tabulate(found),
        note=(
            f"ReFiT-Synthetic-v0, DiffRec, T = {STEPS}, deviation {STD}; {ITERATIONS} iterations without "
            "early stopping. d is sqrt(KL); the law of the change of gold is d (a - b log d), for the best "
            "of n d (a - b d); peak is the d after which gold falls by the law. The best "
            "validation is the highest validation NDCG@20, which early stopping reads."
        ),
        provenance=sources(found.values()),
    )


if __name__ == "__main__":
    main()
