from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from refit_env.errors import SettingError
from refit_env.settings import Bounded, Form, OneOf, unchecked


@dataclass(frozen=True)
class Example(Bounded):
    epochs: Annotated[int, Meta(ge=1, le=9)] = 3
    limit: Annotated[float, Meta(ge=0, description="0: no limit")] = 0.0
    share: Annotated[float, Meta(gt=0, lt=1)] | None = None
    widths: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)] = (4,)
    name: Annotated[str, OneOf(("mean", "sum"))] = "mean"
    steps: Annotated[str, Form(lambda text: None if text == "all" else "must be all")] = "all"
    flag: bool = False
    origin: Literal["here", "there"] = "here"

    def check_together(self) -> None:
        if self.flag and self.epochs > 5:
            raise SettingError("epochs", "must be <= 5 with flag")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1 and <= 9, found 0"),
        ({"epochs": 10}, "epochs must be >= 1 and <= 9, found 10"),
        ({"epochs": 2.5}, "epochs must be a whole number >= 1 and <= 9, found 2.5"),
        ({"epochs": True}, "epochs must be a whole number >= 1 and <= 9, found True"),
        ({"limit": -0.001}, "limit must be >= 0 (0: no limit), found -0.001"),
        ({"limit": math.nan}, "limit must be a number >= 0 (0: no limit), found nan"),
        ({"limit": math.inf}, "limit must be a number >= 0 (0: no limit), found inf"),
        ({"limit": "1"}, "limit must be a number >= 0 (0: no limit), found '1'"),
        ({"share": 1.0}, "share must be > 0 and < 1, found 1.0"),
        ({"widths": (4, 0)}, "widths must be >= 1, found 0"),
        ({"widths": 4}, "widths must be a list, found 4"),
        ({"widths": ()}, "widths must have at least one value, found none"),
        ({"name": "men"}, "name must be one of mean, sum; found 'men'. Did you mean 'mean'?"),
        ({"name": 3}, "name must be a text, found 3"),
        ({"origin": 3}, "origin must be one of here, there; found 3."),
        ({"steps": "some"}, "steps must be all"),
        ({"flag": 1}, "flag must be true or false, found 1"),
        ({"flag": True, "epochs": 6}, "epochs must be <= 5 with flag"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as refused:
        replace(Example(), **change)  # type: ignore[arg-type]
    assert str(refused.value) == message
    assert refused.value.setting == next(iter(message.split()))
    assert str(pickle.loads(pickle.dumps(refused.value))) == message


def test_values_within_bounds_are_kept() -> None:
    made = Example(epochs=9, limit=3, share=0.5, widths=(1, 2), name="sum", flag=False)
    assert made.limit == 3 and made.share == 0.5
    assert Example(share=None) == Example()


def test_files_are_checked_by_the_same_bounds() -> None:
    assert msgspec.json.decode(b'{"epochs": 2}', type=Example) == Example(epochs=2)
    for wrong in (b'{"epochs": 0}', b'{"name": "men"}', b'{"flag": true, "epochs": 6}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Example)


def test_a_parser_may_check_later() -> None:
    with unchecked():
        made = Example(epochs=0)
    with pytest.raises(SettingError, match="epochs must be"):
        made.check()
    with pytest.raises(SettingError):
        Example(epochs=0)


def test_the_value_is_shortened_in_the_message() -> None:
    for change in ({"name": "x" * 10**6}, {"epochs": 10**5000}, {"limit": [[0] * 10**5]}):
        with pytest.raises(SettingError) as refused:
            replace(Example(), **change)  # type: ignore[arg-type]
        assert len(str(refused.value)) < 200
