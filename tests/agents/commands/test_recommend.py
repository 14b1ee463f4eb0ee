from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.cli import main
from agents.commands.recommend_run import Choice, recommend
from agents.serving.ranker import Query, Ranker
from refit_env.backbones import backbone_for
from refit_env.data import (
    Dataset,
    Interactions,
    load_dataset,
    save_dataset,
    synthesize,
    synthesize_checkins,
    synthesize_sessions,
    synthesize_social,
)
from refit_env.data.interactions import SPLITS
from refit_env.evaluation.ranking import evaluate
from refit_env.policy import DiffusionPolicy


def known(dataset: Dataset, user: int) -> set[int]:
    return {int(item) for split in SPLITS for item in dataset.split(split).of(user)}


def recommended(run: Path, user: object, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["recommend", "--run", str(run), f"--user={user}", "--json", *options]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Dataset]:
    """A run on data whose source has titles, and ids of text with leading zeros."""
    folder = tmp_path_factory.mktemp("shop")
    data = synthesize(num_users=30, num_items=50)
    data = replace(
        data,
        name="shop",
        user_ids=np.array([f"user-{n:02d}" for n in range(30)], dtype=object),
        item_ids=np.array([f"{n:010d}" for n in range(50)], dtype=object),
        item_features={"title": np.array([f"[bold]No. {n}[/]" for n in range(50)], dtype=object)},
    )
    save_dataset(data, folder / "data")
    policy = DiffusionPolicy(backbone_for(data, "diffrec", seed=0), num_steps=2)
    run = folder / "run"
    policy.save(run)
    config = {"command": "pretrain", "env": "ReFiT-Custom-v0", "data": str(folder / "data")}
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text("{}")
    return run, folder / "data", load_dataset(folder / "data")


def test_ids_of_the_source_in_and_out(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, data = shop
    report = recommended(run, "user-07", capsys, "--top", "5")
    assert report["user"] == "user-07" and report["user_number"] == 7
    for row in report["items"]:
        assert row["item"] == f"{row['item_number']:010d}" == data.item_ids[row["item_number"]]
        assert row["name"] == f"[bold]No. {row['item_number']}[/]" and "held_out" not in row
    inside = recommended(run, 7, capsys, "--top", "5", "--internal-ids")
    assert inside["user"] == 7
    assert [row["item"] for row in inside["items"]] == [row["item_number"] for row in report["items"]]
    assert main(["recommend", "--run", str(run), "--user", "user-07", "--top", "3"]) == 0
    table = capsys.readouterr().out
    assert "user 'user-07' (number 7) of shop" in table and "[bold]No. " in table
    assert report["items"][0]["item"] in table and "keeps no ids" not in table


def test_the_deployed_list_is_made_from_and_leaves_out_all_that_is_known(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, data = shop
    policy = DiffusionPolicy.load(run)
    for user in range(30):
        rest = data.num_items - len(known(data, user))
        report = recommended(run, user, capsys, "--internal-ids", "--top", str(rest))
        assert {row["item"] for row in report["items"]} == set(range(50)) - known(data, user)
        row = torch.zeros(1, 50)
        row[0, sorted(known(data, user))] = 1.0
        scores = policy.recommend_scores(torch.tensor([user]), row)[0]
        for item in report["items"]:
            assert item["score"] == pytest.approx(float(scores[item["item"]]), rel=1e-4, abs=1e-5)
    assert any(len(data.valid.of(user)) for user in range(30))


def test_the_protocols_list_is_the_evaluated_one(
    pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load_dataset("synthetic")
    lists = evaluate(DiffusionPolicy.load(pretrained).scorer(dataset), dataset, "test")
    for user in (0, 7, 123):
        row = lists.lists[list(lists.users).index(user)]
        report = recommended(pretrained, user, capsys, "--protocol")
        assert [item["item"] for item in report["items"]] == row[:10].tolist()
        marked = {item["item"] for item in report["items"] if item["held_out"] == "test"}
        assert marked == set(row[:10].tolist()) & set(dataset.test.of(user).tolist())


def test_without_ids_of_the_source_the_numbers_are_the_ids(
    pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "--run", str(pretrained), "--user", "5", "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert "user 5 of synthetic" in out
    assert "synthetic keeps no ids of its source: users and items are its own numbers" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user=-1"], "--user: user '-1' must lie in 0..799; 'synthetic' keeps no ids of its source"),
        (["--user=800"], "must lie in 0..799"),
        (["--user=007"], "must lie in 0..799"),
        (["--user=007", "--internal-ids"], "--user '007' must lie in 0..799, the numbers of the users"),
        (["--user=5", "--repeats"], "lists of 'synthetic' cannot repeat what a person has"),
        (["--user=5", "--repeats", "--protocol"], "which --repeats does not change"),
        (["--user=5", "--top=0"], "--top must be >= 1 and"),
        (["--user=5", "--top=100000"], "the items that may be in the list of user 5"),
    ],
)
def test_mistakes(
    pretrained: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "--run", str(pretrained), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_unknown_id_gets_a_suggestion(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--run", str(shop[0]), "--user", "user-7"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "--user: unknown user 'user-7'. Did you mean 'user-07'? 'shop' has 30 users" in err
    assert "--internal-ids accepts numbers, 0..29" in err


def events(dataset: Dataset, user: int) -> list[int]:
    return [int(item) for split in SPLITS for item in dataset.split(split).of(user)]


@pytest.mark.parametrize("backbone", ["dreamrec", "diff-poi"])
def test_in_order_of_time_the_input_is_the_end_of_the_whole_history(backbone: str) -> None:
    make = {"dreamrec": synthesize_sessions, "diff-poi": synthesize_checkins}[backbone]
    data = make()
    policy = DiffusionPolicy(backbone_for(data, backbone, seed=0), num_steps=2).eval()
    # One more event, whatever it is: evaluation's row of it shows just the history that is known now.
    users = np.arange(data.num_users)
    more = Interactions.from_pairs(users, users * 0, data.num_users, data.num_items)
    parts = [data.split(split) for split in SPLITS]
    longer = Interactions.from_pairs(
        *(np.concatenate([getattr(p, name) for p in (*parts, more)]) for name in ("users", "items")),
        data.num_users,
        data.num_items,
    )
    none = Interactions.from_pairs([], [], data.num_users, data.num_items)
    timeless = [replace(part, timestamps=None) for part in parts]  # the event that is added has no time
    plain = replace(data, train=timeless[0], valid=timeless[1], test=timeless[2])
    rows = replace(data, train=longer, valid=none, test=none).episodes
    score = policy.scorer(rows)
    with pytest.raises(ValueError, match="none is left to recommend; --repeats allows items of the history"):
        recommend(policy, plain, None, choice=Choice(history=tuple(range(data.num_items))))
    for user in (0, 3, data.num_users - 1):
        row = int(np.flatnonzero(rows.sessions == user)[-1])  # type: ignore[attr-defined]
        want = score(torch.tensor([row]))[0]
        every = recommend(policy, plain, user, data.num_items, repeats=True)
        assert {item["item_number"] for item in every} == set(range(data.num_items))
        found = recommend(policy, plain, user, data.num_items - len(known(data, user)))
        assert {item["item_number"] for item in found} == set(range(data.num_items)) - known(data, user)
        for item in found:
            assert item["score"] == pytest.approx(float(want[item["item_number"]]), rel=1e-4, abs=1e-5)


def test_the_protocol_of_rows_is_the_last_row() -> None:
    data = synthesize_sessions()
    policy = (
        DiffusionPolicy(backbone_for(data, "dreamrec", seed=0), num_steps=2).double().eval()
    )  # no near ties
    lists = evaluate(policy.scorer(data.episodes), data, "test")
    rows: Any = data.episodes
    row = int(rows.rows_of("test")[-1])
    user = int(rows.sessions[row])
    found = recommend(policy, data, user, 10, protocol=True)
    assert [item["item_number"] for item in found] == lists.lists[list(lists.users).index(row)][:10].tolist()


@pytest.mark.parametrize("backbone", ["cf-diff", "recdiff", "hdrm", "t-diffrec", "l-diffrec"])
def test_every_backbone_of_rows_is_shown_all_that_is_known(backbone: str) -> None:
    data = synthesize_social() if backbone == "recdiff" else synthesize(num_users=40, num_items=60)
    policy = DiffusionPolicy(backbone_for(data, backbone, seed=0), num_steps=2).eval()
    user = int(np.flatnonzero(data.valid.counts)[0])
    want = policy.scorer(data.served)(torch.tensor([user]))[0]
    seen = policy.scorer(data)(torch.tensor([user]))[0]
    found = recommend(policy, data, user, data.num_items - len(known(data, user)))
    items = [item["item_number"] for item in found]
    assert [item["score"] for item in found] == pytest.approx(want[items].tolist(), rel=1e-4, abs=1e-5)
    assert not torch.allclose(want, seen, atol=1e-3, rtol=0)  # validation items change the list


@pytest.mark.parametrize("backbone", ["cf-diff", "hdrm", "t-diffrec", "l-diffrec", "linear", "dreamrec"])
def test_the_owner_of_a_history_gets_the_list_of_a_user_who_has_it(backbone: str) -> None:
    data = synthesize_sessions() if backbone == "dreamrec" else synthesize(num_users=40, num_items=60)
    policy = DiffusionPolicy(backbone_for(data, backbone, seed=0), num_steps=2).eval()
    for user in (0, 7):
        whole = (
            [int(item) for item in data.served.train.of(user)] if not data.has_rows else events(data, user)
        )
        top = data.num_items - len(known(data, user))
        own = recommend(policy, data, user, top)
        found = recommend(policy, data, None, top, choice=Choice(history=tuple(whole)))
        assert {row["item_number"] for row in found} == set(range(data.num_items)) - set(whole)
        scores = {row["item_number"]: row["score"] for row in own}
        for row in found:
            assert row["score"] == pytest.approx(scores[row["item_number"]], rel=1e-4, abs=1e-5)


def test_a_model_of_known_users_alone_refuses_a_history() -> None:
    data = synthesize_social()
    policy = DiffusionPolicy(backbone_for(data, "recdiff", seed=0), num_steps=2).eval()
    with pytest.raises(
        ValueError, match="--history: backbone 'recdiff' ranks for the users that it was trained"
    ):
        recommend(policy, data, None, choice=Choice(history=(1, 2)))


def test_a_history_of_the_sources_ids(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, _ = shop
    items = [f"{number:010d}" for number in (4, 9, 31)]
    assert main(["recommend", "--run", str(run), "--json", "--history", *items]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["history"] == items and report["history_numbers"] == [4, 9, 31]
    assert len(report["items"]) == 10 and not {row["item_number"] for row in report["items"]} & {4, 9, 31}
    assert main(["recommend", "--run", str(run), "--history", *items]) == 0
    assert "the owner of --history of shop" in capsys.readouterr().out


def test_a_repeated_item_of_a_history_is_ranked_as_the_service_does(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, data = shop
    items = [f"{number:010d}" for number in (4, 9, 4)]
    assert main(["recommend", "--run", str(run), "--json", "--history", *items]) == 0
    report = json.loads(capsys.readouterr().out)
    (served,) = Ranker(DiffusionPolicy.load(run), data).rank([Query(history=(4, 9, 4))], 10)
    assert report["history_numbers"] == [4, 9, 4]
    assert [row["item_number"] for row in report["items"]] == served.items.tolist()


def test_a_list_holds_what_is_allowed_and_nothing_that_is_denied(
    shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = shop
    free = recommended(run, "user-07", capsys, "--top", "30")["items"]
    allow, deny = tmp_path / "allow.txt", tmp_path / "deny.txt"
    allow.write_text("\n".join(row["item"] for row in free[::2]) + "\n\n")
    deny.write_text(f" {free[0]['item']}\n")
    options = ["--allow", str(allow), "--deny", str(deny), "--top", "5"]
    found = recommended(run, "user-07", capsys, *options)["items"]
    assert [row["item"] for row in found] == [row["item"] for row in free[2::2]][:5]
    numbers = tmp_path / "numbers.txt"
    numbers.write_text(f"{free[3]['item_number']}")
    inside = recommended(run, 7, capsys, "--internal-ids", "--allow", str(numbers))["items"]
    assert [row["item"] for row in inside] == [free[3]["item_number"]]
    deny.write_bytes(allow.read_bytes())
    assert main(["recommend", "--run", str(run), "--user", "user-07", *options]) == 2
    assert "has every item that --allow and --deny leave" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"0000000003\n000000003\n",
            "--deny {0} line 2: unknown item '000000003'. Did you mean '0000000003'?",
        ),
        (b"\xff\xfe\x00", "--deny {0}: is no text in UTF-8"),
        (None, "--deny {0}: No such file or directory"),
    ],
)
def test_a_wrong_list_is_named(
    shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    file = tmp_path / "deny.txt"
    if content is not None:
        file.write_bytes(content)
    assert main(["recommend", "--run", str(shop[0]), "--user", "user-07", "--deny", str(file)]) == 2
    assert message.format(file) in capsys.readouterr().err


def test_an_empty_list_denies_nothing_and_allows_nothing(
    shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none.txt"
    file.write_text("\n \n")
    words = ["recommend", "--run", str(shop[0]), "--user", "user-07", "--json"]
    assert main(words) == 0
    whole = capsys.readouterr().out
    assert main([*words, "--deny", str(file)]) == 0
    assert capsys.readouterr().out == whole
    assert main([*words, "--allow", str(file)]) == 2
    assert f"--allow {file}: holds no item" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "whose list? Pass --user ID, or --history ITEM"),
        (["--user", "user-07", "--history", "0000000003"], "--user and --history each name the person"),
        (["--history", "000000003"], "--history: unknown item '000000003'. Did you mean '0000000003'?"),
        (["--history", "0000000003", "--protocol"], "pass --user, not --history"),
    ],
)
def test_mistakes_of_a_history(
    shop: Any, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["recommend", "--run", str(shop[0]), *words]) == 2
    assert message in capsys.readouterr().err
