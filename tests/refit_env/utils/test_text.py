from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from refit_env.utils.text import acts, visible


@given(st.text(st.characters(codec=None)))
def test_no_control_character_is_left(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(c) for c in shown if c != "\n"} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode("utf-8")
    assert visible(shown) == shown and not acts(visible(text, keep=""))


def test_letters_of_all_languages_stay() -> None:
    for text in ("Grüße", "推荐", "مرحبا", "👨‍👩‍👧", "plain [bold] :smile: \\ text"):
        assert visible(text) == text and not acts(text)
    assert visible("a\u202eb\u2066") == r"a\u202eb\u2066"
