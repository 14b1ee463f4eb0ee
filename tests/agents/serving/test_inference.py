"""The Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import pytest

from agents.serving.ranker import Query
from tests.agents.serving.clients import Connect, service_of


def tensor(name: str, shape: list[int], kind: str, data: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": kind, "data": data}


def test_the_open_inference_protocol(connect: Connect) -> None:
    client = connect(name="lists")
    assert client.get("/v2/health/live").json()["live"] and client.get("/v2/health/ready").json()["ready"]
    assert client.get("/v2").json()["name"] == "refit"
    described = client.get("/v2/models/lists").json()
    assert [one["name"] for one in described["inputs"]] == ["history", "history_ids", "user_ids"]
    assert described["parameters"]["weights"] == service_of(client).model.weights
    assert client.get("/v2/models/lists/ready").status_code == 200
    numbers = tensor("history", [2, 3], "INT64", [1, 2, -1, 4, 5, 6])
    body = {"id": "a", "inputs": [numbers], "parameters": {"top": 4}}
    by_number = client.post("/v2/models/lists/infer", json=body).json()
    names = tensor(
        "history_ids", [2, 3], "BYTES", [["sku-001", "sku-002", ""], ["sku-004", "sku-005", "sku-006"]]
    )
    by_id = client.post("/v2/models/lists/infer", json={"inputs": [names], "parameters": {"top": 4}}).json()
    assert by_number["id"] == "a" and by_number["outputs"] == by_id["outputs"]
    out = {one["name"]: one for one in by_number["outputs"]}
    assert all(one["shape"] == [2, 4] for one in out.values()) and len(out) == 3
    assert out["item_ids"]["data"] == [f"sku-{n:03d}" for n in out["items"]["data"]]
    lists = service_of(client).model.ranker.rank([Query(history=(1, 2)), Query(history=(4, 5, 6))], 4)
    assert out["items"]["data"] == [int(item) for one in lists for item in one.items]
    users = tensor("user_ids", [2], "BYTES", ["user-07", "user-00"])
    wanted = {"inputs": [users], "outputs": [{"name": "item_ids"}]}
    reply = client.post("/v2/models/lists/infer", json=wanted).json()
    same = client.post("/recommend", json={"users": ["user-07", "user-00"]}).json()["lists"]
    assert reply["outputs"][0]["data"] == [row["item"] for one in same for row in one["items"]]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            tensor("rows", [1, 1], "INT64", [1]),
            "body.inputs.0.name: Input should be 'history', 'history_ids'",
        ),
        (tensor("history", [1, 2], "INT64", [1]), "the shape [1, 2] has 2 values, data 1"),
        (tensor("history", [1, 1], "BYTES", [1]), "input 'history' must be INT64, found 'BYTES'"),
        (tensor("history", [2], "INT64", [1, 2]), "must have 2 axes, found the shape [2]"),
        (tensor("history", [1, 1], "INT64", ["sku-001"]), "is INT64, and holds 'sku-001'"),
        (tensor("history", [1, 1], "INT64", [50]), "item number 50 must lie in 0..49, or be -1"),
        (tensor("history", [1, 1], "INT64", [-2]), "item number -2 must lie in 0..49"),
        (tensor("user_ids", [1, 2], "BYTES", ["user-00", "user-01"]), "must have 1 axes"),
        (tensor("history", [0, 1], "INT64", []), "body.inputs.0.shape.0"),
    ],
)
def test_a_wrong_tensor_is_named(connect: Connect, given: dict[str, Any], error: str) -> None:
    reply = connect().post("/v2/models/recommender/infer", json={"inputs": [given]})
    assert reply.status_code == 422 and error in reply.json()["error"]


def test_other_mistakes_of_an_inference(connect: Connect) -> None:
    client = connect()
    good = tensor("history", [1, 1], "INT64", [3])
    infer = "/v2/models/recommender/infer"
    assert client.post("/v2/models/other/infer", json={"inputs": [good]}).status_code == 404
    assert client.get("/v2/models/other").json() == {
        "error": "no model 'other'; the service has 'recommender'"
    }
    reply = client.post(infer, json={"inputs": [good], "outputs": [{"name": "u"}]})
    assert reply.status_code == 422 and "body.outputs.0.name: Input should be 'items'" in reply.text
    assert client.post(infer, json={"inputs": [good], "parameters": {"top": True}}).status_code == 422
    assert client.post(infer, json={"inputs": [good], "parameters": {"top": 21}}).status_code == 413
    many = tensor("history", [5, 1], "INT64", [1, 2, 3, 4, 5])
    assert client.post(infer, json={"inputs": [many]}).status_code == 413
