"""Small valid files of every data format, with functions that damage and read them."""

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from refit_env.data import load_canonical, save_dataset, synthesize_checkins, synthesize_social
from refit_env.data.prepare import prepare
from refit_env.data.readers.safe_unpickle import read_inert
from refit_env.data.recipe import Recipe
from tests.fuzzing import mutate_bytes, mutate_json

Mutation = Callable[[bytes, random.Random], bytes]
Files = dict[str, bytes]
_NUMBERS = "0 -1 1 007 1_0 nan inf -inf 1e5 1e12 1e999 2.5 0x1F True 4294967296 1500000000000".split()
_TEXTS = 'x " "x \' [red] , :: LOC_null USER_ None null {} train a|b|c 2020-01-01 9999-99-99 \u0663'.split()
_CONTROL = ("", " ", "\x1b[31m", "\ufeff", "\0", "\n", "\r", "\t")
_LONG = ("9" * 18, "9" * 19, "9" * 400, "9" * 5000, "x" * 5000, "[" * 3000)
WORDS = (*_NUMBERS, *_TEXTS, *_CONTROL, *_LONG)
"""Replacements for a field of a text."""
OPERATIONS = b"(.012BCFGIJKLMNPQRSTUVX]abcdeghijlopqrstu})" + bytes(range(0x80, 0x99))
"""Operations of a pickle, including refused ones."""


def mutate_text(content: bytes, rng: random.Random) -> bytes:
    """Change fields of a text, the separator, lines, or its bytes."""
    kind = rng.randrange(6)
    if kind == 0:
        return mutate_bytes(content, rng)
    if kind == 1:
        lines = content.split(b"\n")
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        return b"\n".join([*lines[:at], lines[to] * rng.choice((0, 1, 2)), *lines[at + rng.choice((0, 1)) :]])
    if kind == 2:
        old = rng.choice((b",", b"\t", b"::", b"\n", b" ", b"|"))
        new = rng.choice((b",", b"\t", b";", b"\r\n", b"", b" ", b"\xff", b"\n\n"))
        return content.replace(old, new, rng.choice((-1, 1, 1)))
    fields = list(re.finditer(rb"[^,\t:;|\n\r ]+", content)) or list(re.finditer(b"", content))
    chosen = rng.choice(fields[: rng.choice((8, 10**6))])
    word = rng.choice(WORDS).encode()
    return content[: chosen.start()] + word + content[chosen.end() :]


def mutate_pickle(content: bytes, rng: random.Random) -> bytes:
    """Change bytes, insert operations, or write some at random."""
    if rng.random() < 0.5:
        return mutate_bytes(content, rng)
    words = b"".join(
        bytes([rng.choice(OPERATIONS)]) + bytes(rng.choices((0, 1, 2, 255), k=rng.choice((0, 0, 1, 4))))
        for _ in range(rng.randrange(1, 12))
    )
    at = rng.randrange(len(content) + 1)
    return rng.choice((content[:at] + words + content[at:], words + b".", content[:-1] + words + b"."))


def mutate_table(content: bytes, rng: random.Random) -> bytes:
    """Change the bytes of a parquet file, or its columns."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    table = pd.read_parquet(BytesIO(content))
    name, size = rng.choice(list(table.columns)), len(table)
    odd: list[Callable[[], Any]] = [
        lambda: [rng.choice(WORDS) for _ in range(size)],
        lambda: [rng.choice((-1, 0, 1, 2**31, -(2**63))) for _ in range(size)],
        lambda: np.full(size, rng.choice((np.nan, np.inf, 1e300, 0.5, -0.0))),
        lambda: [[1, 2]] * size,
        lambda: [{"a": 1}] * size,
        lambda: [None] * size,
        lambda: [b"\xff"] * size,
        lambda: pd.to_datetime([0] * size),
        lambda: pd.Categorical(["a"] * size),
        lambda: [bool(n % 2) for n in range(size)],
    ]
    kind = rng.randrange(5)
    if kind == 0:
        table = table.drop(columns=[name])
    elif kind == 1:
        table = table.iloc[[rng.randrange(size) for _ in range(rng.choice((0, 1, size, 2 * size)))]]
    elif kind == 2:
        table = table.rename(columns={name: rng.choice(("", "x" * 5000, "\x1b[31m", "user"))})
        table = table.loc[:, ~table.columns.duplicated()]
    else:
        table[name] = rng.choice(odd)()
    buffer = BytesIO()
    table.to_parquet(buffer, index=rng.choice((True, False)))
    return buffer.getvalue()


def mutate_lines(content: bytes, rng: random.Random) -> bytes:
    """Damage one line of JSON, or the text."""
    if rng.random() < 0.3:
        return mutate_text(content, rng)
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng)
    return b"\n".join(lines)


@dataclass(frozen=True)
class Case:
    """Valid files of one format, with functions that damage and read them."""

    files: Files
    mutate: dict[str, Mutation]
    read: Callable[[Path], object]


def prepared(format: str, **options: Any) -> Callable[[Path], object]:
    return lambda folder: prepare("shop", folder, Recipe(format=format, **options))


def text_case(files: dict[str, str], format: str, **options: Any) -> Case:
    return Case(
        {name: text.encode() for name, text in files.items()},
        dict.fromkeys(files, mutate_text),
        prepared(format, **options),
    )


def saved(write: Callable[[BytesIO], object]) -> bytes:
    buffer = BytesIO()
    write(buffer)
    return buffer.getvalue()


def text_cases() -> dict[str, Case]:
    """Return one case of each text format."""
    start = 1_500_000_000
    pairs = [(u, i, 1 + (u + i) % 5, start + 60 * i) for u in range(6) for i in range(12)]

    def table(line: str, header: str = "") -> str:
        """Format one line per interaction, of user, item, rating and time."""
        return header + "".join(line.format(u=u, i=i, r=r, t=t, later=t + 5) for u, i, r, t in pairs)

    csv = table('{u},{i},{r},{t},"a, b"\n', "user,item,rating,timestamp,note\n")
    inter = table("{u}\t{i}\t{r}\t{t}\n", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n")
    clicks = table("{u},2017-07-14T0{u}:{i:02d}:00.000Z,{i},0\n")
    watched = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    shown = ",".join(f"{i}|{start}|{start + i}" for i in range(12))
    venues = table("{u}\tv{i}\tc\tCafe\t35.{i}\t139.{i}\t540\tTue Apr 03 18:{i:02d}:09 +0000 2012\n")
    visits = table("USER_{u}\tLOC_{i}\t1.{i},103.{i}\t04:12\t0\n").splitlines(keepends=True)
    lists = "".join(f"{u} {' '.join(str((u + i) % 12) for i in range(6))}\n" for u in range(6))
    review = '{{"user_id": "u{u}", "business_id": "b{i}", "stars": {r}, "date": "2017-01-01", "x": [1]}}\n'
    friends = "".join(f'{{"user_id": "u{u}", "friends": "u{u - 1}, u9"}}\n' for u in range(6))
    sessions = {"task": "sequential", "split": "sessions", "valid_share": 0.2, "test_share": 0.2}
    return {
        "u.data": text_case({"u.data": table("{u}\t{i}\t{r}\t{t}\n")}, "u.data"),
        "ratings.dat": text_case({"ratings.dat": table("{u}::{i}::{r}::{t}\n")}, "ratings.dat"),
        "csv": text_case({"ratings.csv": csv}, "csv", min_rating=1, split="time"),
        "csv of text": text_case({"ratings.csv": csv}, "csv", token_ids=True, drop_blank=True),
        "inter": text_case({"shop.inter": inter}, "inter"),
        "lightgcn": text_case({"train.txt": lists, "test.txt": "0 6\n1 7\n"}, "lightgcn", split="published"),
        "yoochoose": text_case({"yoochoose-clicks.dat": clicks}, "yoochoose", **sessions),
        "kuairec": text_case({"big_matrix.csv": table("{u},{i},1,2,x,3,{t}.5,{r}\n", watched)}, "kuairec"),
        "zhihu": text_case({"inter_impression.csv": table("{u},{i},{t},{later}\n")}, "zhihu"),
        "zhihu1M": text_case({"zhihu1M.txt": "".join(f"{u}\t12\t{shown}\t0\n" for u in range(6))}, "zhihu"),
        "tsmc2014": text_case({"dataset_TSMC2014_NYC.txt": venues}, "tsmc2014", task="poi"),
        "lbsn": text_case(
            {f"{part}.txt": "".join(visits[n::3]) for n, part in enumerate(("train", "tune", "test"))},
            "lbsn",
            task="poi",
            split="published",
        ),
        "yelp": Case(
            {"review.json": table(review).encode(), "user.json": friends.encode()},
            dict.fromkeys(("review.json", "user.json"), mutate_lines),
            prepared("yelp", task="social"),
        ),
    }


def binary_cases(folder: Path) -> dict[str, Case]:
    """Return one case of each binary format, and of the canonical form."""
    pairs = np.array([(u, i) for u in range(6) for i in range(12)])
    arrays = {
        f"{name}_list.npy": saved(lambda file, part=part: np.save(file, pairs[part::3]))
        for part, name in enumerate(("train", "valid", "test"))
    }
    rating = np.column_stack([pairs + 1, pairs[:, :1] * 0 + 5, pairs[:, :1] % 5 + 1, pairs[:, :1] * 0])
    matrices = {
        "rating.mat": saved(lambda file: scipy.io.savemat(file, {"rating": rating}, do_compression=True)),
        "trustnetwork.mat": saved(lambda file: scipy.io.savemat(file, {"trustnetwork": [[1, 2], [2, 3]]})),
    }
    parts = {
        name: sp.coo_matrix((np.ones(24), (pairs[part::3, 0], pairs[part::3, 1])), shape=(6, 12))
        for part, name in enumerate(("train", "val", "test"))
    }
    trust = sp.coo_matrix(np.eye(6, k=1))
    recdiff = pickle.dumps({**parts, "trust": trust, "userCount": 6, "itemCount": 12}, 4)
    frame = pd.DataFrame({0: [[9, 9], [0, 9], [0, 1], [1, 2]], 1: [1, 1, 2, 2], 2: [0, 1, 2, 3]})
    frame.columns = pd.Index(["seq", "len_seq", "next"], dtype=object)
    frames = {f"{name}_data.df": pickle.dumps(frame, 4) for name in ("train", "val", "test")}
    social = replace(
        synthesize_social(num_users=60, num_items=30, meets=10),
        user_ids=np.array([f"user {n}" for n in range(60)], dtype=object),
        item_ids=np.arange(100, 130),
    )
    places = synthesize_checkins(num_users=20, num_items=30)
    return {
        "diffrec": Case(arrays, dict.fromkeys(arrays, mutate_bytes), prepared("diffrec", split="published")),
        "tang": Case(matrices, dict.fromkeys(matrices, mutate_bytes), prepared("tang", task="social")),
        "recdiff": Case(
            {"dataset.pkl": recdiff},
            {"dataset.pkl": mutate_pickle},
            prepared("recdiff", task="social", split="published"),
        ),
        "dreamrec": Case(
            frames,
            dict.fromkeys(frames, mutate_pickle),
            prepared("dreamrec", task="sequential", time_ordered=True, split="published"),
        ),
        "pickle": Case(
            {"some.pkl": pickle.dumps([1, "a", {"b": (2, None)}], 2)}, {"some.pkl": mutate_pickle}, read_some
        ),
        "canonical": canonical_case(save_dataset(social, folder / "social")),
        "canonical places": canonical_case(save_dataset(places, folder / "places")),
    }


def read_some(folder: Path) -> object:
    with (folder / "some.pkl").open("rb") as file:
        return read_inert(folder / "some.pkl", file)


def canonical_case(folder: Path) -> Case:
    """Return a canonical folder without checksums, which would detect every damage of a table."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    info = json.loads(files["dataset.json"])
    files["dataset.json"] = json.dumps(info | {"sha256": {}}).encode()
    mutate = {name: mutate_json if name == "dataset.json" else mutate_table for name in files}
    return Case(files, mutate, load_canonical)
