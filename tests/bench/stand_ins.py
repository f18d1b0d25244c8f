"""Small servers that speak each dialect as the real ones do, on a real socket, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MODEL = "stand-in"


@dataclass
class StandIn:
    """One server; what it received is kept, and the knobs may be turned while it runs."""

    dialect: str
    delay_s: float = 0.0
    ready_after_calls: int = 0
    """Answers 503 to so many rerank calls first."""
    fail_every: int = 0
    """Every n-th call is answered with 500."""
    drop_score: bool = False
    """Leaves one document out."""
    api_key: str | None = None
    tokens_per_document: int = 100
    stream_gap_s: float = 0.0
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0
    step_tokens: list[int] = field(default_factory=list)

    @property
    def path(self) -> str:
        return {"tei": "/rerank", "infinity": "/rerank", "cohere": "/v2/rerank"}.get(self.dialect, "/v1/rerank")

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post(self.path, self.rerank)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/health", self.health)
        if self.dialect == "tei":
            app.router.add_get("/info", self.info)
        elif self.dialect == "infinity":
            app.router.add_get("/models", self.models)
        elif self.dialect != "cohere":
            app.router.add_get("/v1/models", self.models)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def info(self, request: web.Request) -> web.Response:
        return web.json_response({"model_id": MODEL, "model_type": {"reranker": {}}})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def metrics(self, request: web.Request) -> web.Response:
        num_tokens = sum(len(documents_of(body)) for body in self.bodies) * self.tokens_per_document
        lines = [
            "# TYPE engine_logical_tokens_total counter",
            f"engine_logical_tokens_total {num_tokens}",
            "# TYPE engine_computed_tokens_total counter",
            f"engine_computed_tokens_total {num_tokens // 2}",
            "# TYPE engine_step_tokens histogram",
        ]
        for bound in ("128", "256", "+Inf"):
            within = sum(tokens <= float(bound) for tokens in self.step_tokens)
            lines.append(f'engine_step_tokens_bucket{{le="{bound}"}} {within}')
        lines += [
            f"engine_step_tokens_count {len(self.step_tokens)}",
            f"engine_step_tokens_sum {sum(self.step_tokens)}",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        number = len(self.bodies)
        if number <= self.ready_after_calls:
            return web.json_response({"error": {"message": "loading"}}, status=503)
        if self.fail_every and number % self.fail_every == 0:
            return web.json_response({"error": {"message": "it broke"}}, status=500)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay_s)
            self.step_tokens.append(self.tokens_per_document * len(documents_of(body)))
            if body.get("stream"):
                return await self.stream(request, body)
            return self.answer(body)
        finally:
            self.in_flight -= 1

    async def stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for index in range(len(documents_of(body))):
            await response.write(json.dumps({"index": index, "relevance_score": 0.5}).encode() + b"\n")
            await asyncio.sleep(self.stream_gap_s)
        await response.write(json.dumps(self.payload(body)).encode() + b"\n")
        return response

    def answer(self, body: dict[str, Any]) -> web.Response:
        headers = {"x-compute-tokens": str(self.total_tokens(body))} if self.dialect == "tei" else {}
        return web.json_response(self.payload(body), headers=headers)

    def total_tokens(self, body: dict[str, Any]) -> int:
        return self.tokens_per_document * len(documents_of(body))

    def payload(self, body: dict[str, Any]) -> Any:
        indices = list(range(len(documents_of(body))))[1 if self.drop_score else 0 :]
        if self.dialect in ("tei", "sglang"):
            return [{"index": index, "score": 1.0 / (index + 2)} for index in indices]
        results = [{"index": index, "relevance_score": 1.0 / (index + 2)} for index in indices]
        if self.dialect == "cohere":
            return {"id": "x", "results": results, "meta": {"billed_units": {"search_units": 1}}}
        total = self.total_tokens(body)
        return {"model": MODEL, "results": results, "usage": {"prompt_tokens": total, "total_tokens": total}}


def documents_of(body: dict[str, Any]) -> list[str]:
    return body["texts"] if "texts" in body else body["documents"]


@contextmanager
def running(stand_in: StandIn) -> Iterator[StandIn]:
    """The server in a thread of its own, so that the bench may block this one."""
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(stand_in.application(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        return runner

    runner = None

    def serve() -> None:
        nonlocal runner
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert started.wait(10)
        yield stand_in
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
