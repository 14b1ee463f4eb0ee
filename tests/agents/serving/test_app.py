"""Lists over HTTP, and requests that are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agents.serving.limits import Limits
from agents.serving.ranker import Query
from tests.agents.serving.clients import Connect, service_of


def test_lists_by_the_sources_ids(connect: Connect) -> None:
    client = connect()
    reply = client.post("/recommend", json={"users": ["user-07", "user-03"], "top": 5})
    assert reply.status_code == 200 and "model;dur=" in reply.headers["server-timing"]
    served = service_of(client).model
    body = reply.json()
    assert body["weights"] == served.weights
    for number, one in zip((7, 3), body["lists"], strict=True):
        (want,) = served.ranker.rank([Query(number)], 5)
        assert one["user"] == f"user-{number:02d}"
        assert [row["item"] for row in one["items"]] == [f"sku-{item:03d}" for item in want.items]
        assert [row["name"] for row in one["items"]] == [f"<b>No. {item}</b>" for item in want.items]
        assert [row["score"] for row in one["items"]] == pytest.approx(want.scores.tolist(), rel=1e-4)


def test_lists_of_people_in_no_data_set(connect: Connect) -> None:
    client = connect()
    histories = [["sku-004", "sku-009"], [], ["sku-031"]]
    body = {"histories": histories, "top": 20, "exclude": ["sku-000"]}
    reply = client.post("/recommend", json=body).json()
    for history, one in zip(histories, reply["lists"], strict=True):
        assert one["user"] is None and len(one["items"]) == 20
        assert not {row["item"] for row in one["items"]} & {*history, "sku-000"}


def test_lists_of_some_items_alone(connect: Connect) -> None:
    """``only`` keeps the order of the whole list; what the person has, or ``exclude`` names, stays out."""
    client = connect(limits=Limits(batch=4, history=50, top=50))
    body: dict[str, Any] = {"histories": [["sku-004", "sku-009"]], "top": 50}
    whole = [row["item"] for row in client.post("/recommend", json=body).json()["lists"][0]["items"]]
    only = ["sku-031", "sku-004", "sku-002", "sku-031", "sku-017"]
    some = client.post("/recommend", json=body | {"only": only, "exclude": ["sku-017"]}).json()["lists"][0]
    assert [row["item"] for row in some["items"]] == [one for one in whole if one in {"sku-031", "sku-002"}]


def test_a_list_ends_where_no_item_is_left(connect: Connect) -> None:
    client = connect(limits=Limits(batch=4, history=50, top=50))
    everything = [f"sku-{n:03d}" for n in range(50)]
    lists = client.post("/recommend", json={"histories": [everything[2:], everything], "top": 9}).json()[
        "lists"
    ]
    assert {row["item"] for row in lists[0]["items"]} == {"sku-000", "sku-001"} and lists[1]["items"] == []


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (
            {"users": ["user-7"]},
            404,
            "unknown user 'user-7': 'shop' has 30 users, from 'user-00' to 'user-29'",
        ),
        ({"histories": [["sku-1"]]}, 404, "unknown item 'sku-1': 'shop' has 50 items"),
        ({"users": ["user-07"], "exclude": ["x"]}, 404, "unknown item 'x'"),
        ({"users": ["user-07"], "only": ["sku-001", "x"]}, 404, "unknown item 'x'"),
        ({"users": ["user-07"], "only": []}, 422, "body.only: List should have at least 1 item"),
        ({}, 422, "whose lists? Pass users or histories"),
        ({"users": ["user-07"], "repeats": True}, 422, "lists of 'shop' cannot repeat what a person has"),
        ({"users": ["user-07"], "histories": [[]]}, 422, "whose lists?"),
        ({"users": []}, 422, "body.users: List should have at least 1 item"),
        ({"users": "user-07"}, 422, "body.users: Input should be a valid list"),
        ({"users": [True]}, 422, "body.users.0: must be an id of the data's source: a whole number, or text"),
        (
            {"users": [True, "user-07", None]},
            422,
            "a whole number, or text of 1 to 200 letters (and 1 more)",
        ),
        ({"users": [None]}, 422, "body.users.0"),
        ({"users": [1.5]}, 422, "body.users.0"),
        ({"users": ["a" * 201]}, 422, "body.users.0"),
        ({"users": ["user-07"], "top": 0}, 422, "body.top"),
        ({"users": ["user-07"], "top": 21}, 413, "top: at most 20 in a request, found 21"),
        ({"users": ["user-07"] * 5}, 413, "users or histories: at most 4 in a request, found 5"),
        ({"histories": [["sku-001"] * 11]}, 413, "items of a history: at most 10 in a request, found 11"),
        ({"users": ["user-07"], "exclude": ["sku-001"] * 11}, 413, "excluded items: at most 10"),
        ({"users": ["user-07"], "k": 3}, 422, "body.k: Extra inputs are not permitted"),
        ([], 422, "the body must be a JSON object, sent with the header content-type: application/json"),
        (None, 422, "body"),
    ],
)
def test_a_wrong_request_gets_one_line(connect: Connect, body: Any, status: int, error: str) -> None:
    client = connect()
    reply = client.post("/recommend", json=body)
    assert reply.status_code == status, reply.text
    found = reply.json()
    assert list(found) == ["error"] and error in found["error"] and "\n" not in found["error"]
    assert len(found["error"]) < 400
    assert client.post("/recommend", json={"users": ["user-07"]}).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"nan",
        b"[" * 3000,
        b'{"users": [' + b"9" * 4000 + b"]}",
        b'{"users": [NaN]}',
        b'{"users": ["\xff"]}',
    ],
)
def test_malformed_json_gets_4xx(connect: Connect, content: bytes) -> None:
    client = connect()
    headers = {"content-type": "application/json"}
    reply = client.post("/recommend", content=content, headers=headers)
    assert reply.status_code in (400, 422) and "\n" not in reply.json()["error"]
    assert reply.status_code == 422 or reply.json()["error"].startswith("the body is no JSON: ")
    assert client.post("/recommend", json={"users": ["user-07"]}).status_code == 200


def test_a_body_beyond_the_limit_is_not_parsed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect()
    million = json.dumps({"users": list(range(1_000_000))}).encode()
    monkeypatch.setattr(json, "loads", None)  # a parse would fail as a bug, with 500
    headers = {"content-type": "application/json"}
    reply = client.post("/recommend", content=million, headers=headers)
    assert reply.status_code == 413 and b"the body has more than 4096 bytes" in reply.content

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(million), 1000):
            yield million[at : at + 1000]

    reply = client.post("/recommend", content=pieces(), headers=headers)  # chunked: no length is stated
    assert reply.status_code == 413


def test_unknown_routes_and_methods(connect: Connect) -> None:
    client = connect()
    assert client.get("/nothing").status_code == 404
    assert client.get("/recommend").status_code == 405
    assert client.get("/nothing").json() == {"error": "Not Found"}
