"""The token, and the change to another run."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agents.serving.limits import Limits
from tests.agents.serving.clients import Connect, service_of

TOKEN = {"authorization": "Bearer secret"}


def items_of(body: dict[str, Any]) -> list[str]:
    """The items of the first list."""
    return [row["item"] for row in body["lists"][0]["items"]]


def test_a_token_is_needed_everywhere_but_for_health_and_the_page(connect: Connect) -> None:
    client = connect(token="secret")
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


def test_reload_answers_by_the_new_run(connect: Connect, shop: Path) -> None:
    client = connect(token="secret")
    first = client.get("/model", headers=TOKEN).json()["weights"]
    reply = client.post("/reload", json={"run": "start"}, headers=TOKEN)
    assert reply.status_code == 200 and reply.json()["run"] == "start"
    second = client.get("/model", headers=TOKEN).json()["weights"]
    assert reply.json()["weights"] == second != first
    body = client.post("/recommend", json={"users": ["user-07"]}, headers=TOKEN).json()
    assert body["weights"] == second
    assert client.post("/reload", json={}, headers=TOKEN).json()["weights"] == first


def test_a_reload_may_take_longer_than_an_answer(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(token="secret", limits=Limits(seconds=0.5))
    service = service_of(client)
    loaded = service.load

    def slowly(run: Path) -> Any:
        threading.Event().wait(0.8)
        return loaded(run)

    monkeypatch.setattr(service, "load", slowly)
    reply = client.post("/reload", json={"run": "start"}, headers=TOKEN)
    assert reply.status_code == 200 and service.model.run.name == "start"


def test_reload_without_a_token_is_refused(connect: Connect) -> None:
    reply = connect().post("/reload", json={})
    assert reply.status_code == 403 and "reload needs a token" in reply.json()["error"]


@pytest.mark.parametrize("name", ["../start", "/etc", "a/b", "..", "."])
def test_a_run_elsewhere_is_refused(connect: Connect, name: str) -> None:
    reply = connect(token="secret").post("/reload", json={"run": name}, headers=TOKEN)
    assert reply.status_code == 409 and "must be the name of a folder beside tuned" in reply.json()["error"]


def test_a_run_that_vanishes_or_is_damaged_leaves_the_former_model(connect: Connect, shop: Path) -> None:
    client = connect(token="secret")
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


def test_requests_during_a_reload_are_all_answered_by_one_of_the_models(connect: Connect) -> None:
    client = connect(token="secret", limits=Limits(queue=10_000))
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
    found = {(reply.json()["weights"], *items_of(reply.json())) for reply in replies}
    assert len(found) == len({weights for weights, *_ in found}) <= 2  # each model has one list for the user


def test_a_watched_folder_is_read_when_its_model_changes(connect: Connect, shop: Path) -> None:
    client = connect(watch=0.02)
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
