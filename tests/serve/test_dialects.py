"""Who is meant by a body, a path, a header; and what every dialect honours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.entrypoints.serve.admission import CallSize
from engine.entrypoints.serve.detect import COMMON, DialectPreferences, choose_anywhere, choose_on_path
from engine.entrypoints.serve.dialect_registry import BY_BODY, BY_PATH, CHOOSABLE, DIALECTS
from engine.entrypoints.serve.dialects.base import Dialect, RequestView, matches
from engine.entrypoints.serve.dialects.body import read_keys
from engine.request import RerankCall
from tests.serve.conftest import running_server
from tests.serve.example_bodies import example_body
from tests.serve.fakes import expected_logit, expected_score

DOCUMENTS = {"query": "q", "documents": ["a", "b"]}
PINECONE = {"x-pinecone-api-version": "2025-10", "api-key": "k"}


def keys_of(body: dict[str, Any]) -> Any:
    return read_keys(json.dumps(body).encode())


def named(value: Any) -> str:
    """Test ids without addresses, so that parallel workers collect the same ones."""
    if isinstance(value, dict):
        return ",".join(f"{key}={named(each)}" for key, each in value.items())
    return type(value).__name__ if isinstance(value, Dialect) else str(value)


@pytest.mark.parametrize(
    ("body", "said", "reader", "answerer"),
    [
        (DOCUMENTS, {}, "rerank", "rerank"),
        (DOCUMENTS | {"instruct": "i"}, {}, "rerank", "rerank"),
        (DOCUMENTS | {"top_k": None}, {}, "voyage", "voyage"),
        (DOCUMENTS | {"truncation": True}, {}, "voyage", "voyage"),
        (DOCUMENTS | {"truncation": True, "top_n": None}, {}, "rerank", "rerank"),
        (DOCUMENTS, {"headers": {"user-agent": "voyageai/0.4.0"}}, "voyage", "voyage"),
        (DOCUMENTS | {"top_n": 1}, {"headers": {"user-agent": "voyageai/0.4.0"}}, "voyage", "voyage"),
        (DOCUMENTS, {"headers": {"user-agent": "cohere-ai/8.1.0"}}, "rerank", "rerank"),
        (DOCUMENTS, {"headers": {"user-agent": "litellm/1.110.2", "accept": "*/*"}}, "voyage", "voyage"),
        (DOCUMENTS, {"headers": {"user-agent": "litellm/1.110.2", "accept": "application/json"}}, "rerank", "rerank"),
        (DOCUMENTS | {"top_n": 1}, {"headers": {"user-agent": "litellm/1.110.2", "accept": "*/*"}}, "rerank", "rerank"),
        (DOCUMENTS | {"raw_scores": False, "return_documents": True}, {}, "infinity", "infinity"),
        (DOCUMENTS | {"return_documents": True}, {}, "rerank", "rerank"),
        (DOCUMENTS | {"property": ""}, {}, "weaviate", "weaviate"),
        (DOCUMENTS, {"headers": {"api-key": "k"}}, "rerank", "rerank"),
        (DOCUMENTS, {"headers": PINECONE}, "pinecone", "pinecone"),
        (DOCUMENTS | {"top_k": 1}, {"headers": PINECONE}, "pinecone", "pinecone"),
        ({"queries": [], "sources": []}, {}, "bedrock", "bedrock"),
        ({"queries": ["q"], "documents": ["a"]}, {"path": "/inference/{model:path}"}, "deepinfra", "deepinfra"),
        ({"queries": ["q"], "documents": ["a"]}, {"chosen": "deepinfra"}, "deepinfra", "deepinfra"),
        (DOCUMENTS, {"path": "/v1/models/rerank"}, "zeroentropy", "zeroentropy"),
        (DOCUMENTS, {"path": "/v1/reranks"}, "dashscope-compatible", "dashscope-compatible"),
        (DOCUMENTS | {"top_k": 1}, {"path": "/v1/reranks"}, "dashscope-compatible", "dashscope-compatible"),
        ({"query": "q", "inputs": [{"text": "a"}]}, {}, "watsonx", "watsonx"),
        ({"inputs": {"source_sentence": "q", "sentences": ["a"]}}, {}, "sentence-similarity", "sentence-similarity"),
        ({"query": "q", "texts": ["a"]}, {}, "tei", "tei"),
        ({"query": "q", "texts": ["a"]}, {"path": "/v1/rerankings"}, "isaacus", "isaacus"),
        ({"query": "q", "texts": ["a"]}, {"path": "/reranking"}, "tei", "tei"),
        ({"query": {"text": "q"}, "passages": []}, {}, "nvidia", "nvidia"),
        ({"input": {"query": "q"}}, {}, "dashscope", "dashscope"),
        ({"query": "q", "input": ["a"]}, {}, "mixedbread", "mixedbread"),
        ({"text_pairs": []}, {}, "sagemaker", "sagemaker"),
        ({"queries": ["q"], "documents": ["a"]}, {}, "queries", "queries"),
        ({"queries": ["q"], "documents": ["a"]}, {"chosen": "jina"}, "queries", "queries"),
        # The path's own dialect, where it can read the body; else the body's.
        (DOCUMENTS, {"path": "/reranking"}, "llamacpp", "llamacpp"),
        (DOCUMENTS, {"path": "/v1/ranking"}, "rerank", "rerank"),
        (DOCUMENTS, {"path": "/"}, "rerank", "rerank"),
        # What the operator chose decides what is open, and nothing else.
        (DOCUMENTS, {"default": "sglang"}, "sglang", "sglang"),
        (DOCUMENTS | {"top_k": 2}, {"default": "sglang"}, "voyage", "voyage"),
        ({"query": "q", "texts": ["a"]}, {"default": "sglang"}, "tei", "tei"),
        (DOCUMENTS, {"default": "tei"}, "rerank", "tei"),
        (DOCUMENTS, {"default": "sglang", "path": "/reranking"}, "llamacpp", "llamacpp"),
        # What the caller chose answers always, and reads what it can.
        (DOCUMENTS, {"chosen": "infinity", "default": "sglang"}, "infinity", "infinity"),
        (DOCUMENTS | {"top_k": None}, {"chosen": "vllm"}, "vllm", "vllm"),
        ({"query": "q", "texts": ["a"]}, {"chosen": "cohere"}, "tei", "cohere-v2"),
        (DOCUMENTS, {"chosen": "nim"}, "rerank", "nvidia"),
        (DOCUMENTS, {"chosen": "jina", "headers": PINECONE, "path": "/reranking"}, "jina", "jina"),
        # Nobody can read it: the error is for whoever was most likely meant.
        ({"query": "q"}, {}, "rerank", "rerank"),
        ({"query": "q"}, {"chosen": "tei"}, "tei", "tei"),
        ({"query": "q"}, {"path": "/v1/ranking"}, "nvidia", "nvidia"),
        ({}, {"default": "sglang"}, "sglang", "sglang"),
    ],
    ids=named,
)
def test_who_reads_and_who_answers(body: dict[str, Any], said: dict[str, Any], reader: str, answerer: str) -> None:
    said = dict(said)
    owner = BY_PATH[said.pop("path", "/v1/rerank")]
    choice = choose_on_path(owner, keys_of(body), DialectPreferences(**said))
    assert (choice.reader.name, choice.answerer.name) == (reader, answerer)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"text_1": "a", "text_2": "b"}, "score"),
        ({"queries": "a", "items": ["b"]}, "score"),
        ({"queries": "a", "documents": ["b"]}, "score"),
        ({"query": "a", "items": ["b"], "label_token_ids": [1]}, "sglang-score"),
        ({"input": "a"}, "classify"),
        ({"input": ["a"], "encoding_format": "float"}, "pooling"),
        ({"messages": []}, "classify"),
        ({"inputs": "a"}, "tei-predict"),
        ({"inputs": [{"text": "q", "text_pair": "d"}]}, "tei-predict"),
        ({"inputs": ["q", "q"], "docs": ["a", "b"]}, "sagemaker-docs"),
        ({"inputs": {"source_sentence": "q", "sentences": ["a"]}}, "sentence-similarity"),
        ({"text_pairs": []}, "sagemaker"),
        ({"query": "q", "texts": []}, "tei"),
        ({"input": {"query": "q"}}, "dashscope"),
        ({"query": "q", "input": ["a"]}, "mixedbread"),
        (DOCUMENTS, "rerank"),
    ],
    ids=str,
)
def test_one_path_for_all(body: dict[str, Any], name: str) -> None:
    found = choose_anywhere(keys_of(body), DialectPreferences())
    assert found.reader.name == found.answerer.name == name
    if name.endswith("score"):
        assert choose_on_path(DIALECTS["score"], keys_of(body), DialectPreferences()).reader.name == name


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_reads_the_body_that_its_own_attributes_describe(name: str) -> None:
    """Its example is what the golden file starts from: ``text_paths``, ``body_keys`` and the struct belong together."""
    dialect = DIALECTS[name]
    content = json.dumps(example_body(dialect)).encode()
    keys = read_keys(content)
    assert dialect.can_read(keys)
    parsed = dialect.parse(content, keys, RequestView("/", {}, label_tokens=(1, 2)))
    assert parsed.call.num_pairs
    assert not parsed.unknown_fields


def test_rules_about_keys() -> None:
    keys = {"a": "string", "b": "object"}
    assert matches(keys, ())
    assert matches(keys, ("a", "b:object", "!c", "c|a", "c|b:object", "!b:array"))
    for rule in ("c", "!a", "a:object", "c|d", "!c|a", "b:array|c"):
        assert not matches(keys, ("a", rule)), rule


def test_what_a_dialect_claims_is_not_inherited() -> None:
    class Heir(type(DIALECTS["tei"])):  # type: ignore[misc]
        name = "heir"

    assert (Heir.paths, Heir.aliases, Heir.precedence) == ({}, (), None)
    assert Heir.body_keys == ("texts",)


def test_every_dialect_can_be_reached() -> None:
    for dialect in DIALECTS.values():
        assert dialect.choosable or dialect in BY_BODY or dialect in BY_PATH.values(), dialect.name
    assert CHOOSABLE["cohere"] is DIALECTS["cohere-v2"]
    assert COMMON in BY_BODY


CHOSEN = [name for name, dialect in DIALECTS.items() if dialect.choosable]
TWO = ["a b c", "d"]
EXTENSIONS = {
    "instruction": "i",
    "max_tokens_per_doc": 2.0,
    "max_tokens_per_query": None,
    "truncate": "END",
    "truncation_side": "left",
    "use_activation": "false",
    "min_score": -50,
    "timeout_ms": 4000,
    "priority": -3,
    "stream": None,
    "cache_salt": "salt",
    "padding": "do_not_pad",
    "user": "u",
    "chunk_tokens": None,
    "request_id": "mine",
    "model": None,
    "unknown": 1,
}


def parsed(name: str, **more: Any) -> tuple[RerankCall, tuple[str, ...], str | None]:
    content = json.dumps({**example_body(DIALECTS[name], "q", TWO), **more}).encode()
    result = DIALECTS[name].parse(content, read_keys(content), RequestView("/", {}, caller="me"))
    return result.call, result.unknown_fields, result.request_id


@pytest.mark.parametrize("name", CHOSEN)
def test_every_dialect_takes_the_extensions(name: str) -> None:
    call, unknown, request_id = parsed(name, **EXTENSIONS)
    assert (unknown, request_id) == (("unknown",), "mine")
    options = call.options
    assert (options.instruction, options.max_tokens_per_doc, options.max_tokens_per_query) == ("i", 2, 0)
    assert (options.truncate, options.truncation_side) == (True, "left")
    assert (call.raw_scores, call.min_score, call.timeout_s, call.priority) == (True, -50, 4, -3)
    assert (call.stream, call.model, call.caller) == (False, None, "me")
    assert call.cache_salt
    assert call.cache_salt != parsed(name, cache_salt="other")[0].cache_salt
    assert "salt" not in call.cache_salt


@pytest.mark.parametrize("name", CHOSEN)
def test_every_dialect_takes_nulls(name: str) -> None:
    plain, none = parsed(name)[0], parsed(name, **dict.fromkeys(EXTENSIONS, None))[0]
    assert plain == none


@pytest.mark.parametrize("name", CHOSEN)
async def test_every_dialect_answers_every_body(name: str) -> None:
    async with running_server() as server:
        for body in (example_body(DIALECTS[each], "q", TWO) for each in CHOSEN):
            answer = await server.client.post(f"/v1/rerank?dialect={name}", json=body)
            assert answer.status_code == 200, answer.text
            text = json.dumps(answer.json())
            score = expected_logit("q", "d") if "rankings" in text else expected_score("q", "d")
            assert json.dumps(score)[:10] in text, (name, body)


async def test_put_is_taken_too() -> None:
    async with running_server() as server:
        answer = await server.client.put("/v1/rerank", json=DOCUMENTS)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/rerank", {"query": "q", "texts": ["a", "b c"]}, "texts[1]"),
        ("/v1/ranking", {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b c"}]}, "passages[1]"),
        ("/v1/rerank", {"input": {"query": "q", "documents": ["a", "b c"]}}, "input.documents[1]"),
        ("/v1/reranking", {"query": "q", "input": ["a", "b c"]}, "input[1]"),
        ("/invocations", {"text_pairs": [["q", "a"], ["q", "b c"]]}, "text_pairs[1][1]"),
        ("/predict", {"inputs": [["q", "a"], ["q", "b c"]]}, "inputs[1][1]"),
        ("/score", {"text_1": "q", "text_2": ["a", "b c"]}, "text_2[1]"),
        ("/score", {"data_1": "q", "data_2": "b c"}, "data_2"),
        ("/v1/rerank", {"queries": ["p", "q"], "documents": ["a", "b c"]}, "documents[1]"),
    ],
)
async def test_errors_name_the_callers_fields(path: str, body: dict[str, Any], param: str) -> None:
    async with running_server() as server:
        answer = await server.client.post(path, json={**body, "truncate": False, "max_tokens_per_doc": 1})
    assert answer.status_code in (400, 422)
    assert f"{param} is too long" in answer.text


async def test_the_bodys_own_request_id() -> None:
    async with running_server() as server:
        own = await server.client.post("/v1/rerank", json=DOCUMENTS | {"request_id": "from-body"})
        both = await server.client.post(
            "/v1/rerank", json=DOCUMENTS | {"request_id": "from-body"}, headers={"X-Request-Id": "from-header"}
        )
        odd = await server.client.post("/v1/rerank", json=DOCUMENTS | {"request_id": "no\r\nheader"})
        wrong = await server.client.post("/v1/rerank", json=DOCUMENTS | {"request_id": "mine", "model": "other"})
    assert own.headers["x-request-id"] == "from-body"
    assert own.json()["id"] == "rerank-from-body"
    assert both.headers["x-request-id"] == "from-header"
    assert (odd.status_code, "\r" in odd.headers["x-request-id"]) == (200, False)
    assert wrong.json()["error"]["request_id"] == "mine"


async def test_cache_salts_share_nothing() -> None:
    async with running_server() as server:
        for salt in ("a", "a", "b", None):
            await server.client.post("/v1/rerank", json=DOCUMENTS | {"cache_salt": salt})
        too_long = await server.client.post("/v1/rerank", json=DOCUMENTS | {"cache_salt": "x" * 1025})
    scopes = [request.cache_scope for request in server.core.requests]
    assert scopes[0] == scopes[1]
    assert len(set(scopes)) == 3
    assert too_long.status_code == 400


async def test_overloaded_is_429_for_tei() -> None:
    async with running_server(max_queued_pairs=1) as server:
        with server.service.admission.admit(CallSize(1, 9, 9), "other"):
            tei = await server.client.post("/rerank", json={"query": "q", "texts": ["a", "b"]})
            other = await server.client.post("/rerank", json=DOCUMENTS)
    assert (tei.status_code, tei.json()["error_type"], other.status_code) == (429, "Overloaded", 503)
    assert int(tei.headers["retry-after"]) >= 1


async def test_info_says_that_this_is_a_reranker() -> None:
    async with running_server(max_documents=77) as server:
        info = (await server.client.get("/info")).json()
        models = (await server.client.get("/models")).json()
        pings = [(await server.client.request(method, "/ping")).status_code for method in ("GET", "POST")]
        load = (await server.client.get("/load")).json()
    assert info["model_type"] == {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    assert (info["max_input_length"], info["max_client_batch_size"]) == (4096, 77)
    assert models["data"][0]["id"] == "fake"
    assert (pings, load) == ([200, 200], {"server_load": 0})
