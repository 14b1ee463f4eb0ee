"""What fine-tuning costs on 10^8 users and 10^7 items, from a model of its costs.

    python -m benchmarks.projection

The model counts what an iteration of a spectral denoiser multiplies and moves (``counts``), and divides by
four rates that are measured here: matrix products, memory traffic, normal numbers, top-K. It is checked
against the run on 10^6 users and 10^6 items (``benchmarks.million``): the table has its measured seconds
beside the model's, which leave out allocations, the environment and what runs between products. The ratio of
the two scales the other rows. All rows of 10^7 items are **extrapolated**, and so are those of an H100, whose
rates are 60 % of the maker's figures. Nothing of that size was run.

Letters: U users, I items, B users in a batch, T steps, r rank, K list length.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from agents.experiments.records import read_records
from benchmarks import million
from benchmarks.harness import RESULTS, in_turns, report

CELLS = RESULTS / "scaling.jsonl"
ROWS, ITEMS = 4, 10**6
"""Shape of the arrays by which the rates are measured: those of a chunk of the run."""
PASSES, PER_STEP = 10, 8
"""Vectors of the catalogue that an iteration reads and writes for a user: at its ends, and in each step."""
WEIGHT_ACCESSES = 9
"""Times that an iteration reads or writes each weight's four bytes: the gradient twice, Adam seven times."""
COPIES = 6
"""Arrays of the weights' size: policy, pretrained policy, best weights, gradient, Adam's two moments."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second."""

    products: float
    """Floating-point operations of matrix products."""
    traffic: float
    """Bytes that are read or written."""
    normals: float
    """Standard normal numbers."""
    ranked: float
    """Scores of which the largest are found."""


H100 = Rates(
    products=0.6 * 67e12, traffic=0.6 * 3.35e12, normals=0.6 * 3.35e12 / 8, ranked=0.6 * 3.35e12 / 12
)
"""An H100 (SXM) by the maker's figures for float32 and memory."""


@dataclass(frozen=True)
class Size:
    """A task."""

    users: float
    """U."""
    items: float
    """I."""
    rank: int
    """r."""
    batch: int
    """B."""
    steps: int
    """T."""
    activity: float
    """Interactions of a user."""

    @property
    def weights(self) -> float:
        """Number of weights."""
        return 2.0 * self.items * self.rank

    def bytes_of(self) -> dict[str, float]:
        """Return bytes by what holds them: interactions on disk, weights, one user's chain."""
        return {
            "interactions": self.users * (12.0 * self.activity + 24.0),
            "weights in training": 4.0 * COPIES * self.weights,
            "chain of a user": 4.0 * self.items * (3 * self.steps + 5),
        }


def counts(size: Size) -> tuple[float, float, float, float]:
    """Return the operations of products, the bytes, the normal numbers and the ranked scores of an iteration.

    A step has two products of 2 B I r operations. The first product and its weights' gradient use the history
    alone, the last product's gradients the drawn items, so that T steps have 2 T - 1 products forward and
    4 T - 4 backward.

    Example:
        >>> counts(Size(1, 1000, 2, 10, 2, 1))[0] == 7 * 2 * 10 * 1000 * 2
        True
    """
    cells = size.batch * size.items
    products = 2.0 * cells * size.rank * (6 * size.steps - 5 if size.steps > 1 else 1)
    moved = 8.0 * cells * (PASSES + PER_STEP * size.steps) + 4.0 * WEIGHT_ACCESSES * size.weights
    return products, moved, float(cells * size.steps), float(cells)


def seconds(size: Size, rates: Rates) -> float:
    """Return the seconds of an iteration."""
    products, moved, normals, ranked = counts(size)
    return products / rates.products + moved / rates.traffic + normals / rates.normals + ranked / rates.ranked


def list_seconds(size: Size, rates: Rates) -> float:
    """Return the seconds of one user's list by the noise-free chain, a product of the items' factors."""
    traffic = 8.0 * 3 * size.items / rates.traffic
    return 2.0 * size.items * size.rank / rates.products + traffic + size.items / rates.ranked


def measured_rates(rank: int = million.RANK, items: int = ITEMS) -> Rates:
    """Measure the rates of one thread, on arrays of a chunk's shape."""
    torch.set_num_threads(1)
    u, weight = torch.randn(ROWS, items), torch.randn(items, rank)
    z, other = torch.randn(ROWS, rank), torch.randn(rank, items)
    out = torch.empty_like(u)
    jobs: dict[str, Callable[[], object]] = {
        "products": lambda: (u @ weight, torch.mm(z, other, out=out), torch.mm(z.t(), u)),
        "traffic": lambda: torch.add(u, out, out=out),
        "normals": lambda: torch.randn(ROWS, items),
        "ranked": lambda: u.topk(21, dim=1),
    }
    best = {name: min(t.seconds) for name, t in in_turns(jobs, 5, clock=time.process_time).items()}
    cells = ROWS * items
    return Rates(
        products=3 * 2.0 * cells * rank / best["products"],
        traffic=12.0 * cells / best["traffic"],
        normals=cells / best["normals"],
        ranked=cells / best["ranked"],
    )


def rows_of(rates: Rates, measured: float | None) -> list[list[str]]:
    """Return the table's rows.

    Args:
        rates: of this machine, one thread.
        measured: seconds of an iteration of the run on a million users and items; None if it was not run.
    """
    config = million.CONFIG
    small = Size(1e6, 1e6, million.RANK, config.users_per_batch, million.NUM_STEPS, million.EVENTS)
    large = Size(1e8, 1e7, 64, 128, 2, 100)
    ratio = 1.0 if measured is None else measured / seconds(small, rates)
    out = []
    cases = (("1 thread here", rates, small), ("1 thread here", rates, large), ("H100", H100, large))
    for machine, rate, size in cases:
        held = size.bytes_of()
        ran = f"{measured:.3g}" if size is small and measured is not None else "not run"
        out.append(
            [
                f"{size.users:.0e} users, {size.items:.0e} items, r = {size.rank}, {machine}",
                f"{held['interactions'] / 1e9:.3g}",
                f"{held['weights in training'] / 1e9:.3g}",
                f"{held['chain of a user'] / 1e6:.3g}",
                f"{seconds(size, rate):.3g} ({size.batch} users)",
                f"{ratio * seconds(size, rate):.3g}",
                ran,
                f"{list_seconds(size, rate) * size.users / 3600:.3g}",
            ]
        )
    return out


def main() -> None:
    """Measure the rates, print the table, write the JSON file."""
    found = read_records(CELLS).get("million")
    measured = min(found["iterations"]) if found else None
    rates = measured_rates()
    report(
        "projection",
        title="A plan for 10^8 users and 10^7 items (extrapolated)",
        command="python -m benchmarks.projection",
        columns=[
            "size, machine",
            "interactions, GB",
            "weights in training, GB",
            "a user's chain, MB",
            "an iteration by the model, s",
            "scaled, s",
            "an iteration measured, s",
            "lists of all users by the model, h",
        ],
        rows=rows_of(rates, measured),
        note=(
            f"Rates of one thread here: {rates.products / 1e9:.1f} GFLOP/s of products of rank "
            f"{million.RANK}, {rates.traffic / 1e9:.1f} GB/s, {rates.normals / 1e6:.0f} million normal "
            f"numbers and {rates.ranked / 1e6:.0f} million ranked scores a second. An H100's are 60 % of the "
            "maker's figures. Scaled: times measured seconds over those of the model, of the first row. Only "
            "the column of measured seconds was run."
        ),
        rates=vars(rates),
    )


if __name__ == "__main__":
    main()
