"""What the page reads: explanations, the model, its items."""

from __future__ import annotations

import shutil
from pathlib import Path

from agents.serving.ranker import Query
from tests.agents.serving.clients import Connect, service_of


def test_a_list_is_explained_by_the_model_before_and_the_steps(connect: Connect) -> None:
    client = connect()
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


def test_a_run_without_a_start_has_no_list_before(connect: Connect, shop: Path) -> None:
    shutil.rmtree(shop / "start")
    client = connect()
    assert client.get("/model").json()["before"] is False
    body = client.post("/explain", json={"history": ["sku-003"]}).json()
    assert body["before"] is None and len(body["after"]) == 10


def test_what_the_page_reads(connect: Connect) -> None:
    client = connect()
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
    assert found["repeats"] is False  # the page offers no box for it
    items = client.get("/items", params={"q": "SKU-01", "limit": 5}).json()["items"]
    assert [row["item"] for row in items] == [f"sku-{n:03d}" for n in range(10, 15)]
    assert client.get("/items", params={"q": "no. 3<"}).json()["items"][0]["item"] == "sku-003"
    assert client.get("/items", params={"q": "sku-020"}).json()["items"][0]["item"] == "sku-020"
    assert client.get("/items", params={"q": "x" * 101}).status_code == 422
