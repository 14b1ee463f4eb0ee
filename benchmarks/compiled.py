"""What ``torch.compile`` saves of the default chain's products: ``python -m benchmarks.compiled``.

The chain of ML-1M's network, 128 users and T = 4, forward and backward from a given derivative in u_0: in
plain PyTorch, compiled, and as this project computes it (``refit_env.backbones.products``). A compiler has
the best case here: one graph, fixed shapes, no environment, no reward, no optimiser.

Letters: B users, I items, T steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import RESULTS, in_turns, report
from benchmarks.workloads import default_policy, load_or_generate
from refit_env.backbones.diffrec import time_embedding
from refit_env.backbones.products import WeightGradients
from refit_env.policy import DiffusionPolicy

USERS, NOISE = 128, 0.05
MODES = {"compiled": None, "compiled, max-autotune": "max-autotune-no-cudagraphs"}
"""Name -> mode of ``torch.compile``."""
Chain = Callable[[Tensor], Tensor]


def own_chain(policy: DiffusionPolicy, noise: Sequence[Tensor]) -> Chain:
    """Return the chain from u_T (B, I) to the last mean (B, I), by the policy.

    Args:
        policy: of a ``diffrec`` backbone.
        noise: T - 1 draws (B, I).
    """

    def chain(u: Tensor) -> Tensor:
        for t in range(policy.num_steps):
            u = policy.mean(u, t) + (NOISE * noise[t] if t < len(noise) else 0.0)
        return u

    return chain


def plain_chain(policy: DiffusionPolicy, noise: Sequence[Tensor]) -> Chain:
    """Return the same chain in plain PyTorch, without Python objects that a compiler cannot read."""
    backbone: Any = policy.backbone
    chain_steps, layers, width = policy.diffusion, backbone.layers, backbone.num_items
    plan = []
    for t in range(policy.num_steps):
        k = int(policy.timestep(t))
        embedded = time_embedding(int(chain_steps.network_timestep(k)), backbone.config.embedding, noise[0])
        plan.append((embedded, float(chain_steps.mean_x0[k]), float(chain_steps.mean_u[k])))

    def chain(u: Tensor) -> Tensor:
        for t, (embedded, of_clean, of_noisy) in enumerate(plan):
            first = layers[0].weight  # (H, I + E)
            time_part = functional.linear(embedded, backbone.time.weight, backbone.time.bias)  # (1, E)
            hidden = functional.linear(u, first[:, :width], layers[0].bias)  # (B, H)
            hidden = hidden + functional.linear(time_part, first[:, width:])
            for layer in layers[1:]:
                hidden = functional.linear(torch.tanh(hidden), layer.weight, layer.bias)
            u = of_clean * hidden + of_noisy * u + (NOISE * noise[t] if t < len(noise) else 0.0)
        return u

    return chain


def gradients_of(
    policy: DiffusionPolicy, chain: Chain, u: Tensor, slope: Tensor, own: bool
) -> Callable[[], None]:
    """Return the function that computes the weights' gradients from ``slope`` (B, I) in the last mean."""
    collected = WeightGradients()

    def run() -> None:
        for parameter in policy.parameters():
            parameter.grad = None
        out = chain(u)
        if own:
            with collected:
                out.backward(slope)
        else:
            out.backward(slope)

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, compare the gradients, measure in turns, print the table, and write ``compiled.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of compiled.json")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data, label = load_or_generate("ml-1m")
    policy = default_policy(data).eval()
    u = policy.backbone.shown(data, "cpu")(torch.arange(USERS))  # (B, I)
    generator = torch.Generator().manual_seed(0)
    *noise, slope = (torch.randn(u.shape, generator=generator) for _ in range(policy.num_steps))
    plain = plain_chain(policy, noise)
    contestants = {
        "this project": gradients_of(policy, own_chain(policy, noise), u, slope, own=True),
        "plain PyTorch": gradients_of(policy, plain, u, slope, own=False),
    }
    compiling: dict[str, float] = {}
    for name, mode in MODES.items():
        compiled = torch.compile(plain, dynamic=False, fullgraph=True, mode=mode)
        contestants[name] = gradients_of(policy, compiled, u, slope, own=False)
    found = {}
    for name, run in contestants.items():
        begin = time.perf_counter()
        run()
        compiling[name] = time.perf_counter() - begin
        found[name] = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    largest = float(found["plain PyTorch"].abs().max())
    for name, gradient in found.items():
        if float((gradient - found["plain PyTorch"]).abs().max()) > 1e-4 * largest:
            raise ValueError(f"{name}: the gradients differ from those of plain PyTorch")
    timings = in_turns(contestants, given.rounds, clock=time.process_time)
    best = {name: min(timing.seconds) for name, timing in timings.items()}
    report(
        "compiled",
        title="torch.compile of the default chain, forward and backward",
        command="python -m benchmarks.compiled",
        columns=("code", "CPU ms", "over plain PyTorch", "seconds of the first call"),
        rows=[
            [
                name,
                f"{1000 * best[name]:.1f}",
                f"{best[name] / best['plain PyTorch']:.2f}",
                f"{compiling[name]:.1f}" if name in MODES else "",
            ]
            for name in contestants
        ],
        note=(
            f"DiffRec of {label}, {USERS} users, T = {policy.num_steps}, one thread, best of {given.rounds}; "
            "the gradients are equal to rounding."
        ),
        folder=given.out,
        seconds=best,
    )


if __name__ == "__main__":
    main()
