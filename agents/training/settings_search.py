"""A search of settings, one after the other, by the value that validation gives to each choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROUNDS = 3
"""How often a search goes through all settings, at most."""


class SettingsSearch:
    """Chooses settings one after the other, the others as they are.

    Of a name all values are tried, of a number its neighbours on the grid as long as they improve. With
    ``error_of``, settings replace the chosen ones only where their gain is larger than its standard error, so
    that noise chooses nothing.

    Attributes:
        chosen: the best settings so far.
        value: what they are valued at.
    """

    def __init__(
        self,
        value_of: Callable[[dict[str, Any]], float],
        given: Mapping[str, Any] | None = None,
        out_of_time: Callable[[], bool] | None = None,
        error_of: Callable[[dict[str, Any], dict[str, Any]], float] | None = None,
        known: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        """Prepare.

        Args:
            value_of: the value of settings, higher is better; called once for each that is tried.
            given: settings that are not searched.
            out_of_time: called before each trial but the first; once it returns True, nothing more is tried.
            error_of: the standard error of the difference in value between two settings that were tried.
            known: whether the value of settings needs no time, as those of an earlier call; they are tried
                when time is over, too.
        """
        self._value_of, self._out_of_time, self._error_of = value_of, out_of_time, error_of
        self._known = known if known is not None else lambda settings: False
        self.chosen: dict[str, Any] = dict(given or {})
        self.value = float("-inf")
        self._given = frozenset(self.chosen)
        self._tried: list[dict[str, Any]] = []
        self._space: dict[str, tuple[Any, ...]] = {}
        self._needs: dict[str, tuple[str, Any]] = {}

    def run(
        self,
        space: Mapping[str, tuple[Any, ...]],
        needs: Mapping[str, tuple[str, Any]] | None = None,
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Search.

        All settings are searched again until a round improves nothing, at most ``ROUNDS`` times.

        Args:
            space: values of each setting; the first is where the search begins.
            needs: by setting, the other setting and the value, or a condition on its value, without which it
                has no effect; it then keeps its first value.
            first: changes of several settings at once that are tried before the settings one by one.

        Example:
            >>> search = SettingsSearch(lambda s: -abs(s["l2"] - 30))
            >>> search.run({"l2": (1, 10, 100)})
            >>> search.chosen
            {'l2': 10}
        """
        self._space = {name: values for name, values in space.items() if name not in self._given}
        self._needs = dict(needs or {})
        self.try_settings({name: values[0] for name, values in self._space.items()})
        for changes in first:
            self.try_settings(changes)
        for _ in range(ROUNDS):
            before = self.value
            for name, values in self._space.items():
                if not self._idle(name, self.chosen):
                    self._improve(name, values)
            if self.value == before:
                break

    def try_settings(self, changes: Mapping[str, Any]) -> bool:
        """Value the chosen settings with ``changes``, once; whether they are the best so far."""
        settings = {**self.chosen, **changes}
        settings |= {name: v[0] for name, v in self._space.items() if self._idle(name, settings)}
        if settings in self._tried:
            return False
        late = bool(self._tried) and self._out_of_time is not None and self._out_of_time()
        if late and not self._known(settings):
            return False
        self._tried.append(settings)
        value = self._value_of(settings)
        better = value > self.value
        if better and self._error_of is not None and self.value > float("-inf"):
            better = value - self.value > self._error_of(settings, self.chosen)
        if better:
            self.value, self.chosen = value, settings
        return better

    def _idle(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Return whether a setting has no effect because of the value of another one."""
        if name not in self._needs or self._needs[name][0] not in settings:
            return False
        other, needed = self._needs[name]
        return not (needed(settings[other]) if callable(needed) else settings[other] == needed)

    def _improve(self, name: str, values: tuple[Any, ...]) -> None:
        """Choose the value of one setting."""
        if any(isinstance(value, str | bool) for value in values):
            for value in values:
                self.try_settings({name: value})
            return
        grid = sorted({*values, self.chosen[name]})
        at = grid.index(self.chosen[name])
        for step in (1, -1):
            moved = False
            while 0 <= at + step < len(grid) and self.try_settings({name: grid[at + step]}):
                at, moved = at + step, True
            if moved:
                break
