"""Writes the CSV file of a shop that does not exist, to try the commands for one's own data on.

    python -m benchmarks.trending_shop shop.csv
    refit data prepare shop31 --source shop.csv --columns user=visitor item=article timestamp=bought_at \
        --token-ids --k-core 5 --split time --out shop31
    refit tune --data shop31 --minutes 15 --seed 0 --out tuned

Tastes are directions in a small space and drift over the year. Articles come onto the market during the
year and sell best when they are new, so the latest purchases resemble the next ones more than the first do.
Nothing in the project was tuned on such files, and no environment reads them.
"""

from __future__ import annotations

import argparse
import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from refit_env.utils.atomic_io import atomic_path

COLUMNS = ("visitor", "article", "bought_at")
DAYS = 365.0
START = datetime(2025, 1, 1, tzinfo=UTC)
FIRST = 0.4
"""Share of the articles that are there on the first day."""
HALF_LIFE = 60.0
"""Days after which an article sells half as often as on its first day."""
LEAST = 6
"""Fewest purchases of a visitor."""

Purchase = tuple[int, int, float]
"""Visitor, article, day."""


def draw_purchases(
    users: int, items: int, seed: int, *, dimensions: int = 14, mean: float = 18.0
) -> list[Purchase]:
    """Draw the purchases of a year, each article at most once by a visitor.

    Args:
        users: visitors.
        items: articles.
        seed: seed of all draws.
        dimensions: dimensions of taste.
        mean: median purchases of a visitor (log-normal).

    Returns:
        The purchases, visitor by visitor, each visitor's in order of time.

    Raises:
        ValueError: if there are too few articles.
    """
    if items < 10 * LEAST:
        raise ValueError(f"--items {items} must be at least {10 * LEAST}")
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(items, dimensions))
    launched = np.where(rng.random(items) < FIRST, 0.0, rng.uniform(0, DAYS, items))
    liking = 1.1 * rng.normal(size=items)
    before, after = rng.normal(size=(2, users, dimensions))
    purchases: list[Purchase] = []
    for user in range(users):
        count = int(np.clip(rng.lognormal(np.log(mean), 0.7), LEAST, items / 10))
        bought: list[int] = []
        for day in np.sort(rng.uniform(0, DAYS, count)):
            taste = before[user] + (day / DAYS) * (after[user] - before[user])
            age = day - launched
            scores = features @ taste + liking - np.log(2) * age / HALF_LIFE + rng.gumbel(size=items)
            scores[(age < 0) | np.isin(np.arange(items), bought)] = -np.inf
            bought.append(int(scores.argmax()))
            purchases.append((user, bought[-1], float(day)))
    return purchases


def write_csv(purchases: list[Purchase], path: Path) -> None:
    """Write purchases as CSV with the columns COLUMNS; the time is in ISO 8601."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for user, article, day in purchases:
            time = START + timedelta(days=day)
            writer.writerow((f"v{user:05d}", f"a{article:05d}", time.isoformat(timespec="seconds")))


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line.

    Raises:
        SystemExit: for wrong options, or a file that exists.
    """
    parser = argparse.ArgumentParser(description="Write the CSV file of a shop whose tastes drift.")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--users", type=int, default=3200)
    parser.add_argument("--items", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=31)
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"{options.out} exists: name another file")
    try:
        purchases = draw_purchases(options.users, options.items, options.seed)
    except ValueError as error:
        parser.error(str(error))
    write_csv(purchases, options.out)
    print(f"{options.out}: {len(purchases):,} purchases of {options.users:,} visitors")


if __name__ == "__main__":
    main()
