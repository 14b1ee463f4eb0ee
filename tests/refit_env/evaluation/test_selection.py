"""Rules by which validation selects: what they read, what they refuse, which model they prefer."""

from __future__ import annotations

from typing import Any

import pytest

from refit_env.data import synthesize
from refit_env.errors import SettingError
from refit_env.evaluation.beyond_accuracy import OF_ALL, OF_USERS
from refit_env.evaluation.ranking import selecting_rule
from refit_env.evaluation.selection import (
    BEYOND,
    DISLIKES,
    LESS_IS_BETTER,
    UNMET,
    parse_condition,
    parse_rule,
)

START = {"ndcg@20": 0.5, "coverage@20": 0.2, "gini@20": 0.9}


@pytest.mark.parametrize(
    "text",
    [
        "ndcg@20",
        "coverage@20 where ndcg@20 >= 0.99 * start",
        "gini@20 where ndcg@20 >= 0.3 and coverage@20 <= 0.9 and recall@10 >= 1 * start",
    ],
)
def test_a_rule_reads_as_it_is_written(text: str) -> None:
    assert str(parse_rule(text)) == text
    assert parse_rule(str(parse_rule(text))) == parse_rule(text)


def test_start_alone_is_once_the_start_and_spaces_do_not_matter() -> None:
    assert parse_condition("ndcg@20>=start") == parse_condition(" ndcg@20  >= 1*start ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a metric such as ndcg@20 is missing"),
        ("ndcg", "found 'ndcg', where a metric such as ndcg@20 should be"),
        ("ndcg@0", "found 'ndcg@0'"),
        ("coverage@20 wher ndcg@20 >= 1", "found 'wher' after coverage@20. Did you mean 'where'?"),
        ("coverage@20 where", "a metric such as ndcg@20 is missing"),
        ("coverage@20 where ndcg@20", ">= or <= is missing after ndcg@20"),
        ("coverage@20 where ndcg@20 > 1", "found '>' after ndcg@20, where >= or <= should be"),
        ("coverage@20 where ndcg@20 >=", "a number or start is missing after >="),
        ("coverage@20 where ndcg@20 >= much", "found 'much' after >=, where a number or start should be"),
        ("coverage@20 where ndcg@20 >= nan", "found 'nan'"),
        ("coverage@20 where ndcg@20 >= 0.9 * strat", "found 'strat' after 0.9 *. Did you mean 'start'?"),
        ("coverage@20 where ndcg@20 >= 0.9 start", "found 'start' after ndcg@20 >= 0.9."),
        ("coverage@20 where ndcg@20 >= 0.9 or gini@20 <= 1", "found 'or' after ndcg@20 >= 0.9."),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(SettingError) as error:
        parse_rule(text)
    message = str(error.value)
    assert message.startswith("select must read METRIC") and said in message and "\n" not in message


def test_a_condition_ends_where_it_ends() -> None:
    with pytest.raises(SettingError, match=r"constraint must read METRIC >= NUMBER .* found 'and' after"):
        parse_condition("ndcg@20 >= 0.9 and gini@20 <= 1")


def test_unknown_metrics_get_a_did_you_mean_and_small_catalogues_short_lists() -> None:
    small = synthesize(num_users=9, num_items=18, num_clusters=1)
    found = selecting_rule("novelty@20 where ndcg@20 >= start", small)
    assert str(found) == "novelty@18 where ndcg@18 >= 1 * start"
    with pytest.raises(SettingError, match=r"select must name metrics.*'covrage@18'. Did you mean 'coverage"):
        selecting_rule("covrage@20", small)
    with pytest.raises(SettingError, match="found 'novelty@10'"):
        selecting_rule("ndcg@10 where novelty@10 >= 1", small)


def test_the_score_knows_which_direction_is_better() -> None:
    more, less = parse_rule("coverage@20"), parse_rule("gini@20")
    better = {"coverage@20": 0.4, "gini@20": 0.7}
    assert more.score(better, START) > more.score(START, START)
    assert less.score(better, START) > less.score(START, START)


@pytest.mark.parametrize(("ndcg", "met"), [(0.495, True), (0.4949, False), (0.6, True)])
def test_conditions_are_measured_against_the_start(ndcg: float, met: bool) -> None:
    rule = parse_rule("coverage@20 where ndcg@20 >= 0.99 * start")
    found: dict[str, Any] = {"ndcg@20": ndcg, "coverage@20": 0.9}
    assert rule.met(found, START) is met
    assert (rule.score(found, START) > UNMET) is met


def test_every_metric_has_a_name_and_a_function() -> None:
    assert set(BEYOND) == set(OF_USERS) | set(OF_ALL) and {*BEYOND, DISLIKES} >= LESS_IS_BETTER
