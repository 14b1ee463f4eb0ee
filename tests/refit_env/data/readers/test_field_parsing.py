from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refit_env.data.readers.field_parsing import fast_column, parse_field, parse_number, seconds_of

MOMENTS = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2037, 1, 1), timezones=st.just(UTC))
FORMS = {
    "iso": lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{moment.microsecond // 1000:03d}Z",
    "micro": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S.%f"),
    "stamp": lambda moment: moment.strftime("%a %b %d %H:%M:%S +0000 %Y"),
    "date": lambda moment: moment.strftime("%Y-%m-%d"),
}


@given(st.lists(MOMENTS, min_size=1, max_size=5), st.sampled_from(sorted(FORMS)))
def test_times_are_read_as_written_fast_and_slowly(moments: list[datetime], form: str) -> None:
    texts = [FORMS[form](moment) for moment in moments]
    slow = [parse_field(text, "date") for text in texts]
    fast = fast_column(pd.Series(texts, dtype=str), "date")
    assert fast is not None and fast.tolist() == slow  # to the last bit
    if form in ("micro", "stamp"):
        whole = [moment.replace(microsecond=0) for moment in moments]
        assert slow == [moment.timestamp() for moment in (whole if form == "stamp" else moments)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2014-04-07T10:51:09.277Z", 1396867869.277),
        ("Tue Apr 03 18:00:09 +0000 2012", 1333476009.0),
        ("Tue Apr 03 20:00:09 +0200 2012", 1333476009.0),
        ("Tue Apr 03 14:00:09 -0400 2012", 1333476009.0),
        ("2020-01-02", 1577923200.0),
    ],
)
def test_the_published_forms_of_a_time(text: str, seconds: float) -> None:
    assert parse_field(text, "date") == seconds


@pytest.mark.parametrize(
    "text",
    [
        "Tue Apr 31 18:00:09 +0000 2012",
        "Tue Apr 03 25:00:09 +0000 2012",
        "Tue Foo 03 18:00:09 +0000 2012",
        "Tue Apr 03 18:00:09 2012",
        "2014-13-07T10:51:09.277Z",
        "2014-04-07T10:51",
        "٢٠١٤-04-07T10:51:09.277Z",
        "NaT",
        "",
    ],
)
def test_text_that_is_not_a_time_is_refused_by_the_fast_reader_too(text: str) -> None:
    fast = fast_column(pd.Series(["2014-04-07T10:51:09.277Z", text], dtype=str), "date")
    assert fast is None
    if text != "2014-04-07T10:51":  # a valid date, in a rare form
        assert seconds_of(text) is None
        with pytest.raises(ValueError, match=r"is not a date|is empty"):
            parse_field(text, "date")


def test_an_optional_number_may_be_missing_but_not_wrong() -> None:
    assert np.isnan(parse_field(" ", "optional")) and parse_field("2.5", "optional") == 2.5
    fast = fast_column(pd.Series([1.5, np.nan]), "optional")
    assert fast is not None and fast[0] == 1.5 and np.isnan(fast[1])
    assert fast_column(pd.Series([1.5, np.inf]), "optional") is None
    assert fast_column(pd.Series(["1.5", "x"], dtype=str), "optional") is None
    for text in ("nan", "inf", "x"):
        with pytest.raises(ValueError, match="is not a number"):
            parse_field(text, "optional")


WORDS = "1_000 nan inf -Infinity 0x1F \uff11\uff12 \u0663 1,5 1e e5 . + 1d5 True --1 1__0"


@pytest.mark.parametrize("text", WORDS.split())
def test_numbers_in_pythons_syntax_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(text)
    fast = pd.read_csv(StringIO(f"2.5|x\n{text}|x\n"), sep="|", header=None, keep_default_na=False)[0]
    assert fast_column(fast, "number") is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_written(value: float) -> None:
    assert parse_number(repr(value)) == value and parse_number(f"{value:+.17e}") == value


def test_a_number_that_overflows_is_refused() -> None:
    for text, rule in (("1e999", "is too large"), ("9" * 401, "is not a number"), ("", "is empty")):
        with pytest.raises(ValueError, match=rule):
            parse_field(text, "number")


def test_tokens_lose_their_blanks_and_may_not_be_blank() -> None:
    fast = fast_column(pd.Series([" a", "b "], dtype=str), "token")
    assert fast is not None and fast.tolist() == ["a", "b"]
    assert fast_column(pd.Series(["a", " "], dtype=str), "token") is None
    with pytest.raises(ValueError, match="is empty"):
        parse_field(" ", "token")
