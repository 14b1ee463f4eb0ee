"""What a run folder says of its run: the result in a sentence, the command, the state, the alarms."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from agents.algorithms.registry import ALGORITHMS, settings_class
from agents.runs.alarms import Alarm, alarms
from agents.runs.contents import RunConfig, RunMetrics, data_identity
from agents.runs.files import CONFIG, LOG, RunError
from agents.runs.folder import RunFolder
from agents.runs.log import read_log
from refit_env.errors import SettingError
from refit_env.evaluation.intervals import ends_in_words, is_known, side_of_zero
from refit_env.evaluation.ranking import metric_title, nearest_metric
from refit_env.evaluation.selection import Rule, parse_rule
from refit_env.settings import plain

FINE_TUNING, PRETRAINING, REFIT = "finetune", "pretrain", "refit"
FLAGS = ("new_data", "other_data")
"""Settings of ``config.json`` that are switches."""
ALONE = "one user or session: no interval"
"""Text of an interval that is not known."""


@dataclass(frozen=True, eq=False)
class Facts:
    """A run, as its folder says it.

    Attributes:
        path: the folder.
        config: ``config.json``.
        metrics: ``metrics.json``; empty for an unfinished run.
        rows: ``log.csv``; empty where there is none.
    """

    path: Path
    config: RunConfig
    metrics: RunMetrics
    rows: list[dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> Facts:
        """Read a run folder, finished or not.

        Raises:
            RunError: if it is none, or a file of it is damaged.
        """
        if path.is_dir() and not (path / CONFIG).exists():
            raise RunError(
                f"{path} is neither the folder of a run ({CONFIG} is missing) nor that of a study "
                "(STUDY.jsonl is missing)"
            )
        folder = RunFolder.open(path, needs=(CONFIG,))
        metrics: RunMetrics = folder.metrics if folder.finished() else {}
        rows = read_log(path) if (path / LOG).exists() else []
        return cls(path, folder.config, metrics, rows)

    @property
    def finished(self) -> bool:
        """Whether the run ended."""
        return bool(self.metrics)

    @property
    def name(self) -> str:
        """What the page calls it: the folder's name."""
        return self.path.resolve().name

    @property
    def algorithm(self) -> str:
        """What trained it."""
        if self.config["command"] != FINE_TUNING:
            return self.config["command"]
        return self.config.get("algorithm", "reinforce")

    @property
    def reward(self) -> str:
        """The reward in words; empty where there is none."""
        kwargs = self.config.get("env_kwargs") or {}
        reward = kwargs.get("reward")
        if isinstance(reward, Mapping):
            reward = mix_in_words({file_name(name): weight for name, weight in reward.items()})
        elif reward is not None:
            reward = file_name(str(reward))
        relevance = kwargs.get("relevance")
        words = [str(reward or "the environment's reward"), f"relevance {relevance}" if relevance else ""]
        return ", ".join(filter(None, words)) if self.config["command"] == FINE_TUNING else ""

    @property
    def alarms(self) -> list[Alarm]:
        """The alarms of its log."""
        return alarms(self.rows)

    @property
    def selected_on(self) -> str:
        """How validation chose the weights."""
        training = self.metrics.get("training", {})
        settings: Mapping[str, Any] = self.config.get("agent") or self.config.get("pretrain") or {}
        if self.config["command"] == REFIT:
            return f"nothing: what {self.config.get('run')} chose was kept"
        return str(
            training.get("selected_on")
            or f"valid {settings.get('select', settings.get('select_on', 'ndcg@20'))}"
        )

    @property
    def rule(self) -> Rule:
        """The rule of ``selected_on``; that of NDCG@20 where it cannot be read."""
        try:
            return parse_rule(self.selected_on.removeprefix("valid "))
        except SettingError:
            return parse_rule("ndcg@20")

    @property
    def chosen(self) -> float | None:
        """The iteration or epoch of the chosen weights."""
        training = self.metrics.get("training", {})
        found = training.get("best_iteration", training.get("best_epoch"))
        return None if found is None else float(found)

    @property
    def step_name(self) -> str:
        """The first column of the log."""
        return next(iter(self.rows[0]), "iteration") if self.rows else "iteration"

    def sentence(self) -> str:
        """The result in a sentence."""
        if not self.finished:
            if not self.rows:
                return "This run is not finished: it has no log yet, and nothing was tested."
            done = int(self.rows[-1][self.step_name])
            total = (self.config.get("agent") or self.config.get("pretrain") or {}).get(f"{self.step_name}s")
            of = "" if total is None else f" of {total}"
            where = f"{self.step_name} {done}{of}"
            return f"This run is not finished: its log ends at {where}, and nothing was tested."
        if "after" not in self.metrics:
            test = self.metrics.get("test", {})
            name = nearest_metric("ndcg@20", test)
            value = test.get(name)
            refit = self.config["command"] == REFIT
            learned = " The model learned the validation items, too." if refit else ""
            return (
                f"Test {metric_title(name)} is {value:.4f}.{learned}"
                if value is not None
                else "The run is finished."
            )
        names = [self.rule.metric] if self.chosen and self.rule.metric in self.metrics["after"] else []
        names += [nearest_metric("ndcg@20", self.metrics["after"])]
        return " ".join(gain_sentence(self.metrics, name) for name in dict.fromkeys(names))

    @property
    def unit(self) -> str:
        """What the metrics are means over, ``users`` or ``rows``."""
        return self.metrics.get("unit", "users")

    def choice(self) -> str:
        """The iteration that validation chose, and the gain there with an interval; empty if not known."""
        gain = self.metrics.get("training", {}).get("valid_gain")
        if gain is None or self.chosen is None:
            return ""
        choice = f"Validation chose {self.step_name} {self.chosen:.0f} by {metric_title(self.rule.metric)}."
        return f"{choice} {gain_in_words(gain, self.unit)}"


def file_name(name: str) -> str:
    """Return the name of a reward; of one in a file, without the file's folders.

    Example:
        >>> file_name("/home/me/my_reward.py:FreshHits"), file_name("ndcg")
        ('my_reward.py:FreshHits', 'ndcg')
    """
    where, colon, inner = name.rpartition(":")
    return f"{PurePath(where).name}{colon}{inner}" if where.endswith(".py") else name


def mix_in_words(mix: Mapping[str, float]) -> str:
    """A weighted mix of rewards as a formula.

    Example:
        >>> mix_in_words({"ndcg": 1.0, "coverage": 0.5, "novelty": -1.0})
        'ndcg + 0.5 coverage - novelty'
    """
    words = ""
    for name, weight in mix.items():
        sign = "- " if weight < 0 else "+ " if words else ""
        words += f" {sign}{name if abs(weight) == 1 else f'{abs(weight):g} {name}'}"
    return words.strip()


def gain_sentence(metrics: RunMetrics, name: str) -> str:
    """The gain of a fine-tuning run by a metric in a sentence.

    Example:
        >>> gain = {"mean_difference": 0.1, "low": 0.08, "high": 0.12, "confidence": 0.95}
        >>> found = {"before": {"ndcg@20": 0.3}, "after": {"ndcg@20": 0.4}, "users": 800}
        >>> print(gain_sentence(found | {"paired_bootstrap": {"ndcg@20": gain}}, "ndcg@20"))
        Test NDCG@20 rose from 0.3000 to 0.4000 (+33.3 %; 95 % interval of the difference over 800 users:
        +0.0800 to +0.1200).
        >>> found = {"before": {"coverage@20": 0.5}, "after": {"coverage@20": 0.6}, "paired_bootstrap": {}}
        >>> gain_sentence(found, "coverage@20")
        'Test coverage@20 rose from 0.5000 to 0.6000 (+20.0 %; of all lists together).'
        >>> found = {"before": {"arp@9": 0.5, "ndcg@9": 0.3}, "after": {"arp@9": 0.5, "ndcg@9": 0.4}}
        >>> gain_sentence(found | {"paired_bootstrap": {}}, "arp@9")
        'Test arp@9 stays 0.5000.'
        >>> found = {"before": {"ndcg@9": 1.0}, "after": {"ndcg@9": 1.0}, "paired_bootstrap": {}}
        >>> gain_sentence(found | {"training": {"best_iteration": 5}}, "ndcg@9")
        'Test NDCG@9 stays 1.0000.'
        >>> gain_sentence(found | {"training": {"best_iteration": 0}}, "ndcg@9")
        'Validation chose the weights of the start: test NDCG@9 stays 1.0000.'
        >>> found = {"before": {"ndcg@9": 0.25}, "after": {"ndcg@9": 0.5}, "users": 1}
        >>> gain_sentence(found | {"paired_bootstrap": {"ndcg@9": {"low": None, "high": None}}}, "ndcg@9")
        'Test NDCG@9 went from 0.2500 to 0.5000 (+100.0 %; one user or session: no interval).'
    """
    before, after = metrics["before"].get(name), metrics["after"].get(name)
    found = metrics["paired_bootstrap"].get(name)
    if before is None or after is None:
        return f"{metric_title(name)} was not a finite number."
    if after == before:
        chosen = (metrics.get("training") or {}).get("best_iteration", 0)
        start = not chosen and metrics["after"] == metrics["before"]  # else other weights have the same value
        choice = "Validation chose the weights of the start: test" if start else "Test"
        return f"{choice} {metric_title(name)} stays {before:.4f}."
    details = [f"{100 * (after / before - 1):+.1f} %"] if before else []
    change, rose = f"from {before:.4f} to {after:.4f}", "rose" if after > before else "fell"
    if found is None:
        details.append("of all lists together")
        return f"Test {metric_title(name)} {rose} {change} ({'; '.join(details)})."
    low, high, share = found["low"], found["high"], 100 * found.get("confidence", 0.95)
    users = f"{share:.0f} % interval of the difference over {metrics['users']} {metrics.get('unit', 'users')}"
    if not is_known(low, high):
        return f"Test {metric_title(name)} went {change} ({'; '.join([*details, ALONE])})."
    interval = "; ".join([*details, f"{users}: {ends_in_words(low, high)}"])
    if not side_of_zero(low, high):
        return f"Test {metric_title(name)} went {change}, which is within noise ({interval})."
    return f"Test {metric_title(name)} {rose} {change} ({interval})."


def gain_in_words(gain: Mapping[str, Any] | None, unit: str = "users") -> str:
    """Return a sentence on the gain of the chosen weights on validation; empty without one.

    Args:
        gain: the paired bootstrap, as JSON.
        unit: what it is over, ``users`` or ``rows``.

    Example:
        >>> print(gain_in_words({"mean_difference": 0.001, "low": -0.002, "high": 0.004, "num_users": 900}))
        Its gain over the start is +0.0010 (95 % interval over 900 users: -0.0020 to +0.0040), within noise.
    """
    if gain is None:
        return ""
    low, high = gain["low"], gain["high"]
    if not is_known(low, high):
        return f"Its gain over the start is {gain['mean_difference']:+.4f} ({ALONE})."
    noise = "" if side_of_zero(low, high) else ", within noise"
    interval = f"95 % interval over {gain['num_users']} {unit}: {ends_in_words(low, high)}"
    return f"Its gain over the start is {gain['mean_difference']:+.4f} ({interval}){noise}."


def command_of(config: RunConfig) -> str:
    """The command that began a run, with the settings that differ from the defaults.

    Args:
        config: its ``config.json``.
    """
    command = config["command"]
    words = [f"refit {command}"]
    if command == REFIT:
        return " ".join([*words, "--run", shlex.quote(str(config.get("run")))])
    if config.get("data"):
        words += ["--data", str(config["data"])]
    elif config.get("env"):
        words += ["--env", config["env"]]
    for name in ("init", "seed", "num_steps", "eta", "algorithm", "preset"):
        value = config.get(name)
        if value is not None:
            words += [_option(name), str(value)]
    kwargs = config.get("env_kwargs") or {}
    words += [_option(name) for name in FLAGS if config.get(name) or kwargs.get(name)]
    words += _backbone_words(config)
    words += _reward_words(kwargs)
    for name, value in changed_settings(config).items():
        if isinstance(value, bool):
            words.append(_option(name if value else f"no_{name}"))
        elif isinstance(value, list):
            words += [_option(name), *map(str, value)] if value else []
        elif value is not None:
            words += [_option(name), str(value)]
    return " ".join(word if word.startswith("refit ") else shlex.quote(word) for word in words)


def changed_settings(config: RunConfig) -> dict[str, Any]:
    """Settings that are not those of the preset; all of them where defaults depend on data or on a file."""
    settings = config.get("agent") or config.get("pretrain") or {}
    name, preset = config.get("algorithm", "reinforce"), config.get("preset", "default")
    if config["command"] != FINE_TUNING or name not in ALGORITHMS:  # a user's file is not run for a report
        return dict(settings)
    known = settings_class(name).presets()
    if preset not in known:  # the data decided
        return dict(settings)
    usual = plain(known[preset])  # as JSON reads it
    return {name: value for name, value in settings.items() if usual.get(name) != value}


def _backbone_words(config: RunConfig) -> list[str]:
    """The options of pretraining that name the network."""
    options = dict(config.get("backbone") or {})
    name, words = options.pop("name", None), list[str]()
    words += ["--backbone", str(name)] if name else []
    words += ["--size", config["size"]] if config.get("size", "published") != "published" else []
    given = [f"{option}={json.dumps(value)}" for option, value in options.items()]
    return [*words, "--backbone-options", *given] if given else words


def _reward_words(kwargs: Mapping[str, Any]) -> list[str]:
    """The options of the reward."""
    words: list[str] = []
    reward = kwargs.get("reward")
    if isinstance(reward, Mapping):
        words += ["--reward", ",".join(f"{name}={weight:g}" for name, weight in reward.items())]
    elif reward is not None:
        words += ["--reward", str(reward)]
    if kwargs.get("relevance"):
        words += ["--relevance", str(kwargs["relevance"])]
    if kwargs.get("k", 20) != 20:
        words += ["--k", str(kwargs["k"])]
    for option in ("reward", "relevance"):
        options = kwargs.get(f"{option}_kwargs") or {}
        if options:
            given = (f"{name}={json.dumps(value)}" for name, value in options.items())
            words += [f"--{option}-options", *given]
    return words


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_same_data(runs: Sequence[Facts]) -> None:
    """Refuse runs on different data.

    Raises:
        RunError: naming two of them and their data.
    """
    first = runs[0]
    for other in runs[1:]:
        one, two = identity(first), identity(other)
        if one != two:
            raise RunError(
                f"{first.path} is on {describe(one)}, {other.path} on {describe(two)}: a report compares "
                "runs on the same data; make a report of each"
            )


def identity(facts: Facts) -> tuple[str, str]:
    """Name and fingerprint of a run's data; the environment's id where they are not recorded."""
    data = data_identity(facts.config)
    return data.name or facts.config["env"], data.fingerprint or ""


def describe(data: tuple[str, str]) -> str:
    """A data set in a message."""
    return f"{data[0]} {data[1][:12]}".strip()
