"""Rules by which validation selects, and conditions on metrics.

A rule is a metric, or a metric with conditions: ``coverage@20 where ndcg@20 >= 0.99 * start``. The best value
is the highest, or the lowest of a metric of which less is better (``gini@20``). A condition compares a metric
with a number, or with a multiple of its value at the start of training: ``recall@20 >= 0.1``,
``gini@20 <= start and ndcg@20 >= 0.99 * start``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from refit_env.errors import SettingError, did_you_mean
from refit_env.settings import Form
from refit_env.utils.text import shown

ACCURACY = ("recall", "ndcg")
"""Metrics that are measured at every list length."""
UNMET = -1e9
"""Score of a model that does not meet the conditions: below every metric, and a number in JSON."""
DISLIKES = "dislikes"
"""Share of the list that the user rated low; measured at every list length, if the data has dislikes."""
LESS_IS_BETTER = frozenset({"arp", "gini", "calibration", "rsp", "pop_rsp", "pop_reo", "user_gap", DISLIKES})
"""Metrics of which a lower value is the better one; of all others, accuracy included, it is the higher."""
BEYOND = (
    "arp", "aplt", "novelty", "ild", "serendipity", "calibration", "coverage", "gini", "entropy",
    "personalization", "rsp", "pop_rsp", "pop_reo", "user_gap",
)  # fmt: skip
"""Metrics beyond accuracy, measured at the longest list: see ``refit_env.evaluation.beyond_accuracy``."""
WHERE, AND, START = "where", "and", "start"
FORM = "METRIC, or METRIC where METRIC >= NUMBER [* start] [and ...]"
_WORD = re.compile(r"\s*(>=|<=|[<>=*]|[^\s<>=*]+)")
_METRIC = re.compile(r"[a-z_]+@[1-9][0-9]{0,8}")


class _Fault(Exception):
    """What is wrong with a text."""


@dataclass(frozen=True)
class Condition:
    """One condition on a metric."""

    metric: str
    """Name with its list length."""
    sign: str
    """``>=`` or ``<=``."""
    bound: float
    """The number."""
    relative: bool = False
    """Whether the number is a multiple of the metric's value at the start."""

    def limit(self, start: Mapping[str, float]) -> float:
        """Return the number that the metric is compared with, from the metrics of the start."""
        return self.bound * start[self.metric] if self.relative else self.bound

    def violation(self, means: Mapping[str, float], start: Mapping[str, float]) -> float:
        """Return how far the metric is on the wrong side of its limit; negative on the right side."""
        apart = self.limit(start) - means[self.metric]
        return apart if self.sign == ">=" else -apart

    def __str__(self) -> str:
        """Return the text that ``parse_condition`` reads."""
        return f"{self.metric} {self.sign} {self.bound:.12g}" + (f" * {START}" if self.relative else "")


@dataclass(frozen=True)
class Rule:
    """What is best on validation."""

    metric: str
    """Name with its list length."""
    conditions: tuple[Condition, ...] = ()
    """All must hold."""

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return -1 if self.metric.partition("@")[0] in LESS_IS_BETTER else 1

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that it reads."""
        return tuple(dict.fromkeys([self.metric, *(c.metric for c in self.conditions)]))

    def met(self, means: Mapping[str, float], start: Mapping[str, float]) -> bool:
        """Return whether all conditions hold for a model's validation metrics.

        Args:
            means: metrics of the model.
            start: metrics of the model that training began with.
        """
        return all(condition.violation(means, start) <= 0 for condition in self.conditions)

    def score(self, means: Mapping[str, float], start: Mapping[str, float]) -> float:
        """Return a number of which higher is better: the metric, with the sign of ``sign``, or ``UNMET``.

        Example:
            >>> rule = parse_rule("gini@20 where ndcg@20 >= 0.9 * start")
            >>> start = {"gini@20": 0.8, "ndcg@20": 0.5}
            >>> rule.score({"gini@20": 0.6, "ndcg@20": 0.46}, start)
            -0.6
            >>> rule.score({"gini@20": 0.1, "ndcg@20": 0.4}, start) == UNMET
            True
        """
        return self.sign * means[self.metric] if self.met(means, start) else UNMET

    def fitted(
        self, setting: str, lengths: Sequence[int], num_items: int, measured: Sequence[str] = ACCURACY
    ) -> Rule:
        """Return the rule with lists cut to a small catalogue, after a check of its metrics.

        Args:
            setting: the setting that an error names.
            lengths: of the evaluation's lists, ascending.
            num_items: I.
            measured: metrics that are measured at every list length.

        Raises:
            SettingError: naming the setting, for a metric that the evaluation does not have.
        """
        metric, *others = (
            fitted_metric(name, setting, lengths, num_items, measured)
            for name in (self.metric, *(c.metric for c in self.conditions))
        )
        pairs = zip(self.conditions, others, strict=True)
        return Rule(metric, tuple(replace(c, metric=name) for c, name in pairs))

    def __str__(self) -> str:
        """Return the text that ``parse_rule`` reads."""
        where = f" {WHERE} {f' {AND} '.join(map(str, self.conditions))}" if self.conditions else ""
        return self.metric + where


def parse_rule(text: str, setting: str = "select") -> Rule:
    """Read a rule.

    Args:
        text: ``METRIC`` or ``METRIC where CONDITION [and CONDITION ...]``.
        setting: the setting that an error names.

    Raises:
        SettingError: naming the setting; one line that says what is wrong and what would be right.

    Example:
        >>> str(parse_rule("coverage@20  where ndcg@20>=0.99*start"))
        'coverage@20 where ndcg@20 >= 0.99 * start'
        >>> parse_rule("coverage@20 were ndcg@20 >= 1")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        refit_env.errors.SettingError: select must read METRIC...; found 'were' after coverage@20. Did you ...
    """
    fault = rule_fault(text)
    if fault is not None:
        raise SettingError(setting, fault)
    return _rule(_words(text))


def parse_condition(text: str, setting: str = "constraint") -> Condition:
    """Read one condition: ``METRIC >= NUMBER``, ``METRIC <= NUMBER * start``, ``METRIC >= start``.

    Args:
        text: the condition.
        setting: the setting that an error names.

    Raises:
        SettingError: naming the setting; one line that says what is wrong and what would be right.

    Example:
        >>> parse_condition("ndcg@20 >= 0.99 * start")
        Condition(metric='ndcg@20', sign='>=', bound=0.99, relative=True)
    """
    fault = condition_fault(text)
    if fault is not None:
        raise SettingError(setting, fault)
    return _condition(_words(text))


def rule_fault(text: str) -> str | None:
    """Return what is wrong with the form of a rule; None if nothing is. Metrics' names are checked later."""
    try:
        _rule(_words(text))
    except _Fault as fault:
        return f"must read {FORM}; {fault}"
    return None


def condition_fault(text: str) -> str | None:
    """Return what is wrong with the form of a condition; None if nothing is."""
    try:
        _condition(_words(text))
    except _Fault as fault:
        return f"must read METRIC >= NUMBER [* start], or with <=; {fault}"
    return None


RuleText = Annotated[str, Form(rule_fault)]
"""A setting that holds a rule."""
ConditionText = Annotated[str, Form(condition_fault)]
"""A setting that holds a condition."""


def fitted_metric(
    name: str, setting: str, lengths: Sequence[int], num_items: int, measured: Sequence[str] = ACCURACY
) -> str:
    """Return the metric of the evaluation's lists; with a catalogue of 12 items ``ndcg@20`` is ``ndcg@12``.

    Raises:
        SettingError: naming the setting, if there is no such metric.
    """
    kind, _, length = name.partition("@")
    longest = max(lengths)
    if int(length) > longest == num_items:
        name = f"{kind}@{longest}"
    known = [f"{kind}@{k}" for k in lengths for kind in measured] + [f"{kind}@{longest}" for kind in BEYOND]
    if name not in known:
        raise SettingError(
            setting, f"must name metrics among {', '.join(known)}; found {name!r}.{did_you_mean(name, known)}"
        )
    return name


def _words(text: str) -> list[str]:
    """Split a text into words and signs."""
    return [match.group(1) for match in _WORD.finditer(text)]


def _rule(words: list[str]) -> Rule:
    """Read a rule from its words, which are used up."""
    metric = _metric(words)
    if not words:
        return Rule(metric)
    _expect(WHERE, words, metric)
    conditions = [_one(words)]
    while words:
        _expect(AND, words, str(conditions[-1]))
        conditions.append(_one(words))
    return Rule(metric, tuple(conditions))


def _condition(words: list[str]) -> Condition:
    """Read a condition that nothing follows."""
    found = _one(words)
    if words:
        raise _Fault(f"found {shown(words[0])} after {found}")
    return found


def _one(words: list[str]) -> Condition:
    """Read a condition and use up its words."""
    metric = _metric(words)
    sign = _next(words, ">= or <=", metric)
    if sign not in (">=", "<="):
        raise _Fault(f"found {shown(sign)} after {metric}, where >= or <= should be")
    word = _next(words, "a number or start", sign)
    if word == START:
        return Condition(metric, sign, 1.0, True)
    try:
        bound = float(word)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise _Fault(f"found {shown(word)} after {sign}, where a number or start should be")
    if words[:1] != ["*"]:
        return Condition(metric, sign, bound)
    words.pop(0)
    _expect(START, words, f"{word} *")
    return Condition(metric, sign, bound, True)


def _metric(words: list[str]) -> str:
    """Read a metric's name."""
    name = _next(words, "a metric such as ndcg@20")
    if not _METRIC.fullmatch(name):
        raise _Fault(f"found {shown(name)}, where a metric such as ndcg@20 should be")
    return name


def _next(words: list[str], wanted: str, after: str = "") -> str:
    """Return the next word, or say what is missing."""
    if not words:
        raise _Fault(f"{wanted} is missing" + (f" after {after}" if after else ""))
    return words.pop(0)


def _expect(word: str, words: list[str], after: str) -> None:
    """Use up a word that must come next."""
    found = _next(words, word, after)
    if found != word:
        raise _Fault(f"found {shown(found)} after {after}.{did_you_mean(found, [word])}")


def names_of(rules: Iterable[Rule | Condition]) -> tuple[str, ...]:
    """Return the metrics that rules and conditions read, each once."""
    found = [name for rule in rules for name in (rule.names if isinstance(rule, Rule) else (rule.metric,))]
    return tuple(dict.fromkeys(found))
