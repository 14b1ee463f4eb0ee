"""Backbones in files and modules of a user: ``my_backbone.py:Tiny``, ``package.module:Tiny``."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from functools import partial
from typing import Any

from refit_env.backbones.base import Backbone
from refit_env.utils.user_code import absolute_place, classes_in, methods_fault, object_at, source_of

OWN = __name__.partition(".")[0] + "."
"""How the names of this package's modules begin."""


def user_backbone(name: str) -> type[Backbone]:
    """Return the backbone at a place; its ``name`` is then the place, with the absolute path of its file.

    Args:
        name: ``FILE.py:CLASS`` or ``package.module:CLASS``.

    Raises:
        ValueError: if there is no such file, module or class, it cannot be imported, or it is no backbone.
            The message is one line that names what was passed.
    """
    found: type[Backbone] = object_at("backbone", name, partial(classes_in, base=Backbone))
    fault = backbone_fault(found)
    if fault is not None:
        raise ValueError(f"backbone {name!r} {fault}")
    if not found.__module__.startswith(OWN) and "code" not in vars(found):
        found.name, found.code = absolute_place(name), source_of("backbone", name)
    return found


def backbone_fault(cls: Any) -> str | None:
    """Return what is wrong with a class that cannot be built, configured and loaded by its name, or None."""
    if not (inspect.isclass(cls) and issubclass(cls, Backbone)):
        return f"must be a subclass of refit_env.backbones.Backbone, got {cls!r}"
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        return f"must define {', '.join(missing)}"
    fault = methods_fault(cls, Backbone, {"predict_x0": 4, "elbo_loss": 4})
    if fault is not None:
        return f"has methods that cannot be called: {fault}"
    config = getattr(cls, "config_class", None)
    if not (inspect.isclass(config) and is_dataclass(config)):
        return f"must have a config_class that is a dataclass, got {config!r}"
    fields = inspect.signature(config).parameters.values()
    required = [field.name for field in fields if field.default is inspect.Parameter.empty]
    if required:
        return f"needs a default for {', '.join(required)} in its config_class"
    if not callable(getattr(config, "diffusion", None)):
        return (
            "needs a method diffusion() in its config_class, which returns the refit_env.diffusion.Diffusion "
            "of its training"
        )
    return None
