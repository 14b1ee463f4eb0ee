from __future__ import annotations

import math
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from msgspec import Meta

import agents
import agents.commands
from agents.cli import main
from agents.commands.options import as_typed
from refit_env.errors import SettingError
from refit_env.settings import Bounded, field_types

NEEDED: dict[str, Any] = {
    "user": "0",
    "name": "mine",
    "backbone": "diffrec",
    "origin": "diffrec",
    "steps": 1000,
    "sources": (Path("x"),),
    "reward": "ndcg",
}
"""Values of options that have no default; of others, a path."""


def modules() -> Iterator[Any]:
    for package in (agents, agents.commands):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield import_module(found.name)


def settings_classes() -> list[type[Bounded]]:
    list(modules())
    import_module("refit_env.data.recipe")
    import_module("refit_env.backbones")
    out: list[type[Bounded]] = []
    waiting: list[type[Bounded]] = [Bounded]
    while waiting:
        children = [c for c in waiting.pop().__subclasses__() if not c.__module__.startswith("tests")]
        waiting += children
        ours = [c for c in children if c.__module__.split(".")[0] in ("agents", "refit_env")]
        out += [c for c in ours if is_dataclass(c)]
    return sorted(out, key=lambda cls: cls.__name__)


def leaves(hint: Any, notes: tuple[Any, ...] = ()) -> Iterator[tuple[type, list[Meta]]]:
    """The numbers that a field's type allows, with their bounds; mappings are no options."""
    if hint in (int, float):
        yield hint, [note for note in notes if isinstance(note, Meta)]
    elif get_origin(hint) is Annotated:
        yield from leaves(get_args(hint)[0], notes + tuple(hint.__metadata__))
    elif get_origin(hint) is not Mapping:
        for part in get_args(hint):
            yield from leaves(part)


def numbers() -> Iterator[Any]:
    for cls in settings_classes():
        for name, hint in field_types(cls).items():
            for kind, bounds in leaves(hint):
                yield pytest.param(cls, name, hint, kind, bounds, id=f"{cls.__name__}.{name}")


def example(cls: Any) -> Any:
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return cls(**{name: NEEDED.get(name, Path("x")) for name in needed})


@pytest.mark.parametrize(("cls", "name", "hint", "kind", "bounds"), list(numbers()))
def test_every_number_has_bounds_and_refuses_values_outside(
    cls: type[Bounded], name: str, hint: Any, kind: type, bounds: list[Meta]
) -> None:
    low = [meta for meta in bounds if meta.ge is not None or meta.gt is not None]
    assert low, f"{cls.__name__}.{name} has no lower bound"
    wrong: list[Any] = [math.nan, math.inf, -math.inf, "1", True]
    for meta in bounds:
        wrong += [meta.ge - 1] if meta.ge is not None else []
        wrong += [meta.gt] if meta.gt is not None else []
        wrong += [meta.le + 1] if meta.le is not None else []
        wrong += [meta.lt] if meta.lt is not None else []
    wrong += [0.5] if kind is int else []
    made: Any = example(cls)
    for value in wrong:
        with pytest.raises(SettingError) as refused:
            replace(made, **{name: (value,) if isinstance(getattr(made, name), tuple) else value})
        assert refused.value.setting == name and repr(value) in str(refused.value)


def test_every_settings_class_is_checked() -> None:
    known = settings_classes()
    assert len(known) >= 20
    for module in modules():
        for thing in vars(module).values():
            if isinstance(thing, type) and is_dataclass(thing) and thing.__module__ == module.__name__:
                settings = thing.__name__.endswith("Config") or hasattr(thing, "run")
                numeric = any(True for hint in field_types(thing).values() for _ in leaves(hint))
                assert not (settings and numeric) or thing in known, thing


ENV = ["--env", "ReFiT-Synthetic-v0"]
TUNE = ["finetune", "--init", "x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TUNE, "--max-grad-norm", "-0.001"], "--max-grad-norm must be >= 0 (0: no limit), found -0.001"),
        ([*TUNE, "--kl-weight", "-5"], "--kl-weight must be >= 0"),
        ([*TUNE, "--iterations", "-1"], "--iterations must be >= 0"),
        ([*TUNE, "--eval-every", "-1"], "--eval-every must be >= 1"),
        ([*TUNE, "--blends", "100000000"], "--blends must be >= 0 and <= 1000"),
        ([*TUNE, "--k=0"], "--k must be >= 1"),
        ([*TUNE, "--estimator", "scor"], "--estimator must be one of"),
        ([*TUNE, "--algorithm", "es", "--samples_per_user=3"], "--samples_per_user must be even, found 3"),
        (["pretrain", *ENV, "--eval-every", "0"], "--eval-every must be >= 1"),
        (["pretrain", *ENV, "--users-per-batch", "0"], "--users-per-batch must be >= 1"),
        (["pretrain", *ENV, "--learning-rate", "nan"], "--learning-rate must be a number >= 0"),
        (["pretrain", *ENV, "--seed", "-1"], "--seed must be >= 0"),
        (["pretrain", *ENV, "--backbone-options", "dropout=7"],
         "--backbone-options dropout must be >= 0 and < 1, found 7"),
        (["pretrain", *ENV, "--backbone-options", "hidden=200"], "--backbone-options hidden must be a list"),
        (["pretrain", *ENV, "--device", "tpu"], "--device must be one that torch"),
        (["pretrain", *ENV, "--select", "ndcg@2"], "--select must name metrics among"),
        (["demo", "--agent.eval-every", "0"], "--agent.eval-every must be >= 1"),
        (["demo", "--agent.select", "zz"], "--agent.select must read METRIC"),
        (["demo", "--pretrain.epochs", "3", "--agent.select=zz", "--pretrain.select", "ndcg@10"],
         "--agent.select must read METRIC"),
        (["demo", "--pretrain.eval-every", "2", "--agent.eval-every", "0"], "--agent.eval-every must be"),
        (["demo", "--device", "tpu"], "--device must be one that torch"),
        (["data", "synthesize", "--users", "1000000000"], "--users must be >= 1 and <= 1000000"),
        (["data", "synthesize", "--users", "1", "--items", "3", "--clusters", "1"],
         "--items must be >= 18 and <= 100000, found 3"),
        (["data", "synthesize", "--items", "20"], "--items must be >= 24, 3 a cluster, found 20"),
        (["data", "prepare", "mine", "--source", "x", "--k-core", "-2"], "--k-core must be >= 0"),
    ],
)  # fmt: skip
def test_an_option_out_of_bounds_is_named_and_nothing_is_made(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", str(tmp_path / "new")]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"refit: error: {message}") and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


def test_the_option_is_named_as_it_was_typed() -> None:
    error = SettingError("eval_every", "must be >= 1, found 0")
    for typed, named in (
        (["--eval_every=0"], "--eval_every"),
        (["--agent.eval-every", "0"], "--agent.eval-every"),
        ([], "--eval-every"),
    ):
        assert str(as_typed(error, typed)) == f"{named} must be >= 1, found 0"


def test_control_characters_of_words_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "\x1b[31mred\u202e"]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out + err and r"\x1b[31mred" in out + err
