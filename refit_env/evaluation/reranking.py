"""Post-hoc re-rankers: other lists from the scores of a trained model, without training.

They are the control of every training beyond accuracy. A re-ranker turns a score function into another one,
which ``refit_env.evaluation.ranking.evaluate`` ranks as usual; ``strength`` goes from 0, the model's own
lists, upwards.

Letters: B users in a batch, I items, K list length, C candidates of a list, G groups, n users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from refit_env.data.dataset import Dataset
from refit_env.data.rows import SparseRows
from refit_env.errors import unknown_name, unknown_setting
from refit_env.evaluation.beyond_accuracy import SMOOTHING
from refit_env.evaluation.catalogue import catalogue_of
from refit_env.evaluation.ranking import ScoreFunction, evaluated_users, list_lengths
from refit_env.settings import Nonnegative, Size, check_setting

UNIT_USERS = 512
"""Users by which the scale of a model's scores is measured, at most."""
BATCH = 512
"""Users scored at a time."""


@dataclass(frozen=True)
class Source:
    """What a re-ranker has.

    Attributes:
        score: the model, users (B,) -> scores (B, I).
        dataset: gives popularity, item vectors, groups and masks.
        split: whose lists are made: masked items are in no list.
        users: (n,) all users whose lists are made; only re-rankers over all users read it.
        k: list length.
    """

    score: ScoreFunction
    dataset: Dataset
    split: str
    users: npt.NDArray[np.int64]
    k: int

    def masked(self, users: Tensor) -> Tensor:
        """(B, I) float32 the scores, -inf where no list may hold an item."""
        seen = SparseRows(self.dataset.masked(self.split), users.device).mask(users)
        return self.score(users).float().masked_fill(seen, -torch.inf)

    def unit(self) -> float:
        """Return the mean standard deviation of a user's scores: ``strength`` is in units of it."""
        users = torch.from_numpy(self.users[:UNIT_USERS])
        return max(float(self.score(users).float().std(1).mean()), 1e-12)


def popularity_penalty(source: Source, *, strength: float) -> ScoreFunction:
    """Subtract strength * unit * log(train count) from the scores; unit is their mean standard deviation.

    The logit adjustment of long-tail classification (Menon et al., ICLR 2021) for items.
    """
    counts = np.log(np.maximum(catalogue_of(source.dataset).counts, 1))  # (I,)
    penalty = torch.from_numpy(counts).float() * (strength * source.unit())  # (I,)
    return lambda users: source.score(users) - penalty.to(users.device)


def popularity_power(source: Source, *, strength: float) -> ScoreFunction:
    """Divide the scores by the train count to the power ``strength``.

    Popularity correction by a power, as in RP3beta (Paudel et al., TiiS 2017).
    """
    counts = np.maximum(catalogue_of(source.dataset).counts, 1.0)  # (I,)
    factor = torch.from_numpy(counts**-strength).float()  # (I,)
    return lambda users: source.score(users) * factor.to(users.device)


def mmr(source: Source, *, strength: float, candidates: int = 100) -> ScoreFunction:
    """Maximal marginal relevance: score - strength * the highest similarity to an item above it.

    Carbonell and Goldstein (SIGIR 1998), on scores scaled to 0..1 over a user's ``candidates`` best items;
    similarities are cosines of the vectors that ``ild`` measures.
    """
    vectors = torch.from_numpy(catalogue_of(source.dataset).vectors)  # (I, d)

    def start(users: Tensor, items: Tensor) -> Step:
        near = vectors.to(items.device)[items]  # (B, C, d)
        highest = torch.zeros(items.shape, device=items.device)  # (B, C)

        def step(relevance: Tensor, last: Tensor | None) -> Tensor:
            if last is not None:
                chosen = near[torch.arange(len(near)), last]  # (B, d)
                torch.maximum(highest, (near @ chosen[..., None]).squeeze(2), out=highest)
            return relevance - strength * highest

        return step

    return _greedy(source, start, candidates)


def xquad(source: Source, *, strength: float, candidates: int = 100) -> ScoreFunction:
    """Cover the user's groups: score + strength * sum_g p(g|u) p(i|g) prod over items above (1 - p(j|g)).

    xQuAD (Santos, Macdonald and Ounis, WWW 2010) with the head and the long tail as groups, each as frequent
    as in the user's train items (Abdollahpouri, Burke and Mobasher, FLAIRS 2019, arXiv 1901.07555, binary
    form: a group counts until an item of it is in the list).
    """
    known = catalogue_of(source.dataset)
    groups = torch.from_numpy(np.stack([~known.tail, known.tail], 1)).float()  # (I, 2)
    train = source.dataset.episodes.train.csr
    share = np.asarray(train @ groups.numpy()) + 0.5  # (U, 2) no group has probability 0
    taste = torch.from_numpy(share / share.sum(1, keepdims=True)).float()

    def start(users: Tensor, items: Tensor) -> Step:
        own = groups.to(items.device)[items]  # (B, C, 2)
        wanted = taste.to(items.device)[users]  # (B, 2)
        held = torch.zeros_like(wanted)  # (B, 2) items of each group in the list

        def step(relevance: Tensor, last: Tensor | None) -> Tensor:
            if last is not None:
                held.add_(own[torch.arange(len(own)), last])
            missing = 1 - held / held.sum(1, keepdim=True).clamp(min=1)  # (B, 2) smooth form of the product
            return relevance + strength * (own @ (wanted * missing)[..., None]).squeeze(2)

        return step

    return _greedy(source, start, candidates)


def calibrated(source: Source, *, strength: float, candidates: int = 100) -> ScoreFunction:
    """Choose items by score - strength * the KL divergence of the list from the user's history over groups.

    Steck (RecSys 2018), greedy, with the groups and the smoothing of the metric ``calibration``; scores are
    scaled to 0..1 over the candidates.
    """
    known = catalogue_of(source.dataset)
    groups, taste = torch.from_numpy(known.groups), torch.from_numpy(known.taste)  # (I, G), (U, G)

    def start(users: Tensor, items: Tensor) -> Step:
        own = groups.to(items.device)[items]  # (B, C, G)
        wanted = taste.to(items.device)[users][:, None]  # (B, 1, G)
        held = torch.zeros_like(wanted)  # (B, 1, G)

        def step(relevance: Tensor, last: Tensor | None) -> Tensor:
            if last is not None:
                held.add_(own[torch.arange(len(own)), last][:, None])
            size = held.sum(2, keepdim=True) + 1  # (B, 1, 1)
            share = (1 - SMOOTHING) * (held + own) / size + SMOOTHING * wanted  # (B, C, G)
            # KL(p || q) = sum p log p - sum p log q; the first sum is the same for all candidates.
            return relevance + strength * (wanted * share.clamp(min=1e-12).log()).sum(2)

        return step

    return _greedy(source, start, candidates)


def cover(source: Source, *, strength: float, slots: int = 5) -> ScoreFunction:
    """Put items that no list holds into the last places of lists, each of a user who scores it best.

    A greedy assignment over all users at once: the share ``strength`` (at most 1) of the uncovered items,
    those with the best scores first, each replaces one of the last ``slots`` items of a list, if another list
    holds that one, too.
    """
    check_setting("strength", strength, Annotated[float, Meta(ge=0, le=1)])
    check_setting("slots", slots, Size)
    lists, best, where = _lists_and_best(source)
    counts = np.bincount(lists[lists >= 0], minlength=source.dataset.num_items)
    missing = np.flatnonzero((counts == 0) & np.isfinite(best.max(0)))  # (m,)
    order = missing[np.argsort(-best[:, missing].max(0), kind="stable")]
    free = np.full(len(lists), min(slots, source.k))  # (n,)
    for item in order[: round(strength * order.size)]:
        for user in where[:, item]:
            place = source.k - 1 - (min(slots, source.k) - free[user])
            old = lists[user, place]
            if free[user] and (old < 0 or counts[old] > 1):
                if old >= 0:
                    counts[old] -= 1
                lists[user, place], counts[item] = item, 1
                free[user] -= 1
                break
    return _of_lists(source, lists)


def spread(source: Source, *, strength: float) -> ScoreFunction:
    """Make lists one user after the other by score - strength * unit * log(1 + lists that hold the item).

    A greedy assignment for even exposure that needs no user in advance: it runs online, each list counts for
    those after it. Users come in a random order; unit is the mean standard deviation of a user's scores.
    """
    weight = strength * source.unit()
    lists = np.full((len(source.users), source.k), -1, np.int64)  # (n, K)
    held = torch.zeros(source.dataset.num_items)  # (I,)
    order = np.random.default_rng(0).permutation(len(source.users))
    for places in np.array_split(order, max(1, -(-order.size // BATCH))):
        scores = source.masked(torch.from_numpy(source.users[places])).cpu()  # (B, I)
        for place, row in zip(places, scores, strict=True):
            value, items = (row - weight * torch.log1p(held)).topk(source.k)  # (K,)
            items = items[value > -torch.inf]
            held[items] += 1
            lists[place, : items.numel()] = items.numpy()
    return _of_lists(source, lists)


Step = Callable[[Tensor, Tensor | None], Tensor]
"""Relevance (B, C) and the candidate chosen last (B,), None at first -> each candidate's value (B, C)."""
Start = Callable[[Tensor, Tensor], Step]
"""Users (B,) and their candidates (B, C) -> the steps of a greedy choice."""
Reranker = Callable[..., ScoreFunction]
"""A source and options -> other scores."""
RERANKERS: Mapping[str, Reranker] = {
    "popularity_penalty": popularity_penalty,
    "popularity_power": popularity_power,
    "mmr": mmr,
    "xquad": xquad,
    "calibrated": calibrated,
    "cover": cover,
    "spread": spread,
}
"""Name -> the function that makes a re-ranker."""
OVER_USERS = ("cover", "spread")
"""Those whose lists depend on the other users; ``cover`` needs all users at once."""
_OPTIONS = {"strength": Nonnegative, "candidates": Size, "slots": Size}


def reranked(
    name: str,
    score: ScoreFunction,
    dataset: Dataset,
    split: str = "test",
    *,
    users: npt.NDArray[np.int64] | None = None,
    k: int | None = None,
    **options: Any,
) -> ScoreFunction:
    """Return the scores of a re-ranker, which ``evaluate`` ranks into its lists.

    Args:
        name: of ``RERANKERS``.
        score: the model.
        dataset: the data set that is evaluated.
        split: the split that is evaluated.
        users: whose lists are made; None: all evaluated users.
        k: list length; None: the longest of the evaluation.
        **options: ``strength``, and ``candidates`` or ``slots`` where the re-ranker has it.

    Raises:
        ValueError: for an unknown name, with a did-you-mean.
        SettingError: for an unknown option, or one out of its bounds.

    Example:
        >>> from refit_env.data import load_dataset
        >>> data = load_dataset("synthetic")
        >>> counts = torch.from_numpy(catalogue_of(data).counts).float()
        >>> other = reranked("popularity_power", lambda u: counts.repeat(len(u), 1), data, strength=2.0)
        >>> int(other(torch.tensor([0])).argmax()) != int(counts.argmax())
        True
    """
    return reranked_with(name, options, score, dataset, split, users=users, k=k)


def reranked_with(
    name: str,
    options: Mapping[str, Any],
    score: ScoreFunction,
    dataset: Dataset,
    split: str = "test",
    *,
    users: npt.NDArray[np.int64] | None = None,
    k: int | None = None,
) -> ScoreFunction:
    """Return the scores of a re-ranker as ``reranked`` does, with options that a user named.

    Here an unknown option may have the name of an argument of ``reranked``, such as ``split``.
    """
    if name not in RERANKERS:
        raise unknown_name("re-ranker", name, RERANKERS)
    known = option_names(name)
    for option, value in options.items():
        if option not in known:
            raise unknown_setting(option, f"re-ranker {name!r}", known)
        check_setting(option, value, _OPTIONS[option])
    data = dataset.episodes
    chosen = evaluated_users(data, split, users)
    length = max(list_lengths(data)) if k is None else k
    return RERANKERS[name](Source(score, data, split, chosen, length), **{"strength": 1.0, **options})


def option_names(name: str) -> list[str]:
    """Return the options of a re-ranker.

    Example:
        >>> option_names("mmr")
        ['strength', 'candidates']
    """
    code = RERANKERS[name].__code__
    return list(code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])


def _greedy(source: Source, start: Start, candidates: int) -> ScoreFunction:
    """Return scores whose lists are chosen item by item among each user's best items."""

    def score(users: Tensor) -> Tensor:
        plain = source.masked(users)  # (B, I)
        value, items = plain.topk(min(max(candidates, source.k), plain.shape[1]), dim=1)  # (B, C)
        there = value > -torch.inf
        lowest = value.masked_fill(~there, torch.inf).amin(1, keepdim=True)
        span = (value[:, :1] - lowest).clamp(min=1e-12)
        relevance = ((value - lowest) / span).masked_fill(~there, -torch.inf)  # (B, C) in 0..1
        step, last, chosen = start(users, items), None, []
        for _ in range(min(source.k, items.shape[1])):
            total = step(relevance, last).masked_fill(~there, -torch.inf)
            last = total.argmax(1)  # (B,)
            there[torch.arange(len(users)), last] = False
            chosen.append(items.gather(1, last[:, None]))
        return _on_top(plain, torch.cat(chosen, 1))

    return score


def _on_top(scores: Tensor, lists: Tensor) -> Tensor:
    """(B, I) ``scores`` scaled to 0..1, with the items of ``lists`` (B, K) above all others; -1: none."""
    finite = scores.masked_fill(scores == -torch.inf, torch.inf).amin(1, keepdim=True)  # (B, 1)
    low = scores.clamp(min=finite)  # (B, I) masked items as low as the lowest
    out = (low - finite) / (low.amax(1, keepdim=True) - finite).clamp(min=1e-12)
    k = lists.shape[1]
    rank = torch.arange(k, 0, -1, device=scores.device, dtype=out.dtype).expand(lists.shape)  # (B, K)
    there = lists >= 0
    rows = torch.arange(len(lists), device=scores.device)[:, None].expand(lists.shape)
    out[rows[there], lists[there]] = 1 + rank[there]
    return out


def _of_lists(source: Source, lists: npt.NDArray[np.int64]) -> ScoreFunction:
    """Return scores whose lists are ``lists`` (n, K) of the source's users; others keep their own."""
    place = np.full(source.dataset.num_users, -1, np.int64)
    place[source.users] = np.arange(len(source.users))

    def score(users: Tensor) -> Tensor:
        at = place[users.cpu().numpy()]  # (B,)
        own = torch.from_numpy(np.where(at[:, None] >= 0, lists[at], -1)).to(users.device)
        return _on_top(source.masked(users), own)

    return score


def _lists_and_best(
    source: Source, users_each: int = 50
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the lists (n, K), and of each item the best scores and their users' places, (m, I) each."""
    lists, best, where = [], None, None
    for places in np.array_split(np.arange(len(source.users)), max(1, -(-len(source.users) // BATCH))):
        scores = source.masked(torch.from_numpy(source.users[places])).cpu()  # (B, I)
        value, items = scores.topk(source.k, dim=1)
        lists.append(torch.where(value > -torch.inf, items, -1).numpy())
        at = torch.from_numpy(places)[:, None].expand(scores.shape)
        best = scores if best is None else torch.cat([best, scores])
        where = at if where is None else torch.cat([where, at])
        best, order = best.topk(min(users_each, len(best)), dim=0)
        where = where.gather(0, order)
    assert best is not None and where is not None
    return np.concatenate(lists), best.numpy(), where.numpy()


def rerankers_for(names: Sequence[str] = ()) -> list[str]:
    """Return the re-rankers named, all if none is; ValueError with a did-you-mean for an unknown one."""
    for name in names:
        if name not in RERANKERS:
            raise unknown_name("re-ranker", name, RERANKERS)
    return list(names or RERANKERS)
