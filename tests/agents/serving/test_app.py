"""The service's routes, by an in-process client."""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the extra serve: pip install -e '.[serve]'")
pytest.importorskip("prometheus_client", reason="the extra serve: pip install -e '.[serve]'")
pytest.importorskip("httpx", reason="the extra test: pip install -e '.[test]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions prefer httpx2 to httpx
    from fastapi.testclient import TestClient

from agents.commands.serve import Serve
from agents.commands.serve_run import load
from agents.serving.app import create_app
from agents.serving.limits import Limits
from agents.serving.ranker import Query
from agents.serving.service import Service

LIMITS = Limits(batch=4, history=10, top=20, body=4096, queue=8, seconds=120.0)
TOKEN = {"authorization": "Bearer secret"}
Start = Callable[..., TestClient]


@pytest.fixture
def start(shop: Path) -> Iterator[Start]:
    """A factory of clients of a service on the fine-tuned run."""
    clients = []

    def make(**settings: Any) -> TestClient:
        make_model = lambda folder: load(Serve(run_dir=folder, device="cpu"))  # noqa: E731
        service = Service(make_model, settings.pop("run", shop / "tuned"), **{"limits": LIMITS} | settings)
        client = TestClient(create_app(service), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def service_of(client: TestClient) -> Service:
    found: Service = client.app.state.service  # type: ignore[attr-defined]
    return found


def listed(body: dict[str, Any]) -> list[str]:
    """The items of the first list."""
    return [row["item"] for row in body["lists"][0]["items"]]


def test_lists_by_the_sources_ids(start: Start) -> None:
    client = start()
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


def test_lists_of_people_in_no_data_set(start: Start) -> None:
    client = start()
    histories = [["sku-004", "sku-009"], [], ["sku-031"]]
    body = {"histories": histories, "top": 20, "exclude": ["sku-000"]}
    reply = client.post("/recommend", json=body).json()
    for history, one in zip(histories, reply["lists"], strict=True):
        assert one["user"] is None and len(one["items"]) == 20
        assert not {row["item"] for row in one["items"]} & {*history, "sku-000"}


def test_a_list_ends_where_no_item_is_left(start: Start) -> None:
    client = start(limits=Limits(batch=4, history=50, top=50))
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
        ({}, 422, "whose lists? Pass users or histories"),
        ({"users": ["user-07"], "histories": [[]]}, 422, "whose lists?"),
        ({"users": []}, 422, "body.users: List should have at least 1 item"),
        ({"users": "user-07"}, 422, "body.users: Input should be a valid list"),
        ({"users": [True]}, 422, "body.users.0"),
        ({"users": [None]}, 422, "body.users.0"),
        ({"users": [1.5]}, 422, "body.users.0"),
        ({"users": ["a" * 201]}, 422, "body.users.0"),
        ({"users": ["user-07"], "top": 0}, 422, "body.top"),
        ({"users": ["user-07"], "top": 21}, 413, "top: at most 20 in a request, found 21"),
        ({"users": ["user-07"] * 5}, 413, "users or histories: at most 4 in a request, found 5"),
        ({"histories": [["sku-001"] * 11]}, 413, "items of a history: at most 10 in a request, found 11"),
        ({"users": ["user-07"], "exclude": ["sku-001"] * 11}, 413, "excluded items: at most 10"),
        ({"users": ["user-07"], "k": 3}, 422, "body.k: Extra inputs are not permitted"),
        ([], 422, "body"),
        (None, 422, "body"),
    ],
)
def test_a_wrong_request_gets_one_line(start: Start, body: Any, status: int, error: str) -> None:
    client = start()
    reply = client.post("/recommend", json=body)
    assert reply.status_code == status, reply.text
    found = reply.json()
    assert list(found) == ["error"] and error in found["error"] and "\n" not in found["error"]
    assert len(found["error"]) < 400
    assert client.post("/recommend", json={"users": ["user-07"]}).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe", b"nan", b"[" * 3000, b'{"users": [' + b"9" * 4000 + b"]}", b'{"users": [NaN]}'],
)
def test_malformed_json_gets_4xx(start: Start, content: bytes) -> None:
    client = start()
    headers = {"content-type": "application/json"}
    reply = client.post("/recommend", content=content, headers=headers)
    assert reply.status_code in (400, 422) and "\n" not in reply.json()["error"]
    assert client.post("/recommend", json={"users": ["user-07"]}).status_code == 200


def test_a_body_beyond_the_limit_is_not_parsed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start()
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


def test_unknown_routes_and_methods(start: Start) -> None:
    client = start()
    assert client.get("/nothing").status_code == 404
    assert client.get("/recommend").status_code == 405
    assert client.get("/nothing").json() == {"error": "Not Found"}


# ------------------------------------------------------------------ explanations and the page


def test_a_list_is_explained_by_the_model_before_and_the_steps(start: Start) -> None:
    client = start()
    served = service_of(client).model
    assert served.before is not None
    body = client.post("/explain", json={"user": "user-07", "top": 5}).json()
    (before,) = served.before.rank([Query(7)], 5)
    (after,) = served.ranker.rank([Query(7)], 5)
    assert [row["item"] for row in body["before"]] == [f"sku-{item:03d}" for item in before.items]
    assert [row["item"] for row in body["after"]] == [f"sku-{item:03d}" for item in after.items]
    assert body["before"] != body["after"]
    assert [step["step"] for step in body["steps"]] == [1, 2, 3]
    assert body["steps"][-1]["items"] == body["after"] and body["steps"][-1]["ranks"] == [1, 2, 3, 4, 5]
    for step in body["steps"]:
        listed = [row["item"] for row in step["items"]]
        for row, rank in zip(body["after"], step["ranks"], strict=True):
            assert (row["item"] in listed) == (rank <= 5)
    known = served.dataset.served.train.of(7)
    assert body["history_length"] == len(known)
    assert [row["item"] for row in body["history"]] == [f"sku-{item:03d}" for item in known[::-1]][:30]


def test_a_run_without_a_start_has_no_list_before(start: Start, shop: Path) -> None:
    shutil.rmtree(shop / "start")
    client = start()
    assert client.get("/model").json()["before"] is False
    body = client.post("/explain", json={"history": ["sku-003"]}).json()
    assert body["before"] is None and len(body["after"]) == 10


def test_what_the_page_reads(start: Start) -> None:
    client = start()
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html") and "<title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org/", "") and "https://" not in page.text
    found = client.get("/model").json()
    assert (found["backbone"], found["dataset"], found["users"], found["items"]) == (
        "diffrec",
        "shop",
        30,
        50,
    )
    assert found["example_users"] == ["user-00", "user-01", "user-02"] and found["run"] == "tuned"
    items = client.get("/items", params={"q": "SKU-01", "limit": 5}).json()["items"]
    assert [row["item"] for row in items] == [f"sku-{n:03d}" for n in range(10, 15)]
    assert client.get("/items", params={"q": "no. 3<"}).json()["items"][0]["item"] == "sku-003"
    assert client.get("/items", params={"q": "sku-020"}).json()["items"][0]["item"] == "sku-020"
    assert client.get("/items", params={"q": "x" * 101}).status_code == 422


# ------------------------------------------------------------------ Open Inference Protocol


def tensor(name: str, shape: list[int], kind: str, data: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": kind, "data": data}


def test_the_open_inference_protocol(start: Start) -> None:
    client = start(name="lists")
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
def test_a_wrong_tensor_is_named(start: Start, given: dict[str, Any], error: str) -> None:
    reply = start().post("/v2/models/recommender/infer", json={"inputs": [given]})
    assert reply.status_code == 422 and error in reply.json()["error"]


def test_other_mistakes_of_an_inference(start: Start) -> None:
    client = start()
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


# ------------------------------------------------------------------ token, reload, load


def test_a_token_is_needed_everywhere_but_for_health_and_the_page(start: Start) -> None:
    client = start(token="secret")
    body = {"users": ["user-07"]}
    for path in ("/recommend", "/explain", "/reload", "/v2/models/recommender/infer", "/nothing"):
        assert client.post(path, json=body).status_code == 401, path
    for path in ("/model", "/items", "/metrics", "/v2/models/recommender"):
        assert client.get(path).status_code == 401, path
    for path in ("/", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200, path
    assert client.post("/recommend", json=body, headers={"authorization": "Bearer secre"}).status_code == 401
    assert client.post("/recommend", json=body, headers={"authorization": "secret"}).status_code == 401
    assert client.post("/recommend", json=body, headers=TOKEN).status_code == 200


def test_reload_answers_by_the_new_run(start: Start, shop: Path) -> None:
    client = start(token="secret")
    first = client.get("/model", headers=TOKEN).json()["weights"]
    reply = client.post("/reload", json={"run": "start"}, headers=TOKEN)
    assert reply.status_code == 200 and reply.json()["run"] == "start"
    second = client.get("/model", headers=TOKEN).json()["weights"]
    assert reply.json()["weights"] == second != first
    body = client.post("/recommend", json={"users": ["user-07"]}, headers=TOKEN).json()
    assert body["weights"] == second
    assert client.post("/reload", json={}, headers=TOKEN).json()["weights"] == first


def test_a_reload_may_take_longer_than_an_answer(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(token="secret", limits=Limits(seconds=0.5))
    service = service_of(client)
    loaded = service.load

    def slowly(run: Path) -> Any:
        threading.Event().wait(0.8)
        return loaded(run)

    monkeypatch.setattr(service, "load", slowly)
    reply = client.post("/reload", json={"run": "start"}, headers=TOKEN)
    assert reply.status_code == 200 and service.model.run.name == "start"


def test_reload_without_a_token_is_refused(start: Start) -> None:
    reply = start().post("/reload", json={})
    assert reply.status_code == 403 and "reload needs a token" in reply.json()["error"]


@pytest.mark.parametrize("name", ["../start", "/etc", "a/b", "..", "."])
def test_a_run_elsewhere_is_refused(start: Start, name: str) -> None:
    reply = start(token="secret").post("/reload", json={"run": name}, headers=TOKEN)
    assert reply.status_code == 409 and "must be the name of a folder beside tuned" in reply.json()["error"]


def test_a_run_that_vanishes_or_is_damaged_leaves_the_former_model(start: Start, shop: Path) -> None:
    client = start(token="secret")
    want = client.post("/recommend", json={"users": ["user-07"]}, headers=TOKEN).json()
    (shop / "tuned" / "policy.safetensors").write_bytes(b"damaged")
    reply = client.post("/reload", json={}, headers=TOKEN)
    assert reply.status_code == 409 and "the former model stays: " in reply.json()["error"]
    assert "policy.safetensors" in reply.json()["error"]
    shutil.rmtree(shop / "tuned")
    shutil.rmtree(shop / "data")
    assert client.post("/reload", json={}, headers=TOKEN).status_code == 409
    assert client.get("/v2/health/ready").status_code == 200
    assert client.post("/recommend", json={"users": ["user-07"]}, headers=TOKEN).json() == want
    assert client.post("/explain", json={"user": "user-07"}, headers=TOKEN).status_code == 200
    text = client.get("/metrics", headers=TOKEN).text
    assert 'refit_reloads_total{result="failed"} 2.0' in text


def test_requests_during_a_reload_are_all_answered_by_one_of_the_models(start: Start) -> None:
    client = start(token="secret", limits=Limits(queue=10_000))
    stop, replies = threading.Event(), list[Any]()

    def repeat() -> None:
        while not stop.is_set():
            replies.append(client.post("/recommend", json={"users": ["user-07"]}, headers=TOKEN))

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(repeat) for _ in range(3)]
        for name in ("start", "tuned", "start", "tuned"):
            assert client.post("/reload", json={"run": name}, headers=TOKEN).status_code == 200
        stop.set()
        for one in running:
            one.result()
    assert {reply.status_code for reply in replies} == {200}
    found = {(reply.json()["weights"], *listed(reply.json())) for reply in replies}
    assert len(found) == len({weights for weights, *_ in found}) <= 2  # each model has one list for the user


def test_a_watched_folder_is_read_when_its_model_changes(start: Start, shop: Path) -> None:
    client = start(watch=0.02)
    first = client.get("/model").json()["weights"]
    for name in ("policy.safetensors", "policy.json", "metrics.json"):
        shutil.copy(shop / "start" / name, shop / "tuned" / name)
    for _ in range(5000):
        if (now := client.get("/model").json()["weights"]) != first:
            break
        threading.Event().wait(0.02)
    assert now != first
    shutil.rmtree(shop / "tuned")
    threading.Event().wait(0.1)
    assert client.get("/model").json()["weights"] == now


def blocked(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make the model wait for an event."""
    gate, ranker = threading.Event(), service_of(client).model.ranker
    rank = ranker.rank

    def slow(queries: Any, top: int) -> Any:
        gate.wait(300)
        return rank(queries, top)

    monkeypatch.setattr(ranker, "rank", slow)
    return gate


def test_requests_that_wait_become_one_batch(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(limits=Limits(batch=4, queue=100))
    gate, service = blocked(client, monkeypatch), service_of(client)
    with ThreadPoolExecutor(8) as pool:
        users = [f"user-{number:02d}" for number in range(8)]
        running = [
            pool.submit(client.post, "/recommend", json={"users": [user], "top": top})
            for user, top in zip(users, (3, 9, 4, 5, 6, 7, 8, 2), strict=True)
        ]
        while service.batcher.waiting < 8:
            threading.Event().wait(0.01)
        gate.set()
        replies = [one.result().json()["lists"] for one in running]
    assert [one[0]["user"] for one in replies] == users
    assert [len(one[0]["items"]) for one in replies] == [3, 9, 4, 5, 6, 7, 8, 2]
    for user, (one,) in zip(users, replies, strict=True):
        (alone,) = client.post("/recommend", json={"users": [user], "top": len(one["items"])}).json()["lists"]
        assert [row["item"] for row in alone["items"]] == [row["item"] for row in one["items"]]
    assert "refit_batch_people_count 11.0" in client.get("/metrics").text  # 1 + 4 + 3, then 8 alone


def test_more_than_can_wait_gets_503_and_a_late_answer_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(limits=Limits(batch=4, queue=4, seconds=1.0))
    gate = blocked(client, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/recommend", json={"users": ["user-07"] * 4})
        while service_of(client).batcher.waiting < 4:
            threading.Event().wait(0.01)
        refused = client.post("/recommend", json={"users": ["user-07"]})
        assert refused.status_code == 503 and "wait already" in refused.json()["error"]
        assert refused.headers["retry-after"] == "1"
        late = first.result()
    assert late.status_code == 503 and "no answer within 1 seconds" in late.json()["error"]
    gate.set()
    assert service_of(client).batcher.waiting == 0
    statuses = (client.post("/recommend", json={"users": ["user-07"]}).status_code for _ in range(100))
    assert 200 in statuses  # a busy machine may need more than the second that the limit is


def test_a_model_that_fails_gets_500_and_the_service_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start()
    ranker = service_of(client).model.ranker

    def fail(queries: Any, top: int) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(ranker, "rank", fail)
        reply = client.post("/recommend", json={"users": ["user-07"]})
    assert reply.status_code == 500 and reply.json()["error"].startswith("a bug: RuntimeError")
    assert client.post("/recommend", json={"users": ["user-07"]}).status_code == 200


def test_metrics_count_requests_and_name_the_model(start: Start) -> None:
    client = start()
    client.post("/recommend", json={"users": ["user-07"]})
    client.post("/recommend", json={"users": ["nobody"]})
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'refit_requests_total{route="/recommend",status="200"} 1.0' in text
    assert 'refit_requests_total{route="/recommend",status="404"} 1.0' in text
    assert 'refit_requests_total{route="other",status="404"} 1.0' in text
    assert f'weights="{service_of(client).model.weights}"' in text and "refit_waiting_people 0.0" in text


def test_scores_are_the_same_alone_and_in_a_batch(start: Start) -> None:
    ranker = service_of(start()).model.ranker
    together = ranker.scores([Query(user) for user in range(4)])[0]
    alone = torch.cat([ranker.scores([Query(user)])[0] for user in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
