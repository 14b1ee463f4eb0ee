"""Studies as data: read from YAML, and what is wrong in the file is one line.

The shipped ones are in ``agents/experiments/studies``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from agents.experiments.columns import COLUMNS, METRICS
from agents.experiments.spec import BASELINE, MAKES, PRETRAIN, TABLES, Also, Place, Published, Table, Variant
from agents.hyperparams.models import Budget, Model, make_model, models_of
from agents.hyperparams.yaml_files import check_name, listed, mapping, read_yaml, settings
from refit_env.errors import DataError, did_you_mean, unknown_name
from refit_env.registration import entry
from refit_env.settings import LARGEST_SEED, OneOf
from refit_env.utils.text import shown

ALL, DEFAULT = "all", "default"
"""Which models of an environment a study has: all that it has, or its default one."""


@dataclass(frozen=True)
class Study:
    """A study: variants of models on environments, for several seeds."""

    name: str
    """Stem of its file."""
    path: Path
    """The file."""
    title: str
    """Title of its report."""
    split: Annotated[str, OneOf(("test", "valid"))]
    """What is measured; a search is a study on ``valid`` and reads no test item."""
    variants: tuple[Variant, ...]
    """Variants that every environment has."""
    tables: tuple[Table, ...]
    """Tables of its report."""
    environments: Mapping[str, Mapping[str, Any]]
    """Environment -> what differs there: ``models``, ``variants``, ``seeds``, ``budget``."""
    models: str | tuple[str, ...] = DEFAULT
    """``default``, ``all``, or names."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of an environment that states none of its own."""
    budget: Budget | None = None
    """Budget of an environment that states none of its own."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Fields of variants that environments add, where those leave them out."""
    per_user: tuple[str, ...] = ("ndcg@20", "recall@20")
    """Metrics that records hold user by user, for paired intervals."""
    also: tuple[Also, ...] = ()
    """Rows of other studies."""
    published: tuple[Published, ...] = ()
    """Figures of others that rows are beside."""
    figure: bool = False
    """Whether learning curves are drawn."""
    note: str = ""
    """What a reader of its tables must know besides."""

    def place(self, env_id: str) -> Place:
        """What the study does on an environment, be it one of its own or another that has data.

        Raises:
            ValueError: for an unknown environment, or one without data.
            DataError: for what is wrong in the file.
        """
        row = entry(env_id)
        if row.dataset is None:
            raise ValueError(f"{env_id} has no data set of its own; a study needs an id that has one")
        where = f"{self.path}: environments, {env_id}"
        own = mapping(self.environments.get(env_id), where, ("models", "variants", "seeds", "budget"))
        variants = _variants_there(own.get("variants"), self, f"{where}, variants")
        seeds = _seeds(own["seeds"], f"{where}, seeds") if "seeds" in own else self.seeds
        budget = self.budget
        if own.get("budget") is not None:
            merged = {f.name: getattr(budget, f.name) for f in fields(Budget)} if budget is not None else {}
            merged |= mapping(own["budget"], f"{where}, budget")
            budget = settings(Budget, merged, f"{where}, budget")
        models = _models_there(own.get("models", self.models), env_id, f"{where}, models")
        _check_models(variants, models, where)
        if not variants:
            raise ValueError(
                f"{self.name} has no variants for {env_id}: {self.path} states them by environment"
            )
        return Place(models, variants, seeds, budget)


_KNOWN = (
    "title", "split", "seeds", "models", "budget", "per_user", "template", "variants", "environments", "also",
    "published", "tables", "figure", "note",
)  # fmt: skip


def read_study(path: Path) -> Study:
    """Read a study.

    Raises:
        DataError: for what is wrong in the file: one line that names the file, the entry, and what would be
        right.
    """
    where, found = str(path), mapping(read_yaml(path), str(path), _KNOWN)
    variants = _variants(found.pop("variants", None), {}, f"{where}: variants")
    listed_tables = listed(found.pop("tables", None) or [], f"{where}: tables")
    tables = [_table(value, f"{where}: tables, {n + 1}") for n, value in enumerate(listed_tables)]
    for name in ("title", "note"):
        if not isinstance(found.get(name, ""), str):
            raise DataError(f"{where}: {name} must be a text, found {shown(found[name])}")
    environments = mapping(found.pop("environments", None), f"{where}: environments")
    for env_id in environments:
        try:
            entry(env_id)
        except ValueError as error:
            raise DataError(f"{where}: environments: {error}") from None
    made: dict[str, Any] = {"title": found.pop("title", path.stem), "split": found.pop("split", "test")}
    if "seeds" in found:
        made["seeds"] = _seeds(found.pop("seeds"), f"{where}: seeds")
    if (budget := found.pop("budget", None)) is not None:
        made["budget"] = settings(Budget, budget, f"{where}: budget")
    if "per_user" in found:
        made["per_user"] = tuple(listed(found.pop("per_user"), f"{where}: per_user"))
    others = listed(found.pop("also", None) or [], f"{where}: also")
    made["also"] = tuple(_also(value, f"{where}: also, {n + 1}") for n, value in enumerate(others))
    beside = listed(found.pop("published", None) or [], f"{where}: published")
    made["published"] = tuple(
        _published(value, f"{where}: published, {n + 1}") for n, value in enumerate(beside)
    )
    if not isinstance(found.get("figure", False), bool):
        raise DataError(f"{where}: figure must be true or false, found {shown(found['figure'])}")
    made["template"] = mapping(
        found.pop("template", None), f"{where}: template", Variant.__dataclass_fields__
    )
    models = found.pop("models", DEFAULT)
    made["models"] = models if isinstance(models, str) else tuple(listed(models, f"{where}: models"))
    study = Study(
        name=path.stem,
        path=path,
        variants=variants,
        tables=tuple(tables),
        environments=environments,
        **made,
        **found,
    )
    _check(study, where)
    return study


def _check(study: Study, where: str) -> None:
    """Refuse names that nothing has."""
    for name, value, known in (
        ("split", study.split, ("test", "valid")),
        *(("per_user", metric, METRICS) for metric in study.per_user),
    ):
        if value not in known:
            hint = did_you_mean(value, known)
            raise DataError(f"{where}: {name} must be one of {', '.join(known)}; found {shown(value)}.{hint}")
    keys = {variant.key for variant in study.variants}
    for env_id in study.environments:
        keys |= {variant.key for variant in study.place(env_id).variants}
    for n, table in enumerate(study.tables):
        for key in (key for pair in table.pairs for key in pair):
            if key not in keys:
                raise DataError(f"{where}: tables, {n + 1}, pairs: {unknown_name('variant', key, keys)}")


def _variants(value: Any, template: Mapping[str, Any], where: str) -> tuple[Variant, ...]:
    """The variants of a mapping from keys to their fields."""
    known = [f.name for f in fields(Variant) if f.name != "key"]
    out = []
    for key, body in mapping(value, where).items():
        check_name(key, where)
        given = {**template, **mapping(body, f"{where}, {key}", known)}
        for name in ("settings", "env"):
            given[name] = mapping(given.get(name), f"{where}, {key}, {name}")
        given["models"] = tuple(listed(given.get("models", []), f"{where}, {key}, models"))
        given.setdefault("title", key)
        if "make" not in given:
            raise DataError(f"{where}, {key}: make must be one of {', '.join(MAKES)}; it is not stated")
        out.append(settings(Variant, given, f"{where}, {key}", key=key))
    return tuple(out)


def _variants_there(value: Any, study: Study, where: str) -> tuple[Variant, ...]:
    """An environment's variants: all of the study's, those named in a list, or more in a mapping."""
    variants = study.variants
    if isinstance(value, list):
        known = {variant.key: variant for variant in variants}
        for key in value:
            if key not in known:
                raise DataError(f"{where}: {unknown_name('variant', key, known)}")
        variants = tuple(variant for variant in variants if variant.key in value)
    elif value is not None:
        added = _variants(value, study.template, where)
        variants = tuple(v for v in variants if v.key not in {a.key for a in added}) + added
    before: set[str] = set()
    everything = [variant.key for variant in variants]
    for variant in variants:
        for need in (*variant.needs(), *filter(None, [variant.settings_of])):
            if need not in everything:
                raise DataError(f"{where}, {variant.key}: {unknown_name('variant', need, everything)}")
            if need not in before:
                raise DataError(f"{where}, {variant.key}: {need!r}, which it needs, must come before it")
        if not variant.parent and variant.make not in (PRETRAIN, BASELINE):
            raise DataError(f"{where}, {variant.key}: parent must name the variant that it begins from")
        if variant.refit and (variant.make not in (BASELINE, PRETRAIN) or study.split == "valid"):
            what = "refit is for baselines and pretraining that are measured on test"
            raise DataError(f"{where}, {variant.key}: {what}")
        before.add(variant.key)
    return variants


def _models_there(value: Any, env_id: str, where: str) -> dict[str, Model]:
    """An environment's models: its default one, all, those named in a list, or those of a mapping."""
    known = models_of(env_id)
    if isinstance(value, Mapping):
        place = mapping(value, where)
        return {name: _made_here(name, body, f"{where}, {name}", env_id) for name, body in place.items()}
    if isinstance(value, str):
        if value not in (ALL, DEFAULT):
            raise DataError(f"{where}: must be {ALL}, {DEFAULT}, a list or a mapping; found {shown(value)}")
        return known if value == ALL else dict([next(iter(known.items()))])
    for name in value:
        if name not in known:
            raise DataError(f"{where}: {unknown_name(f'model of {env_id}', name, known)}")
    return {name: model for name, model in known.items() if name in value}


def _made_here(name: str, value: Any, where: str, env_id: str) -> Model:
    """A model of a study's own; ``like`` names the model of the environment that it changes."""
    row, body, known = entry(env_id), mapping(value, where), models_of(env_id)
    like = body.pop("like", None)
    if not isinstance(like, str | None):
        raise DataError(f"{where}, like: must be the name of a model; found {shown(like)}")
    if like is not None and like not in known:
        raise DataError(f"{where}, like: {unknown_name(f'model of {env_id}', like, known)}")
    start = None if like is None else known[like]
    return make_model(name, body, where, row.dataset or "", row.backbone, start)


def _check_models(variants: tuple[Variant, ...], models: Mapping[str, Model], where: str) -> None:
    """Refuse variants of models that are not there."""
    for variant in variants:
        for name in variant.models:
            if name not in models:
                raise DataError(f"{where}, variants, {variant.key}: {unknown_name('model', name, models)}")


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    """Seeds from 0, or a list of them."""
    found = list(range(value)) if type(value) is int and 1 <= value <= 1000 else value
    good = isinstance(found, list) and found and all(type(s) is int and 0 <= s <= LARGEST_SEED for s in found)
    if not good or len(set(found)) < len(found):
        raise DataError(f"{where}: must be a number from 1 to 1000 or a list of seeds, found {shown(value)}")
    return tuple(found)


def _table(value: Any, where: str) -> Table:
    """A table from a mapping."""
    body = mapping(value, where, Table.__dataclass_fields__)
    body["columns"] = tuple(listed(body.get("columns", []), f"{where}, columns"))
    for name in body["columns"]:
        if name not in COLUMNS:
            raise DataError(f"{where}, columns: {unknown_name('column', name, COLUMNS)}")
    body["pairs"] = tuple(
        _pair(value, f"{where}, pairs, {n + 1}")
        for n, value in enumerate(listed(body.get("pairs", []), f"{where}, pairs"))
    )
    if body.get("kind") not in TABLES:
        raise DataError(f"{where}: kind must be one of {', '.join(TABLES)}; found {shown(body.get('kind'))}")
    return settings(Table, body, where)


def _pair(value: Any, where: str) -> tuple[str, str]:
    """Two keys of variants."""
    found = listed(value, where)
    if len(found) != 2 or not all(isinstance(key, str) for key in found):
        raise DataError(f"{where}: must be a list of two variants, found {shown(value)}")
    return found[0], found[1]


def _also(value: Any, where: str) -> Also:
    """Rows of another study from a mapping."""
    body = mapping(value, where, Also.__dataclass_fields__)
    for name in Also.__dataclass_fields__:
        if name not in body:
            raise DataError(f"{where}: {name} is not stated")
    body["variants"] = mapping(body["variants"], f"{where}, variants")
    return settings(Also, body, where)


def _published(value: Any, where: str) -> Published:
    """A published figure from a mapping."""
    body = mapping(value, where, Published.__dataclass_fields__)
    for name in ("title", "environment", "variant", "source"):
        if name not in body:
            raise DataError(f"{where}: {name} is not stated")
    body["figures"] = mapping(body.get("figures"), f"{where}, figures", METRICS)
    return settings(Published, body, where)


def with_budget(study: Study, steps: int) -> Study:
    """The study with another budget of environment steps everywhere.

    Raises:
        ValueError: if the study has none.
    """
    if study.budget is None:
        raise ValueError(
            f"{study.name} has no budget of environment steps: its variants state their iterations"
        )
    budget = replace(study.budget, steps=steps)
    places = {
        env: {name: part for name, part in (own or {}).items() if name != "budget"}
        for env, own in study.environments.items()
    }
    return replace(study, budget=budget, environments=places)
