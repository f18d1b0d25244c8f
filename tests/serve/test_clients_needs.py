"""What clients ask for beside the call itself, and what must not be guessed from half of a body."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.dialect_registry import DIALECTS
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from tests.serve.conftest import running_server
from tests.serve.example_bodies import example_body
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor, expected_logit

DOCUMENTS: dict[str, Any] = {"query": "q", "documents": ["a", "b"]}
KEY = "the-key"


async def test_one_model_and_whether_a_key_is_needed() -> None:
    async with running_server(api_key=(KEY,)) as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        card = (await server.client.get("/v1/models/alias", headers=headers)).json()
        through = (await server.client.get("/openai/v1/models/org/fake-reranker", headers=headers)).json()
        missing = await server.client.get("/v1/models/other", headers=headers)
        auth = (await server.client.get("/v1/cluster/auth")).json()
        closed = [(await server.client.get(path)).status_code for path in ("/v1/models/alias", "/meta")]
        wellknown = [(await server.client.get(f"/.well-known/{name}")).status_code for name in ("live", "ready")]
        meta = (await server.client.get("/meta", headers=headers)).json()
        pinecones = (await server.client.get("/models?type=rerank", headers=headers)).json()
    assert (card["id"], card["object"], card["model_type"]) == ("alias", "model", "rerank")
    assert through["id"] == "org/fake-reranker"
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert (auth, closed, wellknown) == ({"auth": True}, [401, 401], [200, 200])
    assert meta["model"] == "fake"
    assert [model["model"] for model in pinecones["models"]] == [model["id"] for model in pinecones["data"]]
    async with running_server() as server:
        assert (await server.client.get("/v1/cluster/auth")).json() == {"auth": False}


async def test_what_amazons_sdks_sign_carries_the_key_as_their_access_key_id() -> None:
    signed = "AWS4-HMAC-SHA256 Credential={}/20261128/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0"
    async with running_server(api_key=(KEY,)) as server:
        zen = await server.client.post("/rerank", json=DOCUMENTS, headers={"Authorization": f"ZenApiKey {KEY}"})
        assert zen.status_code == 200
        for key, status in ((KEY, 200), ("other", 401), ("", 401)):
            answer = await server.client.post("/rerank", json=DOCUMENTS, headers={"Authorization": signed.format(key)})
            assert answer.status_code == status, key


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("fireworks/my_model", "my_model"),
        ("mixedbread-ai/my_model", "my_model"),
        ("my.model", "my_model"),
        ("nvidia/other.model", None),
        ("someone/my_model", None),
    ],
)
async def test_names_that_clients_rewrite(sent: str, meant: str | None) -> None:
    service = RerankService(ServerConfig(), ServerMetrics())
    service.attach(
        LoadedEngine(SPEC, FakeProcessor(), FakeCore(), ("my_model",)),
        LoadedEngine(replace(SPEC, name="org/other"), FakeProcessor(), FakeCore(), ("other",)),
    )
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/v1/rerank", json=DOCUMENTS | {"model": sent})
    if meant is None:
        assert answer.status_code == 404
    else:
        assert answer.json()["model"] == sent
        assert service.models.choose(sent).engine is service.models.choose(meant).engine
    await service.stop()


@pytest.mark.parametrize("name", [name for name, dialect in DIALECTS.items() if dialect.choosable])
async def test_scores_lie_where_the_clients_of_a_dialect_expect_them(name: str) -> None:
    """A model whose own score is the logit, as many cross-encoders are; its tanh; and one that divides its logit."""
    body = example_body(DIALECTS[name], "q", ["a b c"])
    logit = expected_logit("q", "a b c")
    for head, own, place in (
        (replace(SPEC.head, activation="identity"), logit, logit),
        (replace(SPEC.head, activation="tanh"), np.tanh(logit), logit),
        (replace(SPEC.head, activation="identity", logit_mean=1.0, logit_sigma=5.0), (logit - 1) / 5, (logit - 1) / 5),
    ):
        service = RerankService(ServerConfig(), ServerMetrics())
        service.attach(LoadedEngine(replace(SPEC, head=head), FakeProcessor(), FakeCore(), ("fake",)))
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = (await client.post(f"/{name}/v1/rerank", json=body)).text
            raw = (await client.post(f"/{name}/v1/rerank", json=body | {"use_activation": False})).text
        await service.stop()
        promised = 1 / (1 + np.exp(-np.float64(place))) if DIALECTS[name].probabilities else own
        promised = place if name == "nvidia" else promised
        assert str(float(promised))[:6] in answer
        assert str(float(place))[:6] in raw


@pytest.mark.parametrize("name", ["rerank", "jina", "cohere-v1", "cohere-v2", "opensearch", "siliconflow"])
@pytest.mark.parametrize("more", [{"max_tokens_per_doc": 2}, {"long_document": "chunk", "chunk_tokens": 16}])
async def test_entries_hold_nothing_that_a_strict_parser_refuses(name: str, more: dict[str, Any]) -> None:
    """Elasticsearch's parsers of Cohere, Jina and OpenShift take these three keys, also of a long document."""
    body = {"query": "q", "documents": ["a long document " * 30, "short"], "return_documents": True, **more}
    async with running_server() as server:
        answer = (await server.client.post(f"/{name}/v1/rerank", json=body)).json()
    for entry in answer["results"]:
        assert set(entry) == {"index", "relevance_score", "document"}
        assert {key for key, value in entry["document"].items() if value is not None} == {"text"}
    assert name != "rerank" or answer["details"]


async def test_a_shared_body_says_once_how_to_choose(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engine.entrypoints.serve.calls")
    async with running_server() as server:
        for path in ("/voyage/v1/rerank", "/v1/rerank?dialect=jina", "/v1/rerank", "/rerank", "/v2/rerank"):
            assert (await server.client.post(path, json=DOCUMENTS)).status_code == 200
    said = [record.getMessage() for record in caplog.records if "?dialect=NAME" in record.getMessage()]
    assert len(said) == 1
    assert "/v1/rerank" in said[0]
    caplog.clear()
    async with running_server(dialect="rerank") as server:
        await server.client.post("/v1/rerank", json=DOCUMENTS)
    assert not caplog.records


@pytest.mark.parametrize("extra", ["texts", "passages", "docs", "text_2", "sources", "candidates"])
async def test_half_of_a_body_is_never_scored(extra: str) -> None:
    async with running_server() as server:
        answer = await server.client.post("/v1/rerank", json=DOCUMENTS | {extra: ["other"]})
        fine = await server.client.post("/v1/rerank", json=DOCUMENTS | {extra: None})
        assert answer.status_code in (400, 422)
        assert fine.status_code == 200
    assert extra in answer.text or "documents" in answer.text
    assert not server.core.requests[1:]


async def test_instances_of_vertex_ai() -> None:
    """Text-embeddings-inference's /vertex: each instance is a call, and the answer has its place."""
    async with running_server() as server:
        texts = {"query": "q", "texts": ["a b", "c"]}
        answer = await server.client.post("/vertex", json={"instances": [texts, DOCUMENTS]})
        assert answer.status_code == 200
        first, second = answer.json()["predictions"]
        assert sorted(entry["index"] for entry in first) == [0, 1]
        assert len(second["results"]) == 2
        wrong = await server.client.post("/vertex", json={"instances": [texts, {"query": "q", "texts": []}]})
        assert wrong.status_code in (400, 413, 422)
        assert "instances[1].texts" in wrong.text
        for body in ({}, {"instances": []}, {"instances": {}}, {"instances": [7]}):
            assert (await server.client.post("/vertex", json=body)).status_code == 400, body


async def test_probes_ask_with_head() -> None:
    async with running_server() as server:
        for path in ("/", "/docs", "/health", "/v1/models"):
            answer = await server.client.head(path)
            assert (answer.status_code, answer.content) == (200, b""), path


@pytest.mark.parametrize(
    "path",
    [
        "/model/arn%3Aaws%3Abedrock%3Aus-west-2%3A%3Afoundation-model%2Ffake/invoke",
        "/model/fake/invoke",
    ],
)
async def test_bedrocks_path_has_the_models_arn(path: str) -> None:
    async with running_server() as server:
        answer = await server.client.post(path, json={"query": "q", "documents": ["a", "b"], "api_version": 2})
        assert answer.status_code == 200, answer.text


async def test_ragflows_nim_path() -> None:
    async with running_server() as server:
        body = {"model": "fake", "query": {"text": "q"}, "passages": [{"text": "a"}], "truncate": "END", "top_n": 1}
        answer = await server.client.post("/v1/nv-rerankqa-mistral-4b-v3/reranking", json=body)
        assert [entry["index"] for entry in answer.json()["rankings"]] == [0]
