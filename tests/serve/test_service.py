"""States of the server, who may come in, and who must have a key."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.auth import OPEN_ROUTES, check_exposure
from engine.entrypoints.serve.errors import for_clients
from engine.entrypoints.serve.log_stats import log_stats
from engine.entrypoints.serve.page.files import PAGE_PATHS
from engine.errors import (
    ConfigError,
    EngineDeadError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
    StepFailedError,
)
from engine.messages import SchedulerStats
from tests.serve.conftest import running_server
from tests.serve.fakes import FakeCore, FakeProcessor
from tests.serve.raw_client import RawClient

BODY = {"query": "q", "documents": ["a", "b"]}


async def test_starting() -> None:
    async with running_server(loaded=False) as server:
        assert (await server.client.get("/live")).status_code == 200
        for path in ("/ready", "/health", "/v1/models"):
            answer = await server.client.get(path)
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "not_ready")
            assert int(answer.headers["retry-after"]) > 0
        assert (await server.client.post("/v1/rerank", json=BODY)).status_code == 503
        assert (await server.client.get("/metrics")).status_code == 200


async def test_status_routes() -> None:
    async with running_server() as server:
        for path in ("/live", "/ready", "/health"):
            assert (await server.client.get(path)).status_code == 200
        models = (await server.client.get("/v1/models")).json()
        assert [card["id"] for card in models["data"]] == ["fake", "alias"]
        assert models["data"][0]["max_model_len"] == 4096
        assert (await server.client.get("/version")).json()["version"]
        server.core.healthy = False
        ready = await server.client.get("/ready")
        assert ready.status_code == 503
        assert "the worker process ended" in ready.json()["error"]["message"], "it says why"
        assert (await server.client.get("/live")).status_code == 200


async def test_metrics_count() -> None:
    async with running_server() as server:
        await server.client.post("/v1/rerank", json=BODY)
        await server.client.post("/rerank", json={"query": "q", "texts": ["a"]})
        await server.client.post("/v1/rerank", json={"query": "q"})
        text = (await server.client.get("/metrics")).text
    for line in (
        'engine_calls_total{dialect="rerank",route="/v1/rerank",status="200"} 1.0',
        'engine_calls_total{dialect="tei",route="/rerank",status="200"} 1.0',
        'engine_calls_total{dialect="rerank",route="/v1/rerank",status="400"} 1.0',
        'engine_errors_total{type="invalid_request_error"} 1.0',
        "engine_pairs_total 3.0",
        "engine_call_seconds_count 2.0",
        "engine_core_steps_total 0.0",
        "engine_running_calls 0.0",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("documents", "more", "in_thread"),
    [
        (["a", "b"], {}, False),
        (["a"] * 5, {}, True),
        (["a" * 2100], {}, True),
        (["a"], {"instruction": "i" * 2100}, True),
        (["a"], {"chunk_tokens": 16}, True),
    ],
)
async def test_only_calls_of_few_letters_are_tokenised_on_the_event_loop(
    documents: list[str], more: dict[str, object], in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    encode = FakeProcessor.encode_each

    def watched(self: FakeProcessor, *args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread() is not threading.main_thread())
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(FakeProcessor, "encode_each", watched)
    async with running_server() as server:
        answer = await server.client.post("/v1/rerank", json={"query": "q", "documents": documents, **more})
        assert len(answer.json()["results"]) == len(documents)
    assert set(threads) == {in_thread}


async def test_admission_is_atomic_and_limits_are_on() -> None:
    core = FakeCore(pairs_per_step=1, step_s=0.05)
    async with running_server(core, max_queued_pairs=5, overload_status=429) as server:
        first = asyncio.create_task(server.client.post("/v1/rerank", json={"query": "q", "documents": ["a"] * 4}))
        while not core.requests:
            await asyncio.sleep(0.001)
        refused = await server.client.post("/v1/rerank", json=BODY)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(core.requests) == 1
        assert (await first).status_code == 200
        assert (await server.client.post("/v1/rerank", json=BODY)).status_code == 200
        assert (server.service.admission.num_pairs, server.service.admission.num_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("headers", "more", "whose"),
    [
        ({}, {}, "--max-queue-seconds"),
        ({}, {"timeout_ms": 700}, "0.7 s that its caller waits"),
        ({"x-envoy-expected-rq-timeout-ms": "900"}, {}, "0.9 s that its caller waits"),
        ({"x-stainless-read-timeout": "0.5"}, {"timeout_ms": 800}, "0.5 s that its caller waits"),
    ],
)
async def test_a_call_that_would_wait_too_long_is_refused_with_the_time_to_come_back(
    headers: dict[str, str], more: dict[str, int], whose: str
) -> None:
    core = FakeCore(pairs_per_step=1, step_s=0.05)
    async with running_server(core, max_queue_seconds=3.0) as server:
        first = asyncio.create_task(server.client.post("/v1/rerank", json={"query": "q", "documents": ["a"] * 4}))
        while not core.requests:
            await asyncio.sleep(0.001)
        queue = server.service.admission.queues["fake"]
        queue.speed._tokens, queue.speed._seconds = queue.work, 10.0  # what is queued would take ten seconds
        body = {"query": "q", "documents": ["b"], **more}
        refused = await server.client.post("/v1/rerank", json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "overloaded")
        assert whose in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) in range(6, 11)
        assert server.service.admission.wait_s > 5
        assert (await first).status_code == 200


async def test_token_limit() -> None:
    core = FakeCore(pairs_per_step=1, step_s=0.05)
    async with running_server(core, max_queued_tokens=60) as server:
        first = asyncio.create_task(server.client.post("/v1/rerank", json={"query": "q", "documents": ["w " * 50]}))
        while not core.requests:
            await asyncio.sleep(0.001)
        refused = await server.client.post("/v1/rerank", json={"query": "q", "documents": ["w " * 20]})
        assert refused.status_code == 503
        assert "--max-queued-tokens" in refused.json()["error"]["message"]
        assert (await first).status_code == 200


async def test_drain_finishes_what_was_accepted() -> None:
    core = FakeCore(pairs_per_step=1, step_s=0.05)
    async with running_server(core) as server:
        call = asyncio.create_task(server.client.post("/v1/rerank", json=BODY))
        while not core.requests:
            await asyncio.sleep(0.001)
        drain = asyncio.create_task(server.service.drain())
        await asyncio.sleep(0.01)
        assert (await server.client.get("/ready")).status_code == 503
        assert (await server.client.get("/live")).status_code == 200
        late = await server.client.post("/v1/rerank", json=BODY)
        assert (late.status_code, late.json()["error"]["type"]) == (503, "shutting_down")
        await drain
        assert (await call).status_code == 200


async def test_answers_while_stopping_close_their_connection() -> None:
    async with running_server() as server:
        assert "connection" not in (await server.client.get("/live")).headers
        server.service.state = "draining"
        assert (await server.client.get("/live")).headers["connection"] == "close"


async def test_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    last = SchedulerStats(num_steps=2, finished_pairs=30, logical_tokens=4000, computed_tokens=1000)
    totals = iter([SchedulerStats(), SchedulerStats(), last])
    task = asyncio.create_task(log_stats(lambda: next(totals), 0.01))
    await asyncio.wait((task,), timeout=1)
    assert [record.message.split("(")[1].split(")")[0].split(", ")[1] for record in caplog.records] == ["75% shared"]
    assert isinstance(task.exception(), RuntimeError)  # the totals ran out


async def test_drain_delay_still_takes_calls() -> None:
    async with running_server(drain_delay_s=0.2) as server:
        drain = asyncio.create_task(server.service.drain())
        await asyncio.sleep(0.01)
        assert (await server.client.get("/ready")).status_code == 503
        assert (await server.client.post("/v1/rerank", json=BODY)).status_code == 200
        await drain
        assert (await server.client.post("/v1/rerank", json=BODY)).status_code == 503


async def test_drain_deadline_answers_the_rest() -> None:
    core = FakeCore(pairs_per_step=1, step_s=5)
    async with running_server(core, shutdown_timeout_s=0.1) as server:
        calls = [
            asyncio.create_task(server.client.post("/v1/rerank", json={**BODY, "stream": stream}))
            for stream in (False, True)
        ]
        while len(core.requests) < 2:
            await asyncio.sleep(0.001)
        await asyncio.wait_for(server.service.drain(), 2)
        plain, stream = await asyncio.gather(*calls)
        assert (plain.status_code, plain.json()["error"]["type"]) == (503, "shutting_down")
        assert '"shutting_down"' in stream.text
        assert len(core.aborted) == 2


KEY = "s3cret"
SPELLINGS = [
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/rerank"),
    ("POST", "/rerank"),
    ("POST", "/v2/rerank"),
    ("POST", "/score"),
    ("POST", "/v1/score"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/%72erank"),
    ("GET", "/nothing"),
    ("POST", "/"),
    ("GET", "/page/"),
    ("GET", "/page/../metrics"),
]


@pytest.mark.parametrize(("method", "path"), SPELLINGS)
async def test_every_route_needs_the_key(method: str, path: str) -> None:
    async with running_server(api_key=(KEY, "other")) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {KEY}x"},
            {"Host": "live"},
        ):
            answer = await server.client.request(method, path, headers=headers)
            assert answer.status_code == 401, (path, headers)
            body = answer.json()
            if path == "/":  # text-embeddings-inference's
                assert "error_type" in body
            else:
                assert body["error"]["type"] == "authentication_error"
            assert answer.headers["www-authenticate"] == "Bearer"
        for headers in (
            {"Authorization": f"Bearer {KEY}"},
            {"authorization": "bearer other"},
            {"Authorization": KEY},
            {"Api-Key": KEY},
        ):
            assert (await server.client.request(method, path, headers=headers)).status_code != 401


@pytest.mark.parametrize("path", ["/health/../v1/rerank", "/live/../v1/rerank", "/Live", "/live?x", "/live/v1/live/x"])
async def test_odd_spellings_need_the_key(path: str) -> None:
    async with running_server(api_key=(KEY,)) as server:
        assert await RawClient(server, BODY, path=path).status() == 401
        assert await RawClient(server, BODY, {"Authorization": KEY}, path=path).status() == 404


async def test_every_registered_route_is_covered() -> None:
    async with running_server(api_key=(KEY,)) as server:
        app = server.client._transport.app  # type: ignore[attr-defined]
        paths = {route.path for route in app.routes}
        for path in paths:
            for method in ("GET", "POST", "PUT"):
                status = (await server.client.request(method, path, json=BODY)).status_code
                is_open = path in OPEN_ROUTES or (method == "GET" and path in PAGE_PATHS)
                assert (status == 401) != is_open, (method, path)
    assert len(paths) > 30


async def test_open_routes_stay_open_behind_a_prefix() -> None:
    async with running_server(api_key=(KEY,)) as server:
        transport = httpx.ASGITransport(server.client._transport.app, root_path="/api")  # type: ignore[attr-defined]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for path in ("/live", "/ready", "/health", "/api/live", "/api/api/live"):
                assert (await client.get(path)).status_code == 200, path
            for path in ("/api/v1/rerank", "/v1/rerank", "/apix/live"):
                assert (await client.post(path, json=BODY)).status_code == 401, path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_exposed_without_a_key_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        check_exposure(ServerConfig(host=host))
    check_exposure(ServerConfig(host=host, api_key=("k",)))
    check_exposure(ServerConfig(host=host, insecure_no_auth=True))


def test_loopback_needs_no_key_and_keys_are_not_empty() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposure(ServerConfig(host=host))
    with pytest.raises(ConfigError, match="empty"):
        check_exposure(ServerConfig(api_key=("",)))


async def test_openapi_and_docs() -> None:
    async with running_server() as server:
        document = (await server.client.get("/openapi.json")).json()
        page = (await server.client.get("/docs")).text
    assert {"/v1/rerank", "/v2/rerank", "/rerank", "/score", "/v1/score", "/tokenize", "/detokenize"} <= set(
        document["paths"]
    )
    schemas = document["components"]["schemas"]
    assert {"RerankBody", "TeiBody", "TextBody", "TokenizeBody", "Error"} <= set(schemas)
    assert set(schemas["RerankBody"]["required"]) == {"query", "documents"}
    for references in json.dumps(document).split('"$ref": "')[1:]:
        assert references.split('"')[0].rsplit("/", 1)[1] in schemas
    assert "HTTPValidationError" not in schemas
    assert "https://" not in page
    assert "http://" not in page


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ModelLoadError("/srv/models/m/config.json is gone."),
            "The model cannot be loaded; the log of the server says",
        ),
        (StepFailedError("OSError: [Errno 2] No such file: '/srv/m/model.safetensors'"), "OSError: [Errno 2] No such"),
        (EngineDeadError('worker 1 ended (~/x/y.py:7)\nTraceback: File "/usr/lib/x.py"'), "worker 1 ended ("),
        (EngineDeadError("The engine cannot run a step now."), "The engine cannot run a step now."),
        (InvalidRequestError("There is no route /v1/x."), "There is no route /v1/x."),
    ],
)
def test_clients_see_no_paths_of_this_machine(error: EngineError, shown: str) -> None:
    text = str(for_clients(error))
    assert text.startswith(shown)
    assert "\n" not in text
    if not isinstance(error, InvalidRequestError):
        assert "/" not in text


async def test_an_engine_that_ends_over_its_files_names_none_of_them() -> None:
    core = FakeCore()

    def gone(request: Any) -> Any:
        raise ModelLoadError("/srv/models/secret/model.safetensors is gone.")

    core.run = gone  # type: ignore[method-assign]
    async with running_server(core) as server:
        for path, texts in (("/v1/rerank", "documents"), ("/rerank", "texts")):
            body = {"query": "q", texts: ["a"]}
            answer = await server.client.post(path, json=body)
            streamed = await server.client.post(path, json=body, headers={"Accept": "application/x-ndjson"})
            assert answer.status_code == 503
            assert "secret" not in answer.text + streamed.text
            assert "log of the server" in answer.text
