"""The studies that are part of the package, by name; nothing heavy is imported for them."""

from __future__ import annotations

from pathlib import Path

from refit_env.errors import unknown_name

FOLDER = Path(__file__).resolve().parent / "studies"
"""Their files."""


def shipped() -> dict[str, str]:
    """The shipped studies: name -> the sentence that their file begins with."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").rstrip(".")
        for path in sorted(FOLDER.glob("*.yml"))
    }


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
