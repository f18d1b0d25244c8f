"""Traces: one a call, continued from the caller's, with the parts in order; and nothing at all without a collector."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import Any

import httpx
import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.tracing import tracer_for
from engine.errors import ConfigError
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra `otel`")
in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")

BODY = {"query": "a secret question", "documents": ["one", "two", "three"]}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


class Traced:
    def __init__(self, client: httpx.AsyncClient, spans: Any) -> None:
        self.client = client
        self._spans = spans

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self._spans.get_finished_spans()}


@pytest.fixture
async def traced(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    exporter = in_memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr("engine.entrypoints.serve.app.tracer_for", lambda endpoint: provider.get_tracer(endpoint))
    config = ServerConfig(otlp_traces_endpoint="http://collector:4318", api_key=("key",))
    service = RerankService(config, ServerMetrics())
    service.attach(LoadedEngine(SPEC, FakeProcessor(), FakeCore(step_s=0.02), ("fake",)))
    transport = httpx.ASGITransport(create_app(service))
    headers = {"Authorization": "key"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield Traced(client, exporter)
    await service.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_spans_of_a_call(traced: Traced, stream: bool) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
    answer = await traced.client.post("/v1/rerank", json={**BODY, "stream": stream}, headers=headers)
    spans = traced.spans()
    root = spans.pop("POST /v1/rerank")
    assert [*spans] == ["tokenise", "queue", "steps", "respond"]
    assert f"{root.context.trace_id:032x}" == TRACE_ID
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
    assert all(span.parent.span_id == root.context.span_id for span in spans.values())
    attributes = dict(root.attributes)
    assert attributes["rerank.pairs"] == 3
    assert attributes["rerank.computed_tokens"] * 2 <= attributes["rerank.logical_tokens"]
    assert attributes["rerank.request_id"] == answer.headers["x-request-id"]
    assert spans["steps"].attributes["rerank.steps"] == 3
    ends = [(span.start_time, span.end_time) for span in spans.values()]
    assert all(start <= end for start, end in ends)
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    assert root.start_time <= spans["tokenise"].end_time
    assert spans["respond"].end_time == root.end_time
    assert not any("secret" in str(dict(span.attributes)) for span in (root, *spans.values()))


async def test_mistakes_and_pages(traced: Traced) -> None:
    await traced.client.get("/metrics")
    await traced.client.post("/v1/rerank", json=BODY, headers={"Authorization": "wrong"})
    assert traced.spans() == {}
    await traced.client.post("/v1/rerank", json={"query": "q"})
    await traced.client.post("/any/path/at/all", json=BODY)
    spans = traced.spans()
    assert [*spans] == ["POST /v1/rerank", "POST"]
    assert spans["POST /v1/rerank"].attributes["http.response.status_code"] == 400


@pytest.mark.parametrize("path", ["", "/", "/v1/traces", "/my/own"])
def test_goes_to_the_collector(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "rerank in the cellar")
    seen: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        tracer = tracer_for(f"http://127.0.0.1:{server.server_port}{path}")
        tracer.start_span("queue").end()
        tracer.span_processor.shutdown()
        thread.join(10)
    ((place, body),) = seen
    assert place == (path if len(path) > 1 else "/v1/traces")
    assert b"queue" in body
    assert b"rerank in the cellar" in body


@pytest.mark.parametrize("endpoint", ["collector:4317", "grpc://collector", "http://"])
def test_wrong_endpoint(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="http://collector:4318"):
        tracer_for(endpoint)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="pip install 'opentelemetry-sdk"):
        tracer_for("http://collector:4318")


def test_inert_without_an_endpoint() -> None:
    # FastAPI by itself imports the interface of OpenTelemetry where it is installed.
    code = (
        "import sys; from engine.config import ServerConfig; from engine.entrypoints.serve.app import create_app;"
        "from engine.entrypoints.serve.metrics import ServerMetrics;"
        "from engine.entrypoints.serve.service import RerankService;"
        "create_app(RerankService(ServerConfig(), ServerMetrics()));"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0
