"""Errors whose messages state what was wrong and what would be right."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class DataError(ValueError):
    """A data file or folder breaks a rule; the message names file, row and rule."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or was made for another model, data set or version."""


class SettingError(ValueError):
    """A setting is out of its bounds; the message names it.

    Attributes:
        setting: the field's name.
        fault: what is wrong with it, and what would be right.
    """

    def __init__(self, setting: str, fault: str) -> None:
        """Store both; they are also the arguments of the base class, so that the error can be pickled."""
        super().__init__(setting, fault)
        self.setting, self.fault = setting, fault

    def __str__(self) -> str:
        """Return the name, then the fault.

        Example:
            >>> str(SettingError("epochs", "must be >= 1, found 0"))
            'epochs must be >= 1, found 0'
        """
        return f"{self.setting} {self.fault}"


@contextmanager
def settings_in(argument: str, among: Container[str] | None = None) -> Iterator[None]:
    """Return a context in which an error of a setting also names the argument that holds it.

    Args:
        argument: for example ``reward_kwargs``.
        among: settings that it holds; errors of others stay as they are. None: it holds all.

    Raises:
        SettingError: of the argument.

    Example:
        >>> with settings_in("reward_kwargs"):
        ...     raise SettingError("alpha", "must be >= 0, found -1")
        Traceback (most recent call last):
            ...
        refit_env.errors.SettingError: reward_kwargs alpha must be >= 0, found -1
    """
    try:
        yield
    except SettingError as error:
        if among is not None and error.setting not in among:
            raise
        raise SettingError(argument, str(error)) from error


class MissingExtraError(ValueError, ImportError):
    """A package that only an extra installs is not there; the message names the extra."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        """State what needs a package, and how the extra is installed.

        Example:
            >>> print(MissingExtraError("--engine ray", "Ray", "ray"))
            --engine ray needs Ray, which is not installed: pip install 'refit-env[ray]'
        """
        super().__init__(f"{what} needs {package}, which is not installed: pip install 'refit-env[{extra}]'")


class ReturnedError(ValueError, TypeError):
    """A user's function returned another type than it should; the message names both."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """Build the error for a name that is not in a registry.

    Args:
        kind: kind of the name, for example ``"reward"``.
        name: the name that was passed.
        known: the known names.

    Returns:
        A ``ValueError`` (to be raised by the caller) with a did-you-mean and the known names.

    Example:
        >>> print(unknown_name("reward", "rac", ["racs", "ndcg"]))
        unknown reward 'rac'. Did you mean 'racs'? Known: ndcg, racs.
    """
    known = list(known)
    return ValueError(
        f"unknown {kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(sorted(known))}."
    )


class UnknownArgument(SettingError, TypeError):
    """A keyword argument that a constructor does not have.

    It is a ``TypeError``, too, with the words of Python's own: libraries try arguments such as TorchRL's
    ``frameskip``, and leave out those that are refused so.
    """

    def __init__(self, setting: str, fault: str = "") -> None:
        """Store both; ``gym.make`` makes the error again, from its message alone."""
        super().__init__(setting, fault)

    def __str__(self) -> str:
        """Return the name, then the fault.

        Example:
            >>> str(UnknownArgument("a message"))
            'a message'
        """
        return super().__str__().rstrip()


def unknown_argument(name: str, of: str, known: Iterable[str]) -> UnknownArgument:
    """Build the error for a keyword argument that a constructor does not have.

    Args:
        name: what was passed.
        of: what has no such argument.
        known: the arguments that it has.

    Example:
        >>> print(unknown_argument("rewrd", "it", ["reward"]))
        rewrd is no setting of it (unexpected keyword argument 'rewrd'). Did you mean 'reward'? Known: reward.
    """
    found = unknown_setting(name, f"{of} (unexpected keyword argument {name!r})", known)
    return UnknownArgument(found.setting, found.fault)


def unknown_setting(name: str, of: str, known: Iterable[str]) -> SettingError:
    """Build the error for a setting that something does not have.

    Args:
        name: what was passed.
        of: what has no such setting, for example ``"reward 'racs'"``.
        known: the settings that it has.

    Returns:
        A ``SettingError`` (to be raised by the caller) with a did-you-mean and the known names.

    Example:
        >>> print(unknown_setting("alhpa", "reward 'racs'", ["alpha", "variant"]))
        alhpa is no setting of reward 'racs'. Did you mean 'alpha'? Known: alpha, variant.
    """
    known = sorted(known)
    hint = f"{did_you_mean(name, known)} Known: {', '.join(known)}." if known else ", which has none"
    return SettingError(name, f"is no setting of {of}{'.' if known else ''}{hint}")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" with the known name closest to ``name``; empty if none is close.

    Example:
        >>> did_you_mean("rac", ["racs", "ndcg"])
        " Did you mean 'racs'?"
    """
    names = sorted(known)
    close = get_close_matches(str(name), names, n=1)
    if not close:  # compare again without letter case
        folded = {n.casefold(): n for n in names}
        close = [folded[c] for c in get_close_matches(str(name).casefold(), list(folded), n=1)]
    return f" Did you mean {close[0]!r}?" if close else ""
