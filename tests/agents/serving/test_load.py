"""Batches under load, and a model that fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from agents.serving.limits import Limits
from agents.serving.ranker import Query
from tests.agents.serving.clients import Connect, TestClient, service_of


def blocked(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make the model wait for an event."""
    gate, ranker = threading.Event(), service_of(client).model.ranker
    rank = ranker.rank

    def slow(queries: Any, top: int) -> Any:
        gate.wait(300)
        return rank(queries, top)

    monkeypatch.setattr(ranker, "rank", slow)
    return gate


def test_requests_that_wait_become_one_batch(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(limits=Limits(batch=4, queue=100))
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
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(limits=Limits(batch=4, queue=4, seconds=1.0))
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
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    ranker = service_of(client).model.ranker

    def fail(queries: Any, top: int) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(ranker, "rank", fail)
        reply = client.post("/recommend", json={"users": ["user-07"]})
    assert reply.status_code == 500 and reply.json()["error"].startswith("a bug: RuntimeError")
    assert client.post("/recommend", json={"users": ["user-07"]}).status_code == 200


def test_metrics_count_requests_and_name_the_model(connect: Connect) -> None:
    client = connect()
    client.post("/recommend", json={"users": ["user-07"]})
    client.post("/recommend", json={"users": ["nobody"]})
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'refit_requests_total{route="/recommend",status="200"} 1.0' in text
    assert 'refit_requests_total{route="/recommend",status="404"} 1.0' in text
    assert 'refit_requests_total{route="other",status="404"} 1.0' in text
    assert f'weights="{service_of(client).model.weights}"' in text and "refit_waiting_people 0.0" in text


def test_scores_are_the_same_alone_and_in_a_batch(connect: Connect) -> None:
    ranker = service_of(connect()).model.ranker
    together = ranker.scores([Query(user) for user in range(4)])[0]
    alone = torch.cat([ranker.scores([Query(user)])[0] for user in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
