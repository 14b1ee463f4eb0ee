"""The settings of a reward's class, with those that it passes on to the class that it extends."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, get_type_hints

from refit_env.rewards.base import Reward


@dataclass(frozen=True)
class Setting:
    """A keyword argument of a reward's constructor."""

    type: Any
    """Its annotation; ``Any`` where a user's class states none."""
    default: Any
    """Its default; ``inspect.Parameter.empty`` where it has none."""
    of: type
    """The class whose constructor has it."""


def settings_of(cls: type[Reward]) -> dict[str, Setting]:
    """Return the settings of a reward by name: its own, then those that its ``**name`` passes on.

    Of its own constructor all arguments after the context are settings; of a class that it extends, those
    that are keyword-only.

    Example:
        >>> from refit_env.rewards.racs_ndcg import RacsNdcg
        >>> {name: setting.of.__name__ for name, setting in settings_of(RacsNdcg).items()}["alpha"]
        'CollaborativeReward'
    """
    found: dict[str, Setting] = {}
    kinds = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    for owner in [one for one in cls.__mro__ if "__init__" in vars(one)]:
        parameters, types = (
            list(inspect.signature(vars(owner)["__init__"]).parameters.values()),
            _types(owner),
        )
        for p in parameters[2:]:  # after self and the context
            if p.kind in kinds:
                found.setdefault(p.name, Setting(types.get(p.name, Any), p.default, owner))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        kinds = {inspect.Parameter.KEYWORD_ONLY}
    return found


def _types(owner: type) -> dict[str, Any]:
    """The annotations of a constructor; none where a user's names are not known."""
    try:
        return get_type_hints(vars(owner)["__init__"])
    except (NameError, TypeError):
        return {}
