"""The routes. Handlers read bytes, let a codec make sense of them, and hand a ``RerankCall`` to the service.

FastAPI is used for routing and for /openapi.json; bodies are decoded by msgspec, whose structs also describe the
routes there. Everything around a handler (request ids, keys, limits) is plain ASGI middleware: it holds for every path.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine import __version__
from engine.entrypoints.serve.auth import Authentication
from engine.entrypoints.serve.calls import CallHandler
from engine.entrypoints.serve.docs_page import docs_page
from engine.entrypoints.serve.errors import error_response, not_found_message
from engine.entrypoints.serve.limits import Limits, RequestIds
from engine.entrypoints.serve.openapi import body_schema, describe
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.status import StatusRoutes
from engine.entrypoints.serve.tokens import TokenRoutes
from engine.errors import EngineError, MethodNotAllowedError, NotFoundError


def create_app(service: RerankService) -> FastAPI:
    config = service.config
    app = FastAPI(title="engine", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_routes(app, service)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(EngineError, _engine_error)
    # Outermost last: an id for everything, then the key, then the limits.
    app.add_middleware(Limits, max_body_bytes=config.max_body_bytes)
    app.add_middleware(Authentication, keys=config.api_key)
    app.add_middleware(RequestIds, stopping=lambda: service.stopping)
    describe(app)
    return app


def _add_routes(app: FastAPI, service: RerankService) -> None:
    calls, tokens, status = CallHandler(service), TokenRoutes(service), StatusRoutes(service)

    def post(path: str, handler: Any, summary: str, schema: dict[str, Any], operation: str) -> None:
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            summary=summary,
            operation_id=operation,
            openapi_extra=schema,
            response_model=None,
        )

    def get(path: str, handler: Any, summary: str) -> None:
        operation = path.strip("/").replace("/", "_").replace(".", "_")
        app.add_api_route(path, handler, methods=["GET"], summary=summary, operation_id=operation, response_model=None)

    rerank_schema, score_schema = calls.rerank_schema(), calls.score_schema()
    post("/v1/rerank", calls.rerank, "Rank documents for a query.", rerank_schema, "rerank_v1")
    post("/v2/rerank", calls.rerank, "The same, where Cohere's second version expects it.", rerank_schema, "rerank_v2")
    post("/rerank", calls.rerank, "The same, where TEI and gateways expect it.", rerank_schema, "rerank")
    post("/v1/score", calls.score, "Score pairs: 1:1, 1:N or N:N, in input order.", score_schema, "score_v1")
    post("/score", calls.score, "The same.", score_schema, "score")
    post("/tokenize", tokens.tokenize, "Token ids of a text.", body_schema(*tokens.TOKENIZE), "tokenize")
    post("/detokenize", tokens.detokenize, "Text of token ids.", body_schema(*tokens.DETOKENIZE), "detokenize")
    get("/v1/models", status.models, "What is served here.")
    get("/health", status.ready, "200 while calls are answered, else 503. The same as /ready.")
    get("/ready", status.ready, "200 while calls are answered, else 503.")
    get("/live", status.live, "200 while the process answers at all.")
    get("/version", status.version, "The version of the engine.")
    get("/metrics", status.metrics, "Prometheus text.")
    app.add_api_route("/docs", docs_page, methods=["GET"], include_in_schema=False, response_model=None)


async def _routing_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our shape."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        ours: EngineError = MethodNotAllowedError(f"{request.method} is not possible on {path}; allowed: {allow}.")
        response = error_response(ours, request.state.request_id)
        response.headers["Allow"] = allow
        return response
    return error_response(NotFoundError(not_found_message(path)), request.state.request_id)


async def _engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return error_response(error, request.state.request_id)
