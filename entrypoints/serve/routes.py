"""Which path belongs to whom. Bodies decide more than paths do (``dialects/detect.py``), since gateways
rewrite paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from engine.entrypoints.serve.calls import DIALECT_HEADERS, CallHandler
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.dialects.detect import (
    CLASSIFY,
    DASHSCOPE,
    DIALECTS,
    ISAACUS,
    LLAMACPP,
    NVIDIA,
    POOLING,
    PREDICT,
    QUERIES,
    SCORE,
    SGLANG_SCORE,
    TEI,
)
from engine.entrypoints.serve.docs_page import docs_page
from engine.entrypoints.serve.openapi import dialect_parameters, page, route_schema
from engine.entrypoints.serve.page.files import add_page
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.status import StatusRoutes
from engine.entrypoints.serve.tokens import TokenRoutes

RERANK_PATHS: tuple[tuple[str, Dialect | None, str], ...] = (
    ("/v1/rerank", None, "Rank documents for a query."),
    ("/v2/rerank", None, "The same, where Cohere's second version expects it."),
    ("/rerank", None, "The same, where TEI and gateways expect it."),
    ("/v1/reranking", LLAMACPP, "llama.cpp's and mixedbread's path."),
    ("/reranking", LLAMACPP, "llama.cpp's path."),
    ("/v1/ranking", NVIDIA, "NVIDIA NIM's path."),
    ("/ranking", NVIDIA, "NVIDIA NIM's path, without a version."),
    ("/v1/rerankings", ISAACUS, "isaacus' path."),
    ("/api/v1/services/rerank/text-rerank/text-rerank", DASHSCOPE, "DashScope's path."),
    ("/", TEI, "TEI's path for the model's own task."),
)
OWN_PATHS: tuple[tuple[str, Dialect, str], ...] = (
    ("/predict", PREDICT, "TEI: a label and a score for a text, a pair, or a batch of them."),
    ("/classify", CLASSIFY, "vLLM: probabilities of whole prompts."),
    ("/pooling", POOLING, "vLLM: the same, as pooled data."),
)

Add = Callable[..., None]


def add_routes(app: FastAPI, service: RerankService, status: StatusRoutes) -> None:
    _add_calls(app, CallHandler(service))
    _add_tokens(app, TokenRoutes(service))
    _add_status(app, status)
    add_page(app)


def _add(app: FastAPI, path: str, handler: Any, summary: str, *, schema: dict[str, Any], method: str = "POST") -> None:
    name = path.strip("/").translate(str.maketrans("/.-", "___")) or "root"
    app.add_api_route(
        path,
        handler,
        methods=[method],
        summary=summary,
        operation_id=f"{name}_{method.lower()}",
        openapi_extra=schema,
        response_model=None,
    )


def _add_calls(app: FastAPI, calls: CallHandler) -> None:
    readers = [*DIALECTS.values(), QUERIES]
    rerank = route_schema([d.request_type for d in readers], [d.answer_type for d in readers], streams=True)
    rerank |= dialect_parameters(list(DIALECTS), DIALECT_HEADERS[0])
    for path, dialect, summary in RERANK_PATHS:
        _add(app, path, calls.rerank(dialect), summary, schema=rerank)
    _add(app, "/v1/rerank", calls.rerank(), "SGLang takes PUT as well.", schema=rerank, method="PUT")
    both = (SCORE, SGLANG_SCORE)
    score = route_schema([d.request_type for d in both], [d.answer_type for d in both], streams=True)
    for path, summary in (("/v1/score", "Score pairs: 1:1, 1:N or N:N, in input order."), ("/score", "The same.")):
        _add(app, path, calls.score(), summary, schema=score)
    for path, dialect, summary in OWN_PATHS:
        own = route_schema([dialect.request_type], [dialect.answer_type], streams=True)
        _add(app, path, calls.only(dialect), summary, schema=own)
    every = [*DIALECTS.values(), *both, PREDICT, CLASSIFY, POOLING]  # queries with documents are a score here
    anything = route_schema([d.request_type for d in every], [d.answer_type for d in every], streams=True)
    _add(app, "/invocations", calls.invocations(), "SageMaker's one path for all of these bodies.", schema=anything)


def _add_tokens(app: FastAPI, tokens: TokenRoutes) -> None:
    encode = route_schema(tokens.TOKENIZE, tokens.TOKENIZE_ANSWERS)
    decode = route_schema(tokens.DETOKENIZE, tokens.DETOKENIZE_ANSWERS)
    _add(app, "/tokenize", tokens.tokenize, "Token ids of a text.", schema=encode)
    _add(app, "/detokenize", tokens.detokenize, "Text of token ids.", schema=decode)
    _add(app, "/decode", tokens.detokenize, "The same, where TEI has it.", schema=decode)


def _add_status(app: FastAPI, status: StatusRoutes) -> None:
    for path, handler, summary in (
        ("/v1/models", status.models, "What is served here."),
        ("/models", status.models, "The same."),
        ("/info", status.info, "TEI's description of the model."),
        ("/health", status.ready, "200 while calls are answered, else 503. The same as /ready."),
        ("/ready", status.ready, "200 while calls are answered, else 503."),
        ("/ping", status.ready, "The same, where SageMaker looks."),
        ("/live", status.live, "200 while the process answers at all."),
        ("/version", status.version, "The version of the engine."),
        ("/load", status.load, "Calls inside."),
    ):
        _add(app, path, handler, summary, schema=page("application/json", {"type": "object"}), method="GET")
    _add(app, "/ping", status.ready, "The same.", schema=page("application/json", {"type": "object"}))
    text = page("text/plain", {"type": "string"})
    _add(app, "/metrics", status.metrics, "Prometheus text.", schema=text, method="GET")
    app.add_api_route("/docs", docs_page, methods=["GET"], include_in_schema=False, response_model=None)
