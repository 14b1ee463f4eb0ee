"""Shared by the commands' work: the environment that is meant, reports, tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from agents.commands.options import RewardText, absolute_places, parse_reward
from agents.console import say
from agents.runs.contents import RunConfig
from agents.runs.folder import RunError, RunFolder
from agents.runs.plots import Panel, column
from agents.runs.profiling import Usage
from refit_env.checkpoint import load_checkpoint, weights_digest
from refit_env.data import Dataset, load_dataset
from refit_env.data.catalog import CATALOG
from refit_env.data.coverage import differs
from refit_env.data.home import find_dataset, list_datasets, named_folder
from refit_env.data.identity import check_same_data
from refit_env.errors import did_you_mean
from refit_env.evaluation.ranking import Evaluation, nearest_metric
from refit_env.evaluation.selection import Rule
from refit_env.evaluation.statistics import paired_bootstraps
from refit_env.policy import DiffusionPolicy
from refit_env.registration import TABLE, EnvEntry, entry
from refit_env.rewards import reward_class

CUSTOM_ENV = "ReFiT-Custom-v0"
SHORT = 12
"""Digits of a hash in messages."""
OTHER_DATA = (
    "Pass --new-data if it is later data, whose users and items have the same ids in the source: the model "
    "is carried over to it; or --other-data if the numbers of users and items mean the same in both. The "
    "model may have been trained on items that are held out in the other data"
)
"""What to do where the data is not that of the model's training."""
REPORTED = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
"""The metrics that ``metrics.json`` and the tables hold; a small catalogue has those of its longest lists."""


@dataclass(frozen=True)
class Target:
    """The environment that a command works on."""

    env_id: str
    """A registered id."""
    data: str | None
    """Folder of one's own data set, or None for the id's own."""

    @property
    def spec(self) -> EnvEntry:
        """The id's row in the registration table."""
        return entry(self.env_id)

    @property
    def dataset(self) -> str:
        """The argument of ``load_dataset``."""
        name = self.data if self.data is not None else self.spec.dataset
        if name is None:
            raise ValueError(f"{self.env_id} needs a data set of yours: --data FOLDER")
        return name

    def env_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of ``gym.make_vec`` that name the data."""
        return {} if self.data is None else {"data": self.data}


def scorer_kwargs(policy: DiffusionPolicy, run: Path | None, target: Target) -> dict[str, Any]:
    """Keyword arguments with which an environment scores u_0 by the model of a run.

    The backbone's name, where it is not the id's own, and the run's folder, where only a trained model scores
    u_0.
    """
    own = policy.backbone.name
    out: dict[str, Any] = {} if own == target.spec.backbone else {"backbone": own}
    return out | ({"checkpoint": str(run.resolve())} if policy.backbone.embedding and run else {})


def choose_target(env: str | None, data: Path | None, fallback: Mapping[str, Any] | None = None) -> Target:
    """Decide which environment is meant.

    Args:
        env: what ``--env`` said.
        data: what ``--data`` said: a folder, or the name of a set in a data home; it needs
            ``ReFiT-Custom-v0``.
        fallback: the ``config.json`` of an earlier run, which decides where neither is given.

    Raises:
        ValueError: if nothing decides, or the two contradict each other, or there is no such id or folder.
    """
    if data is not None:
        if env not in (None, CUSTOM_ENV):
            raise ValueError(f"--data {data} needs {CUSTOM_ENV}, not --env {env}; leave one of them out")
        folder = named_folder(str(data))
        if folder is None:
            ids = [row.env_id for row in TABLE if row.dataset == str(data)]
            hint = f"; --env {ids[0]} has the data set of that name" if ids else ""
            here = [name for name, at in list_datasets().items() if at is not None]
            close = did_you_mean(data, here)
            hint += f".{close}" if close else ""
            raise ValueError(
                f"--data {data}: there is no such folder, nor such a set in the data homes{hint}"
            )
        return Target(CUSTOM_ENV, str(folder.resolve()))
    if env is None and fallback is not None:
        return Target(str(fallback["env"]), fallback.get("data"))
    if env is None:
        raise ValueError("say which environment: --env ID (for example ReFiT-Synthetic-v0) or --data FOLDER")
    target = Target(entry(env).env_id, None)
    _ = target.dataset  # refuses an id that needs --data before any work is done
    return target


def reward_named(text: str) -> RewardText:
    """The reward that ``--reward`` names, files by their absolute paths; a user's file is run.

    Raises:
        ValueError: for a name that no reward has, or a place without one, as it was typed.
    """
    spec = parse_reward(text)
    for name in [spec] if isinstance(spec, str) else spec:
        reward_class(name)
    return absolute_places(spec)


class Start(Protocol):
    """What ``pretrain`` and ``finetune`` say of the model that they start from."""

    @property
    def other_data(self) -> bool:
        """Allow other data."""

    @property
    def new_data(self) -> bool:
        """Carry it over to other users and items."""

    @property
    def seed(self) -> int:
        """The seed of new items' weights."""

    @property
    def quiet(self) -> bool:
        """Print no more than errors."""


def initial_policy(command: Start, run: Path, target: Target) -> DiffusionPolicy:
    """The policy of ``--init``; with ``--new-data`` for the users and items of the target's data.

    Raises:
        ValueError: if the options contradict each other, or the model cannot be carried over.
        CheckpointError: if the folder holds no whole model.
        DataError: if the data is not that of the model's training, and no option allows it.
    """
    if command.new_data and command.other_data:
        raise ValueError(
            "--new-data finds users and items by their ids, --other-data by number: leave one out"
        )
    policy = DiffusionPolicy.load(run, other_data=command.other_data)
    dataset = load_dataset(target.dataset)
    if not command.new_data:
        check_same_data(policy.backbone.trained_on, dataset, f"the model in {run}", OTHER_DATA)
        return policy
    policy, changes = policy.carried_over(run, dataset, command.seed)
    if not command.quiet:
        say(f"{dataset.name}, compared with the data of {run}: {changes}", stderr=True)
    return policy


def plain(value: Any) -> Any:
    """Turn settings into what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def note_other_data(dataset: Dataset) -> None:
    """Print, to the error stream, that published tables were measured on another data set of this name."""
    line = differs(dataset)
    if line is not None:
        say(line, stderr=True)


def note_other_sets(envs: Sequence[str]) -> None:
    """``note_other_data`` for the data sets of environments, as far as they are here."""
    for name in dict.fromkeys(entry(env).dataset for env in envs):
        if name is not None and (name not in CATALOG or find_dataset(name) is not None):
            note_other_data(load_dataset(name))


def reported(means: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are reported, in their order; for data with dislikes, their shares too.

    Example:
        >>> reported({"recall@3": 0.5, "ndcg@3": 0.25, "coverage@3": 1.0})
        {'recall@3': 0.5, 'ndcg@3': 0.25}
    """
    names = dict.fromkeys(nearest_metric(name, means) for name in REPORTED)
    names |= dict.fromkeys(name for name in means if name.startswith("dislikes@"))
    return {name: float(means[name]) for name in names}


def validation_panel(
    rows: Sequence[Mapping[str, float]],
    rule: Rule,
    chosen: tuple[str, float] | None = None,
    *,
    step_name: str = "iteration",
    start: bool = False,
) -> Panel:
    """The panel of a log's validation: NDCG@20 and Recall@20, or those of a smaller catalogue's lists.

    Args:
        rows: of the log.
        rule: how the weights are chosen.
        chosen: label and step of the chosen weights.
        step_name: the log's first column.
        start: whether the first row is that of the weights that training began with; the rule's
            metric is then a horizontal line.
    """
    logged = {name.removeprefix("valid/") for row in rows for name in row if name.startswith("valid/")}
    names = [nearest_metric(name, logged) for name in ("ndcg@20", "recall@20")]
    names += [name for name in rule.names if name in logged and name not in names]
    lines = {metric_name(name): column(rows, f"valid/{name}", step_name) for name in names}
    first = column(rows, f"valid/{rule.metric}", step_name)[1]
    levels = {f"start, {metric_name(rule.metric)}": first[0]} if start and first else {}
    return Panel("validation", lines, "mean over users", levels, chosen)


def metric_name(name: str) -> str:
    """A metric as papers write it.

    Example:
        >>> metric_name("ndcg@20"), metric_name("recall@10")
        ('NDCG@20', 'Recall@10')
    """
    return name.replace("ndcg", "NDCG").replace("recall", "Recall")


def comparison(before: Evaluation, after: Evaluation, seed: int = 0) -> dict[str, Any]:
    """Compare two models on the same users, for ``metrics.json``.

    Args:
        before: of the pretrained model.
        after: of the fine-tuned one.
        seed: of the bootstrap.

    Raises:
        ValueError: if the two were evaluated on different users.
    """
    if list(before.users) != list(after.users):
        raise ValueError("before and after were evaluated on different users")
    means = reported(before.means())
    table = paired_bootstraps(
        {name: before.per_user[name] for name in means},
        {name: after.per_user[name] for name in means},
        seed=seed,
    )
    return {
        "users": len(before.users),
        "before": means,
        "after": reported(after.means()),
        "relative_gain": {name: table[name].relative_gain for name in means},
        "paired_bootstrap": {name: table[name].to_json() for name in means},
    }


def comparison_table(report: Mapping[str, Any], title: str) -> Table:
    """The before/after table of one run, for the terminal."""
    table = Table(title=f"{title} (test, {report['users']} users)")
    for name in ("metric", "before", "after", "gain", "difference, 95 % interval over users"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name in report["before"]:
        bootstrap = report["paired_bootstrap"][name]
        table.add_row(
            name,
            f"{report['before'][name]:.4f}",
            f"{report['after'][name]:.4f}",
            percent(report["relative_gain"][name]),
            f"{bootstrap['mean_difference']:+.4f} [{bootstrap['low']:+.4f}, {bootstrap['high']:+.4f}]",
        )
    return table


def percent(gain: float) -> str:
    """A relative gain for a table; a dash where there is none (nothing to divide by)."""
    return f"{100 * gain:+.1f} %" if math.isfinite(gain) else "-"


def cost(**parts: Usage | Mapping[str, Any] | None) -> dict[str, Any]:
    """Seconds and peak memory of each part that was measured."""
    return {
        name: part.to_json() if isinstance(part, Usage) else dict(part)
        for name, part in parts.items()
        if part is not None
    }


def check_weights_unchanged(path: Path, begun: RunConfig, folders: Iterable[str | Path]) -> None:
    """Refuse to go on where a model that the run was begun with is another one by now.

    Args:
        path: the run's folder.
        begun: its ``config.json``.
        folders: of the models that it still needs.

    Raises:
        RunError: naming the first that changed.
        CheckpointError: if one cannot be read.
    """
    known = begun.get("weights") or {}
    for folder, digest in weights_of(folders).items():
        if folder in known and known[folder] != digest:
            raise RunError(
                f"{path} was begun with the model {known[folder][:SHORT]} in {folder}, which holds "
                f"{digest[:SHORT]} now: put the former back, or begin another run with another --out"
            )


def check_recorded(weights: Mapping[str, str]) -> None:
    """Refuse weights that are not those that the runs in their folders ended with.

    Args:
        weights: digest by folder; folders that hold no finished run pass.

    Raises:
        RunError: naming the first.
    """
    for folder, digest in weights.items():
        RunFolder(folder).check_weights(digest)


def weights_of(folders: Iterable[str | Path]) -> dict[str, str]:
    """sha256 of the weights in each folder, by its resolved path."""
    return {str(Path(folder).resolve()): weights_digest(load_checkpoint(folder)[0]) for folder in folders}
