"""The routes. Handlers read bytes, let a codec make sense of them, and hand a ``RerankCall`` to the service.

FastAPI is used for routing and for /openapi.json; bodies are decoded by msgspec, whose structs also describe the
routes there. Everything around a handler (request ids, keys, limits) is plain ASGI middleware: it holds for every path.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from engine.entrypoints.serve.auth import Authentication
from engine.entrypoints.serve.browsers import BrowserGuard
from engine.entrypoints.serve.cors import add_cors
from engine.entrypoints.serve.dialects.rerank import RerankDialect
from engine.entrypoints.serve.dialects.score import ScoreDialect
from engine.entrypoints.serve.errors import error_response
from engine.entrypoints.serve.limits import Limits, RequestIds
from engine.entrypoints.serve.openapi import describe
from engine.entrypoints.serve.operations import OperationsControl, ServerOperations
from engine.entrypoints.serve.paths import OnePath
from engine.entrypoints.serve.routes import add_routes
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.status import StatusRoutes
from engine.entrypoints.serve.tracing import Tracing, tracer_for
from engine.errors import EngineError, MethodNotAllowedError, NotFoundError
from engine.version import __version__


def create_app(
    service: RerankService, status: StatusRoutes | None = None, operations: OperationsControl | None = None
) -> FastAPI:
    """The ASGI application: routes and middleware around ``service``.

    ``status`` answers for the server as a whole, and ``operations`` change it, where this process cannot do that alone.
    """
    config = service.config
    app = FastAPI(
        title="engine",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None if config.disable_fastapi_docs else "/openapi.json",
        redirect_slashes=False,
    )
    add_routes(app, service, status or StatusRoutes(service), operations or ServerOperations(service))
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(EngineError, _engine_error)
    if config.otlp_traces_endpoint:
        app.add_middleware(Tracing, tracer=tracer_for(config.otlp_traces_endpoint))
    # Outermost last: an id for everything, one spelling of its path, browsers' preflights, the key, the limits.
    app.add_middleware(Limits, max_body_bytes=config.max_body_bytes)
    app.add_middleware(BrowserGuard, config=config)
    app.add_middleware(Authentication, keys=config.api_key)
    add_cors(app, config)
    app.add_middleware(OnePath, routes=app.routes, default_dialect=config.dialect)
    app.add_middleware(RequestIds, stopping=lambda: service.stopping)
    describe(app, service)
    return app


async def _routing_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our shape."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allow = ", ".join(sorted(_methods_of(request)))
        ours: EngineError = MethodNotAllowedError(f"{request.method} is not possible on {path}; allowed: {allow}.")
        response = error_response(ours, request.scope)
        response.headers["Allow"] = allow
        return response
    return error_response(NotFoundError(_no_such_route(path)), request.scope)


def _no_such_route(path: str) -> str:
    shown = [*RerankDialect.paths, *ScoreDialect.paths]
    return f"There is no route {path}. Rerank and score here: POST {', '.join(shown)}; all routes: GET /docs."


def _methods_of(request: Request) -> set[str]:
    """Of every route on this path; Starlette's own error knows the first one only."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
    return {method for route in routes if isinstance(route, Route) for method in route.methods or ()}


async def _engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return error_response(error, request.scope)
