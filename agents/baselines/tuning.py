"""Settings of a baseline that validation chooses, by few trials of Optuna and a budget of minutes.

The first trial uses the defaults. Each trial is a fit to the train items and one validation; the trials
are stored in a JSON file, from which the same call continues. It needs the extra ``tune``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta

from agents.baselines.base import make_config
from agents.baselines.evaluating import evaluate_baseline
from agents.baselines.registry import baseline
from refit_env.data.dataset import Dataset
from refit_env.errors import DataError, MissingExtraError, SettingError
from refit_env.evaluation.ranking import selecting_rule
from refit_env.evaluation.selection import UNMET, Rule, RuleText
from refit_env.settings import Bounded, Seed
from refit_env.utils.atomic_io import read_record, write_json

SPACES = Path(__file__).with_name("spaces.yml")
"""The search space by baseline."""
RANDOM = 6
"""Trials that are drawn at random before earlier ones guide the rest."""
LARGEST = 2**24
"""Bytes of the largest record that is read."""


@dataclass(frozen=True)
class TuningConfig(Bounded):
    """The budget of a search."""

    trials: Annotated[int, Meta(ge=1, le=10_000)] = 20
    """Most trials, those of earlier calls included."""
    minutes: Annotated[float, Meta(gt=0, le=100_000)] = 60.0
    """Processor minutes of all trials, earlier calls included, after which no trial begins."""
    seed: Seed = 0
    """Seed of the search and of the fits."""
    select: RuleText = "ndcg@20"
    """The rule by which validation selects: a metric, or one with conditions (``start``: the first trial)."""


class Span(msgspec.Struct, forbid_unknown_fields=True):
    """A range of a number."""

    between: tuple[int | float, int | float]
    log: bool = False


Space = dict[str, list[Any] | Span]
"""Field -> values or range to search."""


class Trial(msgspec.Struct, forbid_unknown_fields=True):
    """One fit: its score by the rule, None where the fit was refused for the reason ``error``."""

    settings: dict[str, Any]
    value: float | None
    seconds: float
    chosen: dict[str, Any] = {}
    error: str = ""
    valid: dict[str, float] = {}
    """Its validation metrics."""


class TuningRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The settings of a search, and its trials."""

    baseline: str
    dataset: str
    fingerprint: str
    seed: int
    metric: str
    space: dict[str, Any]
    trials: list[Trial] = []
    fixed: dict[str, Any] = {}
    """Settings of all trials, which are not searched."""

    @property
    def start(self) -> dict[str, float]:
        """The validation metrics of the first trial that was fitted; empty without one."""
        return next((trial.valid for trial in self.trials if trial.valid), {})

    @property
    def best(self) -> Trial:
        """The trial with the best value, the first of equals.

        Raises:
            ValueError: if none has one.
        """
        done = [trial for trial in self.trials if trial.value is not None]
        if not done:
            reasons = "; ".join(dict.fromkeys(trial.error for trial in self.trials))
            raise ValueError(f"no trial of baseline {self.baseline!r} could be fitted: {reasons}")
        return max(done, key=lambda trial: trial.value if trial.value is not None else UNMET)

    @property
    def minutes(self) -> float:
        """Processor minutes of all trials."""
        return sum(trial.seconds for trial in self.trials) / 60


def tune_baseline(
    dataset: Dataset,
    name: str,
    path: Path | str,
    config: TuningConfig | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    callback: Callable[[Trial], None] | None = None,
) -> TuningRecord:
    """Search a baseline's settings on validation.

    Args:
        dataset: its train split is fitted, its valid split selects; its test split is not read.
        name: the baseline's.
        path: JSON file of the trials; an existing search is continued.
        config: the budget.
        space: field -> values or range, as in ``spaces.yml``; None uses that file's.
        fixed: settings of all trials, such as a smaller number of epochs; they are not searched.
        device: of the fits.
        callback: called after each trial.

    Returns:
        What was tried; its ``best`` holds the settings.

    Raises:
        ValueError: for an unknown name or field, or a data set that the baseline is not for; without Optuna,
            naming the extra.
        DataError: if the file is damaged, or belongs to another search.
    """
    config = config if config is not None else TuningConfig()
    kind = baseline(name)
    if fault := kind.fault(dataset):
        raise ValueError(f"baseline {name!r} {fault}")
    optuna = load_optuna()
    plain = _space_of(name) if space is None else dict(space)
    kept = dict(fixed or {})
    plain = {field: values for field, values in plain.items() if field not in kept}
    searched = msgspec.convert(plain, Space)
    rule = selecting_rule(config.select, dataset)
    known = name, dataset.name, dataset.fingerprint, config.seed, str(rule), plain
    record = TuningRecord(*known, fixed=kept)
    defaults = asdict(make_config(kind.config_class, name, kept))
    for field in searched:
        make_config(kind.config_class, name, {field: defaults.get(field)})  # refuses an unknown one
    record = _begun(Path(path), record)
    most = config.trials if searched else 1
    while len(record.trials) < most and record.minutes < config.minutes:
        settings = kept | _next(optuna, searched, defaults, record.trials, config.seed)
        record.trials.append(_tried(dataset, name, settings, config.seed, rule, device, record.start))
        write_json(path, msgspec.to_builtins(record))
        if callback is not None:
            callback(record.trials[-1])
    return record


def _space_of(name: str) -> dict[str, Any]:
    """Return the space of a baseline in ``spaces.yml``, which has none for a user's own baseline."""
    spaces: dict[str, dict[str, Any]] = msgspec.yaml.decode(SPACES.read_bytes())
    return spaces.get(name, {})


def _begun(path: Path, record: TuningRecord) -> TuningRecord:
    """Read the record in the file, if there is one.

    Raises:
        DataError: if it is of another search.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return record
    found = read_record(path, TuningRecord, error=DataError, limit=LARGEST)
    for field in ("baseline", "fingerprint", "seed", "metric", "fixed", "space"):
        ours, theirs = msgspec.to_builtins(getattr(record, field)), getattr(found, field)
        if ours != theirs:
            if field == "fingerprint":
                what = f"on other data, {found.dataset!r}"
            else:
                what = f"with another {field} ({theirs!r}, now {ours!r})"
            raise DataError(f"{path} holds a search {what}: name another folder")
    return found


def _next(
    optuna: Any, space: Space, defaults: Mapping[str, Any], done: Sequence[Trial], seed: int
) -> dict[str, Any]:
    """Return the settings of the next trial, which depend only on the earlier trials and the seed."""
    if not done:
        return {}
    # One sampler per trial, so that a continued search draws the same as an uninterrupted one.
    sampler = optuna.samplers.TPESampler(seed=seed + len(done), n_startup_trials=RANDOM)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    ranges = {field: _distribution(optuna, values) for field, values in space.items()}
    for trial in done:
        params = {field: trial.settings.get(field, defaults[field]) for field in space}
        if not all(_holds(values, params[field]) for field, values in space.items()):
            continue  # the defaults may be outside of the space
        state = optuna.trial.TrialState.COMPLETE if trial.value is not None else optuna.trial.TrialState.FAIL
        made = optuna.trial.create_trial(params=params, distributions=ranges, value=trial.value, state=state)
        study.add_trial(made)
    return dict(study.ask(ranges).params)


def load_optuna() -> ModuleType:
    """Return Optuna, with its logging turned off.

    Raises:
        MissingExtraError: without it.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("a search of settings", "Optuna", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    module: ModuleType = optuna
    return module


def _distribution(optuna: Any, values: list[Any] | Span) -> Any:
    """Return Optuna's distribution of a field."""
    if isinstance(values, list):
        return optuna.distributions.CategoricalDistribution(values)
    low, high = values.between
    if _whole(values):
        return optuna.distributions.IntDistribution(int(low), int(high), log=values.log)
    return optuna.distributions.FloatDistribution(low, high, log=values.log)


def _whole(span: Span) -> bool:
    """Return whether a range has whole numbers: ``1`` in YAML, not ``1.0``."""
    return all(isinstance(end, int) for end in span.between)


def _holds(values: list[Any] | Span, value: Any) -> bool:
    """Return whether a value is in the search space."""
    if isinstance(values, list):
        return value in values
    return bool(values.between[0] <= value <= values.between[1])


def _tried(
    dataset: Dataset,
    name: str,
    settings: dict[str, Any],
    seed: int,
    rule: Rule,
    device: torch.device | str,
    start: Mapping[str, float],
) -> Trial:
    """Fit and validate."""
    begin = time.process_time()
    try:
        _, report = evaluate_baseline(dataset, name, settings, seed, "valid", device=device, names=rule.names)
    except SettingError:
        raise  # the space itself is wrong
    except ValueError as error:
        return Trial(settings, None, time.process_time() - begin, error=str(error))
    seconds = time.process_time() - begin
    means = report["metrics"]
    score = rule.score(means, start or means)
    return Trial(settings, score, seconds, report["chosen"], valid=means)
