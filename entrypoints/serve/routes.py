"""Every path and its handler. Each dialect says which paths are its own; bodies decide more than paths do
(``detect.py``), since gateways rewrite paths."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import request_response

from engine.entrypoints.serve.calls import CallHandler
from engine.entrypoints.serve.detect import COMMON
from engine.entrypoints.serve.dialect_registry import BY_PATH, DIALECTS
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.dialects.queries import QueriesDialect
from engine.entrypoints.serve.docs_page import docs_page
from engine.entrypoints.serve.embeddings import EmbeddingAnswer, EmbeddingBody, EmbeddingRoutes
from engine.entrypoints.serve.error_shapes import DIALECT_HEADERS
from engine.entrypoints.serve.instances import InstanceRoutes, InstancesBody
from engine.entrypoints.serve.open_inference import InferAnswer, InferBody, OpenInferenceRoutes
from engine.entrypoints.serve.openapi import dialect_parameters, page, route_schema
from engine.entrypoints.serve.operation_routes import LoadBody, OperationRoutes, UnloadBody
from engine.entrypoints.serve.operations import OperationsControl
from engine.entrypoints.serve.page.files import add_page
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.status import StatusRoutes
from engine.entrypoints.serve.tokens import TokenRoutes

IN_PATH = re.compile(r"\{(\w+)")
"""Parameters of a path."""


class PlainRoute(APIRoute):
    """A route whose handler takes the request and gives the response: FastAPI has nothing to inject or convert, and
    does not look for it at each call."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.app = request_response(self.endpoint)


def add_routes(app: FastAPI, service: RerankService, status: StatusRoutes, operations: OperationsControl) -> None:
    """Adds every route of the server to the application."""
    app.router.route_class = PlainRoute
    calls = CallHandler(service)
    _add_calls(app, calls)
    each = route_schema([InstancesBody], [dict[str, Any]])
    _add(app, "/vertex", InstanceRoutes(service, calls).predict, "Several calls in one, for Vertex AI.", schema=each)
    _add_tokens(app, TokenRoutes(service))
    _add_status(app, status)
    _add_operations(app, OperationRoutes(service, operations))
    _add_open_inference(app, OpenInferenceRoutes(service))
    _add_embeddings(app, EmbeddingRoutes(service))
    if not service.config.disable_fastapi_docs:
        app.add_api_route("/docs", docs_page, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
    add_page(app)


def _add(app: FastAPI, path: str, handler: Any, summary: str, *, schema: dict[str, Any], method: str = "POST") -> None:
    name = path.strip("/").translate(str.maketrans("/.-{}:", "______")) or "root"
    if inside := IN_PATH.findall(path):
        schema = {**schema, "parameters": [*schema.get("parameters", ()), *map(_in_path, inside)]}
    app.add_api_route(
        path,
        handler,
        methods=[method],
        summary=summary,
        operation_id=f"{name}_{method.lower()}",
        openapi_extra=schema,
        response_model=None,
    )
    if method == "GET":  # what probes such as `wget --spider` ask with
        app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False, response_model=None)


def _in_path(name: str) -> dict[str, Any]:
    model = "A name of /v1/models; a name in the body wins."
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": model if name == "model" else "Anything: it changes nothing.",
    }


def _add_calls(app: FastAPI, calls: CallHandler) -> None:
    for path, owner in sorted(BY_PATH.items(), key=lambda item: item[1] is not COMMON):  # they are tried in this order
        _add(app, path, calls.on_path_of(owner), owner.paths[path], schema=_schema_of(owner))
    put = calls.on_path_of(COMMON)
    _add(app, "/v1/rerank", put, "SGLang takes PUT as well.", schema=_schema_of(COMMON), method="PUT")
    # Several queries with documents are pairs to score on this path.
    anything = _bodies_and_answers([d for d in DIALECTS.values() if d.name != QueriesDialect.name])
    _add(app, "/invocations", calls.anything(), "SageMaker's one path for all of these bodies.", schema=anything)


def _schema_of(owner: Dialect) -> dict[str, Any]:
    """Of a path that belongs to ``owner``: what it and whoever else is read there take and give."""
    if owner.task == "prompts":
        return _bodies_and_answers([owner])
    schema = _bodies_and_answers([dialect for dialect in DIALECTS.values() if dialect.task == owner.task])
    if owner.task == "rerank":
        choosable = [name for name, dialect in DIALECTS.items() if dialect.choosable]
        schema |= dialect_parameters(choosable, DIALECT_HEADERS[0])
    return schema


def _bodies_and_answers(dialects: list[Dialect]) -> dict[str, Any]:
    return route_schema([d.request_type for d in dialects], [d.answer_type for d in dialects], streams=True)


def _add_tokens(app: FastAPI, tokens: TokenRoutes) -> None:
    encode = route_schema(tokens.TOKENIZE, tokens.TOKENIZE_ANSWERS)
    decode = route_schema(tokens.DETOKENIZE, tokens.DETOKENIZE_ANSWERS)
    _add(app, "/tokenize", tokens.tokenize, "Token ids of a text.", schema=encode)
    _add(app, "/detokenize", tokens.detokenize, "Text of token ids.", schema=decode)
    _add(app, "/decode", tokens.detokenize, "The same, where TEI has it.", schema=decode)


def _add_embeddings(app: FastAPI, routes: EmbeddingRoutes) -> None:
    schema = route_schema([EmbeddingBody], [EmbeddingAnswer])
    _add(app, "/v1/embeddings", routes.embed, "Vectors of texts, by a bi-encoder, as OpenAI has it.", schema=schema)
    _add(app, "/embeddings", routes.embed, "The same, for clients whose base URL has no version.", schema=schema)


def _add_open_inference(app: FastAPI, routes: OpenInferenceRoutes) -> None:
    schema = page("application/json", {"type": "object"})
    for path, handler, summary in (
        ("/v2", routes.server, "Open Inference Protocol: what this server is."),
        ("/v2/health/live", routes.live, "The same as /live."),
        ("/v2/health/ready", routes.ready, "The same as /ready."),
        ("/v2/models/{model:path}/ready", routes.model_ready, "Whether the model is ready."),
        ("/v2/models/{model:path}", routes.model, "Inputs and outputs of the model."),
    ):
        _add(app, path, handler, summary, schema=schema, method="GET")
    infer = route_schema([InferBody], [InferAnswer])
    _add(app, "/v2/models/{model:path}/infer", routes.infer, "Scores of a query and its documents.", schema=infer)


def _add_operations(app: FastAPI, routes: OperationRoutes) -> None:
    line = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Done."}
    for path, handler, body, summary in (
        ("/v1/load_lora_adapter", routes.load, LoadBody, "Serve a LoRA adapter, as vLLM has it."),
        ("/v1/unload_lora_adapter", routes.unload, UnloadBody, "Serve it no more."),
    ):
        schema = route_schema([body], [str]) | {"responses": {"200": line}}
        _add(app, path, handler, summary, schema=schema)
    for path, handler, body, summary in (
        ("/load_lora_adapter", routes.load_sglang, LoadBody, "Serve a LoRA adapter, as SGLang has it."),
        ("/unload_lora_adapter", routes.unload_sglang, UnloadBody, "Serve it no more."),
    ):
        _add(app, path, handler, summary, schema=route_schema([body], [dict[str, Any]]))
    done = page("text/plain", {"type": "string", "maxLength": 0})
    for path, handler, summary in (
        ("/sleep", routes.sleep, "Give the memory of the weights back, as vLLM has it (--enable-sleep-mode)."),
        ("/wake_up", routes.wake_up, "Load the weights again."),
        ("/release_memory_occupation", routes.release_memory, "The same as /sleep, as SGLang has it."),
        ("/resume_memory_occupation", routes.resume_memory, "The same as /wake_up."),
    ):
        _add(app, path, handler, summary, schema=done)
    asleep = page("application/json", {"type": "object"})
    _add(app, "/is_sleeping", routes.is_sleeping, "Whether the server sleeps.", schema=asleep, method="GET")


def _add_status(app: FastAPI, status: StatusRoutes) -> None:
    for path, handler, summary in (
        ("/v1/models", status.models, "What is served here."),
        ("/models", status.models, "The same."),
        ("/v1/models/{model:path}", status.model, "One of them."),
        ("/v1/cluster/auth", status.cluster_auth, "Whether a key is needed, where Xinference's client asks."),
        ("/meta", status.meta, "What Weaviate asks at its start."),
        ("/.well-known/ready", status.ready, "200 while calls are answered, where Weaviate looks."),
        ("/.well-known/live", status.live, "200 while the process answers at all, the same."),
        ("/info", status.info, "TEI's description of the model."),
        ("/health", status.ready, "200 while calls are answered, else 503. The same as /ready."),
        ("/ready", status.ready, "200 while calls are answered, else 503."),
        ("/ping", status.ready, "The same, where SageMaker looks."),
        ("/live", status.live, "200 while the process answers at all."),
        ("/version", status.version, "The version of the engine."),
        ("/load", status.load, "The number of calls in flight."),
    ):
        _add(app, path, handler, summary, schema=page("application/json", {"type": "object"}), method="GET")
    done = page("application/json", {"type": "object"})
    _add(app, "/reset_prefix_cache", status.reset_prefix_cache, "Keep nothing of the calls so far.", schema=done)
    _add(app, "/ping", status.ready, "The same.", schema=page("application/json", {"type": "object"}))
    text = page("text/plain", {"type": "string"})
    _add(app, "/metrics", status.metrics, "Prometheus text.", schema=text, method="GET")
