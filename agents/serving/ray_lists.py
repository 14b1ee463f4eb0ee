"""The lists of all users as a Ray Data job: workers with a copy of the model each, results in order.

Letters: U users, B users in a batch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.serving.everyone import Lists, Numbers
from agents.serving.export import need
from agents.serving.ranker import Ranker
from refit_env.data import Dataset
from refit_env.errors import SettingError


class Worker:
    """One copy of the model; Ray Data calls it with batches of users."""

    def __init__(self, make: Callable[[], Ranker], lists: Lists) -> None:
        """Load the model.

        Args:
            make: makes the ranker.
            lists: what lists are made.
        """
        self.ranker, self.lists = make(), lists

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> Numbers:
        """Return the lists of a batch of users, the column ``id``."""
        return self.lists.of(self.ranker, batch["id"].astype(np.int64))


def ray_lists(lists: Lists, make: Callable[[], Ranker], dataset: Dataset, workers: int) -> Iterator[Numbers]:
    """Yield the lists of all users in order, made by ``workers`` processes of a Ray cluster.

    Args:
        lists: what lists are made.
        make: makes the ranker; it must be picklable, and work on every machine of the cluster.
        dataset: for the number of users.
        workers: copies of the model.

    Raises:
        MissingExtraError: if Ray is not installed.
        SettingError: if the cluster has too few processors for the workers.
    """
    ray: Any = need("ray", "--engine ray", "ray")
    data: Any = need("ray.data", "--engine ray", "ray")
    started = not ray.is_initialized()
    if started:  # workers hold their processors for the whole job; the task that lists users needs one, too
        own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers + 1}
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **own)
    have = int(ray.cluster_resources().get("CPU", 0))
    if have < workers + 1:
        raise SettingError("workers", f"{workers} need {workers + 1} processors; the Ray cluster has {have}")
    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = max(workers, -(-dataset.num_users // lists.batch))
    try:
        users = data.range(dataset.num_users, override_num_blocks=min(blocks, dataset.num_users))
        made = users.map_batches(
            Worker,
            fn_constructor_args=(make, lists),
            batch_size=lists.batch,
            compute=data.ActorPoolStrategy(size=workers),
        )
        for batch in made.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
            yield {name: batch[name] for name in ("user", "rank", "item", "score")}
    finally:
        if started:
            ray.shutdown()
