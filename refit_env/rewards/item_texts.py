"""Texts of items: their titles, and vectors of their words.

Letters: I items, V words.
"""

from __future__ import annotations

import re

import numpy as np
import scipy.sparse as sp

from refit_env.data.dataset import Dataset

TEXTS = ("title", "name", "text", "description", "genres", "categories", "category")
"""Features of items that hold texts, in the order in which they are joined."""
_WORD = re.compile(r"[^\W_]+")


def item_texts(dataset: Dataset) -> list[str]:
    """Return the texts of each item (I,), its features of ``items.parquet`` joined.

    Raises:
        ValueError: where the items have none.
    """
    features = dataset.episodes.item_features or {}
    names = [name for name in TEXTS if name in features]
    if not names:
        known = ", ".join(features) or "no features"
        raise ValueError(
            f"the items of {dataset.name!r} have no texts ({known}): items.parquet needs a column "
            f"{' or '.join(TEXTS[:3])}"
        )
    columns = [[str(value).replace("|", " ") for value in features[name]] for name in names]
    return [" ".join(parts) for parts in zip(*columns, strict=True)]


def text_vectors(dataset: Dataset) -> sp.csr_matrix:
    """Return the TF-IDF weights (I, V) of the words of each item's texts.

    A word counts once an item; its weight is log(I / items with it). Words of a single item are left out.

    Raises:
        ValueError: where the items have no texts.
    """
    words = [sorted(set(_WORD.findall(text.lower()))) for text in item_texts(dataset)]
    number = {word: n for n, word in enumerate(sorted({word for some in words for word in some}))}
    rows = np.repeat(np.arange(len(words)), [len(some) for some in words])
    columns = np.array([number[word] for some in words for word in some], np.int64)
    there = sp.csr_matrix(
        (np.ones(rows.size, np.float32), (rows, columns)), (len(words), max(1, len(number)))
    )
    counts = np.asarray(there.sum(0)).ravel()  # (V,)
    weight = np.where(counts > 1, np.log(len(words) / np.maximum(counts, 1)), 0.0)
    out = sp.csr_matrix(there @ sp.diags(weight))
    out.eliminate_zeros()
    return out
