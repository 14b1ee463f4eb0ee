"""The shop of the page on ``refit tune``: its articles sell best when they are new, and its tastes drift."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks import trending_shop
from benchmarks.trending_shop import COLUMNS, DAYS, LEAST, draw_purchases, main


def _age_at_sale() -> float:
    """Return the median days between the first sale of an article and its others, over the later articles."""
    purchases = draw_purchases(users=300, items=300, seed=1)
    articles, days = (np.asarray(values) for values in list(zip(*purchases, strict=True))[1:])
    first = {article: days[articles == article].min() for article in np.unique(articles)}
    late = [article for article, day in first.items() if 100 < day < DAYS - 100]
    return float(np.mean([np.median(days[articles == article]) - first[article] for article in late]))


def test_articles_sell_best_when_they_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    ageing = _age_at_sale()
    monkeypatch.setattr(trending_shop, "HALF_LIFE", 1e9)
    assert ageing < 0.75 * _age_at_sale()


def test_a_visitor_buys_an_article_once_and_in_order_of_time() -> None:
    purchases = draw_purchases(users=50, items=80, seed=2)
    for user in range(50):
        own = [(article, day) for visitor, article, day in purchases if visitor == user]
        assert LEAST <= len(own) == len({article for article, _ in own})
        assert [day for _, day in own] == sorted(day for _, day in own)
    assert (
        purchases == draw_purchases(users=50, items=80, seed=2) != draw_purchases(users=50, items=80, seed=3)
    )


def test_the_file_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shop.csv"
    main([str(out), "--users", "20", "--items", "60"])
    rows = list(csv.reader(out.read_text().splitlines()))
    assert (
        tuple(rows[0]) == COLUMNS and f"{len(rows) - 1:,} purchases of 20 visitors" in capsys.readouterr().out
    )
    before = out.read_bytes()
    with pytest.raises(SystemExit):
        main([str(out)])
    assert f"{out} exists" in capsys.readouterr().err and out.read_bytes() == before


def test_too_few_articles_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "shop.csv"), "--items", "5"])
    assert "--items 5 must be at least 60" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
