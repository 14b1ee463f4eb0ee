from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refit_env.data.prepare import prepare
from refit_env.data.recipe import Recipe
from refit_env.data.times import UNITS, to_seconds
from refit_env.errors import DataError

Write = Callable[[str, str | bytes], Path]
SECONDS = np.array([1_400_000_000.0, 1_500_000_000.0, 1_600_000_000.0])
NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("unit", "name"), [("ms", "milliseconds"), ("us", "microseconds"), ("ns", "nanoseconds")]
)
def test_an_unambiguous_unit_is_detected(unit: str, name: str) -> None:
    found, notes = to_seconds("log", SECONDS / UNITS[unit], now=NOW)
    assert found == pytest.approx(SECONDS) and notes == (f"times converted from {name}",)


def test_seconds_are_seconds() -> None:
    assert to_seconds("log", SECONDS, now=NOW) == (SECONDS, ())
    assert to_seconds("log", np.zeros(0), now=NOW)[1] == ()
    assert to_seconds("log", np.array([NOW + 80_000]), now=NOW)[1] == ()  # a clock may be a day late


@pytest.mark.parametrize(
    ("values", "count", "first"),
    [
        ([*SECONDS, 0.0], "1 of 4", "0"),
        ([*SECONDS, NOW + 90_000], "1 of 4", "1700090000"),
        ([1.4e12, 1.5e9], "1 of 2", "1400000000000"),  # milliseconds and seconds
        ([1, 2, 3], "3 of 3", "1"),
        ([17_000, 18_000], "2 of 2", "17000"),  # days since 1970, or anything else
        ([-1.5e9], "1 of 1", "-1500000000"),
        ([1.5e21], "1 of 1", "1.5e+21"),
    ],
)
def test_other_times_need_their_unit(values: list[float], count: str, first: str) -> None:
    with pytest.raises(DataError) as caught:
        to_seconds("log.csv", np.array(values, dtype=np.float64), now=NOW)
    assert f"log.csv: {count} times, the first of them {first}, are not seconds between 1990" in str(
        caught.value
    )
    assert "time_unit=UNIT states their unit (s, ms, us, ns, days)" in str(caught.value)


def test_dates_without_separators_are_no_times() -> None:
    with pytest.raises(DataError, match=r"Dates as YYYYMMDD\? Write them as 2011-04-03"):
        to_seconds("log.csv", np.array([20110403.0, 20120229.0]), now=NOW)
    with pytest.raises(DataError) as caught:
        to_seconds("log.csv", np.array([20110403.0, 20119903.0]), now=NOW)
    assert "YYYYMMDD" not in str(caught.value)


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_a_stated_unit_is_not_checked(unit: str) -> None:
    found, notes = to_seconds("log", np.array([3.0, -1.0]), unit, now=NOW)
    assert found.tolist() == [3 * UNITS[unit], -UNITS[unit]] and bool(notes) == (unit != "s")


def log(unit: float, users: int = 4, days: int = 10) -> str:
    """Write six events per day of every user; daily sessions depend on the unit of the times."""
    events = ((u, d, n) for u in range(users) for d in range(days) for n in range(6))
    rows = (f"{u},{n + d},{(1_500_000_000 + 86_400 * d + 60 * n) * unit:.0f}\n" for u, d, n in events)
    return "user,item,timestamp\n" + "".join(rows)


@pytest.mark.parametrize("thousands", [1, 1_000, 1_000_000])
def test_sessions_do_not_depend_on_the_unit(thousands: int, write: Write) -> None:
    recipe = Recipe(session="day", task="sequential", split="sessions")
    data = prepare("shop", write("log.csv", log(thousands)), recipe)
    assert data.num_users == 40 and data.train.timestamps is not None
    assert data.train.timestamps.min() == 1_500_000_000
    notes = data.meta["preparation"].get("notes")
    assert (notes is None) == (thousands == 1)


def test_a_unit_for_dates_or_no_times_is_refused(write: Write) -> None:
    text = "user,item,date\n" + "".join(f"{n % 5},{n},2020-01-0{1 + n % 9}\n" for n in range(100))
    path = write("log.csv", text)
    assert prepare("shop", path).train.timestamps is not None
    with pytest.raises(DataError, match=r"time_unit='ms', but these files have dates, not numbers"):
        prepare("shop", path, Recipe(time_unit="ms"))
    with pytest.raises(DataError, match=r"time_unit='ms', but these files have no times"):
        prepare("shop", path, Recipe(time_unit="ms", ignore=("date",)))
    with pytest.raises(ValueError, match=r"time_unit must be one of s, ms, us, ns, days; found 'msec'"):
        Recipe(time_unit="msec")
