from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from agents.cli import main
from agents.serving.everyone import Columns, Lists, write_lists
from agents.serving.ranker import Query, Ranker
from refit_env.backbones import backbone_for
from refit_env.data import Dataset, load_dataset, save_dataset, synthesize
from refit_env.policy import DiffusionPolicy


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """A run on data whose users have ids of text."""
    folder = tmp_path_factory.mktemp("shop")
    data = synthesize(num_users=30, num_items=50)
    data = replace(data, name="shop", user_ids=np.array([f"user-{n:02d}" for n in range(30)], dtype=object))
    save_dataset(replace(data, item_ids=np.arange(50) * 7), folder / "data")
    data = load_dataset(folder / "data")
    run = folder / "run"
    DiffusionPolicy(backbone_for(data, "diffrec", seed=0), num_steps=2).save(run, data)
    config = {"command": "pretrain", "env": "ReFiT-Custom-v0", "data": str(folder / "data")}
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text("{}")
    return run, data


def written(run: Path, out: Path, *words: str) -> Any:
    assert main(["recommend", "--run", str(run), "--all-users", "--out", str(out), *words]) == 0
    return pq.read_table(out).to_pandas()


def test_the_file_holds_each_users_list_by_the_sources_ids(
    shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = shop
    table = written(run, tmp_path / "lists.parquet", "--top", "5", "--users-per-batch", "7", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["users"] == 30 and report["rows"] == len(table) == 150
    assert list(table.columns) == ["user", "rank", "item", "score"]
    ranker = Ranker(DiffusionPolicy.load(run), data)
    for number, (user, rows) in enumerate(table.groupby("user", sort=False)):
        (own,) = ranker.rank([Query(number)], 5)
        assert user == f"user-{number:02d}" and rows["rank"].tolist() == [1, 2, 3, 4, 5]
        assert rows["item"].tolist() == (own.items * 7).tolist()
        np.testing.assert_allclose(rows["score"], own.scores, rtol=1e-4, atol=1e-6)
    known = pq.read_schema(tmp_path / "lists.parquet").metadata
    assert known[b"refit.weights"].decode() == report["weights"] and known[b"refit.top"] == b"5"


def test_lists_end_where_items_do_and_hold_what_is_allowed(shop: Any, tmp_path: Path) -> None:
    run, data = shop
    deny = tmp_path / "deny.txt"
    deny.write_text("0\n1\n2")
    table = written(run, tmp_path / "a.parquet", "--deny", str(deny), "--top", "47", "--internal-ids")
    lengths = table.groupby("user").size()
    for user in range(30):
        known = set().union(*(data.split(split).of(user).tolist() for split in ("train", "valid", "test")))
        assert lengths[user] == len(set(range(3, 50)) - known)
        assert not {*table[table["user"] == user]["item"]} & (known | {0, 1, 2})


def test_a_run_that_fails_leaves_the_former_file(shop: Any, tmp_path: Path) -> None:
    _, data = shop
    out = tmp_path / "lists.parquet"
    out.write_bytes(b"former")

    def batches() -> Iterator[Any]:
        yield {"user": np.array([0]), "rank": np.array([1]), "item": np.array([2]), "score": np.array([0.5])}
        raise MemoryError

    with pytest.raises(MemoryError):
        write_lists(out, batches(), Columns(data.users_by_id, data.items_by_id), {}, total=30)
    assert out.read_bytes() == b"former" and [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_batches_are_made_one_at_a_time(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = shop
    ranker, sizes = Ranker(DiffusionPolicy.load(run), data), list[int]()
    rank = ranker.rank

    def counted(queries: Any, top: int) -> Any:
        sizes.append(len(queries))
        return rank(queries, top)

    monkeypatch.setattr(ranker, "rank", counted)
    made = Lists(3, batch=8).batches(ranker)
    next(made)
    assert sizes == [8]
    assert sum(numbers["user"].size for numbers in made) == 22 * 3 and sizes == [8, 8, 8, 6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--all-users needs --out FILE"),
        (
            ["--out", "{0}.csv"],
            "lists.parquet.csv: the file is Parquet; let its name end so, as lists.parquet",
        ),
        (
            ["--out", "{0}", "--user", "user-07"],
            "writes the lists of all users; leave --user out",
        ),
        (["--out", "{0}", "--history", "7"], "leave --history out"),
        (["--out", "{0}", "--protocol"], "leave --protocol out"),
        (["--out", "{0}", "--repeats"], "cannot repeat what a person has"),
        (["--out", "{0}", "--top", "51"], "--top 51 must lie in 1..50, the items that may be in a list"),
        (["--out", "{0}", "--users-per-batch", "0"], "--users-per-batch must be >= 1"),
    ],
)
def test_mistakes(
    shop: Any, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(tmp_path / "lists.parquet") for word in words]
    assert main(["recommend", "--run", str(shop[0]), "--all-users", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_file_that_exists_stays(shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lists.parquet"
    out.write_text("mine")
    assert main(["recommend", "--run", str(shop[0]), "--all-users", "--out", str(out)]) == 2
    assert f"--out {out} exists already" in capsys.readouterr().err and out.read_text() == "mine"
    assert main(["recommend", "--run", str(shop[0]), "--user", "user-07", "--out", str(out)]) == 2
    assert "--out and --overwrite belong to --all-users" in capsys.readouterr().err
    assert len(written(shop[0], out, "--overwrite")) == 300


def test_ray_that_is_missing_is_named(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["recommend", "--run", str(shop[0]), "--all-users", "--engine", "ray"]
    assert main([*words, "--out", str(tmp_path / "a.parquet")]) == 2
    message = "--engine ray needs ray, which is not installed: pip install 'refit-env[ray]'"
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_of_the_run_and_of_its_data_are_never_replaced(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = shop
    data, weights = run.parent / "data" / "interactions.parquet", run / "policy.safetensors"
    before = data.read_bytes(), weights.read_bytes()
    lists = ["recommend", "--run", str(run), "--all-users", "--overwrite", "--out", str(data)]
    assert main(lists) == 2
    assert f"--out {data} is a file of a data set, which is never replaced" in capsys.readouterr().err
    assert main(["export", "--run", str(run), "--format", "torch", "--overwrite", "--out", str(weights)]) == 2
    assert f"--out {weights} is a file of a run" in capsys.readouterr().err
    assert (data.read_bytes(), weights.read_bytes()) == before
