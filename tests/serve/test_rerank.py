"""/v1/rerank and its dialects: what goes in, what comes out, in which order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.conftest import running_server
from tests.serve.fakes import expected_logit, expected_score

QUERY = "what is panda?"
DOCUMENTS = ["hi", "the giant panda is a bear", "", "hi", "一 二 三 🐼"]
RANKED = sorted(range(len(DOCUMENTS)), key=lambda i: (-expected_logit(QUERY, DOCUMENTS[i]), i))


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_superset_answer(path: str) -> None:
    async with running_server() as server:
        answer = await server.client.post(path, json={"query": QUERY, "documents": DOCUMENTS})
    body = answer.json()
    assert answer.status_code == 200, body
    assert answer.headers["x-request-id"] in body["id"]
    assert (body["object"], body["model"]) == ("list", "fake")
    assert [entry["index"] for entry in body["results"]] == RANKED
    for entry in body["results"]:
        assert entry["relevance_score"] == pytest.approx(expected_score(QUERY, DOCUMENTS[entry["index"]]), abs=1e-12)
        assert entry["document"] == {"text": DOCUMENTS[entry["index"]], "multi_modal": None}
    (request,) = server.core.requests
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == int(request.pair_lens.sum())
    assert body["meta"]["billed_units"]["search_units"] == 1


@pytest.mark.parametrize(
    ("top_n", "expected"), [(None, 5), (0, 5), (2, 2), (2.0, 2), (5, 5), (99, 5), (10**30, 5)], ids=str
)
async def test_top_n(top_n: Any, expected: int) -> None:
    async with running_server() as server:
        body = {"query": QUERY, "documents": DOCUMENTS, "top_n": top_n}
        results = (await server.client.post("/v1/rerank", json=body)).json()["results"]
    assert [entry["index"] for entry in results] == RANKED[:expected]


async def test_options_reach_the_engine() -> None:
    async with running_server() as server:
        body = {
            "model": "alias",
            "query": QUERY,
            "documents": ["a b c d", {"text": "x"}, {"title": "T", "body": "two\nlines"}],
            "instruct": "be strict",
            "max_tokens_per_doc": 2,
            "return_documents": "false",
            "use_activation": False,
            "min_score": -100,
            "priority": 3,
            "rank_fields": None,
            "user": None,
        }
        answer = (await server.client.post("/v1/rerank", json=body)).json()
    by_index = {entry["index"]: entry for entry in answer["results"]}
    assert by_index[0] == {
        "index": 0,
        "relevance_score": pytest.approx(expected_logit(QUERY, "a b", "be strict")),
    }
    assert [detail for detail in answer["details"] if detail["index"] == 0] == [{"index": 0, "truncated": True}]
    assert by_index[1]["relevance_score"] == pytest.approx(expected_logit(QUERY, "x", "be strict"))
    assert answer["usage"]["truncated_documents"] == 2
    assert answer["model"] == "alias"
    assert server.core.requests[0].priority == 3


async def test_objects_become_yaml_in_the_order_of_rank_fields() -> None:
    documents = [{"b": "second", "a": "first"}, {"text": "t", "a": "first"}]
    async with running_server() as server:
        body = {"query": QUERY, "documents": documents, "rank_fields": ["a", "b"]}
        results = (await server.client.post("/v1/rerank", json=body)).json()["results"]
        plain = (await server.client.post("/v1/rerank", json={"query": QUERY, "documents": documents})).json()[
            "results"
        ]
    assert {e["index"]: e["document"]["text"] for e in results} == {0: "a: first\nb: second", 1: "t"}
    for entry, read in zip(sorted(results, key=lambda e: e["index"]), ("a: first\nb: second", "a: first"), strict=True):
        assert entry["relevance_score"] == pytest.approx(expected_score(QUERY, read))
    assert {e["index"]: e["document"]["text"] for e in plain} == {0: "b: second\na: first", 1: "t"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"instruction": "a"}, "a"),
        ({"instruct": "b"}, "b"),
        ({"instruction": "a", "instruct": "b"}, "a"),
        ({"instruction": "a", "chat_template_kwargs": {"instruction": "c"}}, "c"),
        ({"instruction": "", "chat_template_kwargs": None}, ""),
    ],
)
async def test_instruction_by_its_names(fields: dict[str, Any], expected: str) -> None:
    async with running_server() as server:
        answer = (await server.client.post("/v1/rerank", json={"query": "q", "documents": ["d"], **fields})).json()
    assert answer["results"][0]["relevance_score"] == pytest.approx(expected_score("q", "d", expected))


async def test_min_score_and_single_string() -> None:
    async with running_server() as server:
        every = (await server.client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS})).json()["results"]
        limit = every[2]["relevance_score"]
        some = (
            await server.client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS, "min_score": limit})
        ).json()["results"]
        one = (await server.client.post("/rerank", json={"query": QUERY, "documents": "one string"})).json()["results"]
    assert some == [entry for entry in every if entry["relevance_score"] >= limit]
    assert len(some) < len(every)
    assert [entry["document"]["text"] for entry in one] == ["one string"]


async def test_tei() -> None:
    async with running_server() as server:
        answer = await server.client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True})
        bare = await server.client.post("/rerank", json={"query": QUERY, "texts": ["a"], "raw_scores": True})
        wrong = await server.client.post("/rerank", json={"query": "", "texts": ["a"]})
    assert [(e["index"], e["text"]) for e in answer.json()] == [(i, DOCUMENTS[i]) for i in RANKED]
    assert int(answer.headers["x-compute-tokens"]) > 0
    assert bare.json() == [{"index": 0, "score": pytest.approx(expected_logit(QUERY, "a"))}]
    assert wrong.status_code == 422
    assert wrong.json() == {"error": "The query must not be empty at $.query.", "error_type": "Validation"}


@pytest.mark.parametrize("how", ["server", "header", "parameter"])
async def test_sglang_list(how: str) -> None:
    settings = {"dialect": "sglang"} if how == "server" else {}
    headers = {"X-Rerank-Dialect": "sglang"} if how == "header" else {}
    path = "/v1/rerank" + ("?dialect=sglang" if how == "parameter" else "")
    body = {"model": "fake", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}
    async with running_server(**settings) as server:
        short = (await server.client.post(path, json=body, headers=headers)).json()
        full = (await server.client.post(path, json={**body, "return_documents": True}, headers=headers)).json()
        wrong = (await server.client.post(path, json={**body, "documents": []}, headers=headers)).json()
    assert [(set(entry), entry["index"]) for entry in short] == [({"score", "index"}, i) for i in RANKED[:2]]
    assert [entry["document"] for entry in full] == [DOCUMENTS[i] for i in RANKED[:2]]
    assert (wrong["object"], wrong["code"]) == ("error", 400)


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        ({"data_1": "q", "data_2": "d"}, [("q", "d")]),
        ({"text_1": "q", "text_2": ["a", "b"]}, [("q", "a"), ("q", "b")]),
        ({"queries": ["q"], "documents": ["a", "b"]}, [("q", "a"), ("q", "b")]),
        ({"queries": ["p", "q"], "items": ["a", "b"]}, [("p", "a"), ("q", "b")]),
    ],
)
async def test_score(body: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    async with running_server() as server:
        for path in ("/score", "/v1/score"):
            answer = (await server.client.post(path, json=body)).json()
            assert answer["data"] == [
                {"index": i, "object": "score", "score": pytest.approx(expected_score(*pair))}
                for i, pair in enumerate(pairs)
            ]
            assert answer["id"].startswith("score-")
            assert answer["usage"]["completion_tokens"] == 0


async def test_many_documents_in_slices() -> None:
    documents = [f"document {i}" for i in range(1000)]
    async with running_server() as server:
        results = (await server.client.post("/v1/rerank", json={"query": QUERY, "documents": documents})).json()[
            "results"
        ]
    assert len(results) == 1000
    logits = [expected_logit(QUERY, documents[entry["index"]]) for entry in results]
    assert logits == sorted(logits, reverse=True)
    assert len(server.core.requests) == 1


async def test_request_id() -> None:
    async with running_server() as server:
        body = {"query": "q", "documents": ["a"]}
        answer = await server.client.post("/v1/rerank", json=body, headers={"X-Request-Id": "mine-1"})
        odd = await server.client.post("/v1/rerank", json=body, headers={"X-Request-Id": "not ok\t!"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json()["id"] == "rerank-mine-1"
    assert odd.headers["x-request-id"] != "not ok\t!"
