"""The baselines by name, one file each; a file is imported when its baseline is made."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from agents.baselines.base import ROWS, SETS, TASKS, Baseline
from refit_env.data.dataset import Dataset
from refit_env.errors import unknown_name

BASELINES: dict[str, str] = {
    "bspm": "agents.baselines.bspm:BSPM",
    "cfgan": "agents.baselines.cfgan:CFGAN",
    "diffnet": "agents.baselines.diffnet:DiffNet",
    "ease": "agents.baselines.reward_models:EaseBaseline",
    "fcpo": "agents.baselines.fcpo:FCPO",
    "fpmc": "agents.baselines.fpmc:FPMC",
    "gf-cf": "agents.baselines.reward_models:GraphFilterBaseline",
    "gru4rec": "agents.baselines.gru4rec:GRU4Rec",
    "ials": "agents.baselines.ials:ImplicitALS",
    "item-knn": "agents.baselines.item_knn:ItemKNN",
    "lightgcn": "agents.baselines.lightgcn:LightGCN",
    "markov": "agents.baselines.markov:Markov",
    "mhcn": "agents.baselines.mhcn:MHCN",
    "mf-bpr": "agents.baselines.mf_bpr:MatrixFactorization",
    "most-visited": "agents.baselines.places:MostVisited",
    "mult-dae": "agents.baselines.multdae:MultDAE",
    "mult-vae": "agents.baselines.multvae:MultVAE",
    "nearest": "agents.baselines.places:Nearest",
    "ngcf": "agents.baselines.ngcf:NGCF",
    "nicf": "agents.baselines.nicf:NICF",
    "popularity": "agents.baselines.popularity:Popularity",
    "recvae": "agents.baselines.recvae:RecVAE",
    "rp3beta": "agents.baselines.rp3beta:RP3Beta",
    "sasrec": "agents.baselines.sasrec:SASRec",
    "sgl": "agents.baselines.sgl:SGL",
    "simplex": "agents.baselines.simplex:SimpleX",
    "slim": "agents.baselines.slim:Slim",
    "user-knn": "agents.baselines.user_knn:UserKNN",
    "xsimgcl": "agents.baselines.xsimgcl:XSimGCL",
}
"""Name -> ``module:class``."""

_OWN: dict[str, type[Baseline]] = {}
BaselineClass = TypeVar("BaselineClass", bound=type[Baseline])


def register_baseline(name: str) -> Callable[[BaselineClass], BaselineClass]:
    """Register a ``Baseline`` subclass of one's own under a name, as a class decorator.

    Raises:
        ValueError: if the name is taken.
    """

    def add(cls: BaselineClass) -> BaselineClass:
        if name in BASELINES or name in _OWN:
            raise ValueError(f"baseline {name!r} is registered already")
        cls.name = name
        _OWN[name] = cls
        return cls

    return add


def baseline(name: str) -> type[Baseline]:
    """Return the class of a baseline.

    Raises:
        ValueError: for an unknown name, with a did-you-mean.

    Example:
        >>> baseline("popularity").name
        'popularity'
    """
    if name in _OWN:
        return _OWN[name]
    if name not in BASELINES:
        raise unknown_name("baseline", name, [*BASELINES, *_OWN])
    module, _, cls = BASELINES[name].partition(":")
    found: type[Baseline] = getattr(import_module(module), cls)
    return found


def names(task: str | None = None) -> list[str]:
    """Return the names of the baselines, sorted: all, or those for data sets of a task.

    Args:
        task: ``"cf"``, ``"sequential"``, ``"social"`` or ``"poi"``; None for all. A check-in set may have
            order or not, so ``"poi"`` lists the baselines for either; ``names_for`` knows the data set.

    Raises:
        ValueError: for an unknown task, with a did-you-mean.

    Example:
        >>> "popularity" in names(), "rp3beta" in names("sequential")
        (True, False)
    """
    everything = sorted([*BASELINES, *_OWN])
    if task is None:
        return everything
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    forms = {"sequential": {ROWS}, "poi": {SETS, ROWS}}.get(task, {SETS})
    needs = {"social": {"", "social"}, "poi": {"", "coordinates"}}.get(task, {""})

    def suits(cls: type[Baseline]) -> bool:
        return (bool(forms & set(cls.forms)) or (cls.ordered and SETS in forms)) and cls.needs in needs

    return [name for name in everything if suits(baseline(name))]


def names_for(dataset: Dataset) -> list[str]:
    """Return the names of the baselines that take a data set, sorted.

    Example:
        >>> from refit_env.data import load_dataset
        >>> "ease" in names_for(load_dataset("synthetic"))
        True
    """
    return [name for name in names() if baseline(name).fault(dataset) is None]
