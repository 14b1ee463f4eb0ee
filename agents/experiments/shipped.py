"""The studies that are part of the package, by name; nothing heavy is imported for them."""

from __future__ import annotations

from pathlib import Path

from agents.hyperparams.yaml_files import read_yaml
from refit_env.errors import DataError, did_you_mean, unknown_name
from refit_env.utils.text import shown

FOLDER = Path(__file__).resolve().parent / "studies"
"""Their files."""
VARIANTS, FRONTIER = "variants", "frontier"
"""Kinds of studies: of variants of models (the usual one); of fronts of two objectives."""


def shipped() -> dict[str, str]:
    """The shipped studies: name -> the sentence that their file begins with."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").rstrip(".")
        for path in sorted(FOLDER.glob("*.yml"))
    }


def kind_of(path: Path) -> str:
    """Return the kind of a study: ``frontier`` where its file says so, else ``variants``."""
    kind = read_yaml(path).get("kind", VARIANTS)
    if kind not in (VARIANTS, FRONTIER):
        hint = did_you_mean(kind, (VARIANTS, FRONTIER))
        raise DataError(f"{path}: kind must be {VARIANTS} or {FRONTIER}; found {shown(kind)}.{hint}")
    return str(kind)


def shipped_of(kind: str) -> list[str]:
    """Return the names of the shipped studies of a kind."""
    return [name for name in shipped() if kind_of(FOLDER / f"{name}.yml") == kind]


def study_path(name: str) -> Path:
    """The file of a study: a shipped one's, or a path that the user typed.

    Raises:
        ValueError: for a name that is neither, with a did-you-mean.
    """
    if name in shipped():
        return FOLDER / f"{name}.yml"
    path = Path(name)
    if path.suffix in (".yml", ".yaml"):
        return path
    raise ValueError(f"{unknown_name('study', name, shipped())} Or a file that ends in .yml.")
