"""Every wrong call gets a 4xx that names the place, and nobody else notices."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.serve.conftest import Server, running_server
from tests.serve.raw_client import RawClient

GOOD = {"query": "q", "documents": ["a", "b"]}


async def _post(server: Server, content: Any, path: str = "/v1/rerank", **headers: str) -> tuple[int, dict[str, Any]]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = await server.client.post(path, content=body, headers={"Content-Type": "application/json", **headers})
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"query":"a"', "byte 12"),
        (b'{"query":"a", documents', "byte 14"),
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"[1, 2]", "object"),
        (b'"text"', "object"),
        (b'{"query": "a\xff", "documents": ["b"]}', "byte 12"),
        (b'{"query": "a", "documents": ["b"], "foo": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"query": "a", "documents": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"query": "a", "documents": ["b"], "top_n": NaN}', "JSON"),
        (b'{"query": "a", "documents": ["b"], "min_score": Infinity}', "JSON"),
        (b'{"query": "a", "documents": ["\\ud800"]}', "surrogate"),
    ],
)
async def test_malformed_bodies(body: bytes, where: str) -> None:
    async with running_server() as server:
        status, answer = await _post(server, body)
        assert status == 400, answer
        assert where in answer["error"]["message"]
        assert answer["error"]["type"] == "invalid_request_error"
        assert answer["error"]["request_id"]
        assert answer["detail"] == answer["error"]["message"]
        assert "message" not in answer
        assert (await _post(server, GOOD))[0] == 200


@pytest.mark.parametrize("content", [b"{", {"query": "q", "documents": ["d"], "model": "missing"}, GOOD])
@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/rerank", ["detail"]), ("/v2/rerank", ["message"]), ("/vllm/v1/rerank", []), ("/v1/score", [])],
)
async def test_an_error_says_its_message_to_whoever_reads_it(content: Any, path: str, fields: list[str]) -> None:
    async with running_server(api_key=("a",)) as server:
        headers = {} if content is GOOD else {"Authorization": "Bearer a"}
        status, answer = await _post(server, content, path, **headers)
        assert status in (400, 401, 404)
        assert answer.keys() == {"error", *fields}
        assert all(answer[field] == answer["error"]["message"] for field in fields)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": 1}, "query"),
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \n"}, "query"),
        ({"query": ...}, "query"),
        ({"query": {"content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}}, "query.content[0]"),
        ({"documents": 7}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": ...}, "documents"),
        ({"documents": ["a", None]}, "documents[1]"),
        ({"documents": ["a", {}]}, "documents[1]"),
        ({"documents": [["a"]]}, "documents[0]"),
        ({"documents": ["a", {"image": "http://x/"}]}, "documents[1]"),
        ({"documents": [{"content": [{"type": "text", "text": "a"}, {"type": "image"}]}]}, "documents[0].content[1]"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": -(10**400)}, "top_n"),
        ({"priority": -(10**400)}, "priority"),
        ({"top_n": "3"}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"top_n": 1e999}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"return_documents": 1}, "return_documents"),
        ({"max_tokens_per_doc": -1}, "max_tokens_per_doc"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"instruction": 5}, "instruction"),
        ({"chat_template_kwargs": {"chat_template": "{{ x }}"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"instruction": 5}}, "chat_template_kwargs.instruction"),
        ({"rank_fields": "title"}, "rank_fields"),
        ({"min_score": "high"}, "min_score"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"truncate": False, "max_tokens_per_doc": 1, "documents": ["a", "b c"]}, "documents[1]"),
    ],
    ids=lambda value: json.dumps(value, default=str) if isinstance(value, dict) else value,
)
async def test_wrong_values(change: dict[str, Any], param: str) -> None:
    body = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    content = json.dumps(body).replace("Infinity", "1e999").encode()
    async with running_server() as server:
        status, answer = await _post(server, content)
    assert status == 400, answer
    assert answer["error"]["param"] == param
    assert param in answer["error"]["message"]


async def test_too_much() -> None:
    async with running_server(max_documents=10, max_body_bytes=1000) as server:
        status, answer = await _post(server, {"query": "q", "documents": ["a"] * 11})
        assert (status, answer["error"]["type"]) == (413, "request_too_large")
        assert "--max-documents" in answer["error"]["message"]
        assert server.processor.num_encoded == 0
        status, answer = await _post(server, {"query": "q", "documents": ["a" * 2000]})
        assert status == 413
        assert "--max-body-bytes" in answer["error"]["message"]

        async def endless() -> Any:
            for _ in range(100):
                yield b"x" * 100

        chunked = await server.client.post("/v1/rerank", content=endless())
        assert (chunked.status_code, chunked.headers["connection"]) == (413, "close")
        assert (await _post(server, {"query": "q", "documents": ["a"] * 10}))[0] == 200


async def test_error_positions_count_over_slices() -> None:
    documents = [*["a"] * 700, "too long"]
    body = {"query": "q", "documents": documents, "truncate": False, "max_tokens_per_doc": 1}
    async with running_server() as server:
        _, answer = await _post(server, body)
    assert answer["error"]["param"] == "documents[700]"
    assert answer["error"]["message"].startswith("documents[700]")


@pytest.mark.parametrize(
    ("path", "body", "entries"),
    [
        ("/v1/rerank", {"query": "q", "documents": ["a", "b c", "d"]}, "results"),
        ("/v2/rerank", {"query": "q", "documents": ["a", "b c", "d"]}, "results"),
        ("/v1/score", {"text_1": "q", "text_2": ["a", "b c", "d"]}, "data"),
        ("/v1/score", {"text_1": ["q", "r", "s"], "text_2": ["a", "b c", "d"]}, "data"),
        (
            "/v1/ranking",
            {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b c"}, {"text": "d"}]},
            "rankings",
        ),
    ],
)
async def test_one_document_too_long_fails_alone(path: str, body: dict[str, Any], entries: str) -> None:
    """Its error is the answer's, and the scores of the others are there."""
    async with running_server() as server:
        expected = await server.client.post(path, json=body)
        answer = await server.client.post(path, json={**body, "truncate": False, "max_tokens_per_doc": 1})
        (request,) = server.core.requests[1:]
    content = answer.json()
    assert answer.status_code == 400
    assert [entry["index"] for entry in content["errors"]] == content["failed"] == [1]
    assert content["errors"][0]["message"].endswith("[1] is too long")
    assert request.num_pairs == 2
    others = [entry for entry in expected.json()[entries] if entry["index"] != 1]
    assert content[entries] == others


async def test_one_document_too_long_in_a_stream() -> None:
    body = {"query": "q", "documents": ["a", "b c", "d"], "truncate": False, "max_tokens_per_doc": 1}
    async with running_server() as server:
        answer = await server.client.post("/v1/rerank", json=body, headers={"Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert [line["index"] for line in lines if "error" in line] == [1]
    assert sorted(entry["index"] for entry in lines[-1]["results"]) == [0, 2]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "Input lengths must be either 1:1, 1:N or N:N"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "Input lengths must be either 1:1, 1:N or N:N"),
        ({"text_1": "a"}, "Two sides are needed"),
        ({"text_1": "a", "data_2": "b"}, "Two sides are needed"),
        ({}, "Two sides are needed"),
        ({"text_1": "a", "text_2": []}, "At least one"),
        ({"text_1": ["a", ""], "text_2": ["a", "b"]}, "query must not be empty"),
    ],
)
async def test_score_sides(body: dict[str, Any], message: str) -> None:
    async with running_server() as server:
        status, answer = await _post(server, body, "/v1/score")
    assert status == 400
    assert message in answer["error"]["message"]


async def test_unknown_model_fields_and_dialect() -> None:
    async with running_server() as server:
        status, answer = await _post(server, {**GOOD, "model": "other"})
        assert (status, answer["error"]["param"], answer["error"]["code"]) == (404, "model", "model_not_found")
        assert "fake, alias" in answer["error"]["message"]
        for model in ("", None, "alias", "org/fake-reranker"):
            assert (await _post(server, {**GOOD, "model": model}))[0] == 200
        assert (await _post(server, {**GOOD, "foo": {"deep": [1]}, "bar": None, "max_chunks_per_doc": None}))[0] == 200
        assert b"engine_unknown_fields_total 2.0" in (await server.client.get("/metrics")).content
        status, answer = await _post(server, {**GOOD, "model": "m" * 1_000_000})
        assert (status, len(json.dumps(answer)) < 2000) == (404, True)
        status, answer = await _post(server, GOOD, "/v1/rerank?dialect=sglan")
        assert status == 400
        assert "Did you mean 'sglang'" in answer["error"]["message"]
    async with running_server(strict=True) as server:
        status, answer = await _post(server, {**GOOD, "foo": 1})
        assert (status, answer["error"]["param"]) == (400, "foo")


async def test_media_types() -> None:
    body = json.dumps(GOOD).encode()
    async with running_server() as server:
        for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            assert (await _post(server, body, **{"Content-Type": media_type}))[0] == 415
        assert (await _post(server, body, **{"Content-Encoding": "gzip"}))[0] == 415
        for media_type in ("application/json; charset=utf-8", "application/problem+json"):
            assert (await _post(server, body, **{"Content-Type": media_type}))[0] == 200
        marked = await server.client.post("/v1/rerank", content=b"\xef\xbb\xbf" + body)
        assert marked.status_code == 200, "a byte-order mark is no part of the JSON"
        page = await server.client.post("/v1/rerank", content=body, headers={"Sec-Fetch-Site": "same-origin"})
        assert page.status_code == 415
        bare = await server.client.post("/v1/rerank", content=body)
        assert "content-type" not in bare.request.headers
        assert bare.status_code == 200


async def test_routes_and_methods() -> None:
    async with running_server() as server:
        wrong = await server.client.get("/v1/rerank")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, PUT")
        for path in ("/v9/v1/rerank", "/nothing", "/v1/rerank/x", "/health/../v1/rerank"):
            client = RawClient(server, GOOD, path=path)
            assert await client.status() == 404
            assert b"POST /v1/rerank" in (await client.next())["body"]
        many = await server.client.get("/live", headers=[(f"x-{i}", "a") for i in range(2000)])
        large = await server.client.get("/live", headers={"x": "a" * 100_000})
        assert (many.status_code, large.status_code) == (431, 431)
        length = await server.client.post("/v1/rerank", content=b"{}", headers={"Content-Length": "two"})
        assert length.status_code == 400


async def test_tokenize() -> None:
    async with running_server() as server:
        _, answer = await _post(server, {"prompt": "a b", "return_token_strs": True}, "/tokenize")
        assert (answer["count"], len(answer["tokens"]), len(answer["token_strs"])) == (3, 3, 3)
        _, plain = await _post(server, {"prompt": "a b", "add_special_tokens": False}, "/tokenize")
        assert plain["tokens"] == answer["tokens"][1:]
        assert (await _post(server, {"tokens": [5, 6]}, "/detokenize"))[1] == {"prompt": "5 6"}
        for path, body in (("/tokenize", {}), ("/tokenize", {"prompt": 5}), ("/detokenize", {"tokens": ["a"]})):
            status, answer = await _post(server, body, path)
            assert status == 400, answer


@pytest.mark.parametrize("texts", [["w " * 50_000], ["w " * 50_000, "", "x"], ["", "w " * 50_000]])
async def test_tokens_of_long_texts_are_sent_as_they_are_found(texts: list[str]) -> None:
    """The same answer as for short ones, in parts."""
    async with running_server() as server:
        processor = server.processor
        tei = (await server.client.post("/tokenize", json={"inputs": texts})).json()
        body = {"prompt": texts[-1] or "x", "return_token_strs": True}
        vllm = (await server.client.post("/tokenize", json=body)).json()
    expected = [[msgspec.structs.asdict(token) for token in processor.text_tokens(text)] for text in texts]
    assert tei == expected
    ids = processor.tokenize(texts[-1])
    assert vllm == {"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": [str(i) for i in ids]}
