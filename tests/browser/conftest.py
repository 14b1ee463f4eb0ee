"""A headless Chromium for the tests of a file; they are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import Browser, find_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    pytest.importorskip("websocket", reason="the extra browser: pip install -e '.[browser]'")
    program = find_chromium()
    assert program is not None  # else skipped
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
