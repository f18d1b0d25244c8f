"""/openapi.json: FastAPI lists the routes, msgspec describes bodies and answers, and both meet here.

Field types say exactly what they take (``x-exact``, ``dialects/fields.py``), and limits that depend on the model
(``x-bound``) are filled in once it is loaded; options that it has not (``x-needs``) are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from fastapi import FastAPI

from engine.entrypoints.serve.dialects.field_schemas import EXACT, NEEDS, PICTURES
from engine.entrypoints.serve.service import RerankService

LEFT_OUT: dict[str, Any] = {}
"""What the model cannot do."""
REF_TEMPLATE = "#/components/schemas/{name}"
_COMPONENTS: dict[str, Any] = {}
STREAMS: dict[str, dict[str, Any]] = {
    "text/event-stream": {
        "type": "object",
        "description": "score for each entry as it is there, error for one that failed, result for the whole answer.",
        "required": ["event", "data"],
        "properties": {"event": {"enum": ["score", "error", "result"]}, "data": {"type": "string"}},
    },
    "application/x-ndjson": {"description": "The same objects, one a line: entries, then the whole answer."},
}
"""What one message of a stream looks like."""


def route_schema(bodies: Iterable[Any], answers: Iterable[Any], *, streams: bool = False) -> dict[str, Any]:
    """The /openapi.json entry of a route that takes one of these bodies and gives one of these answers."""
    content: dict[str, Any] = {"application/json": {"schema": _any_of(answers)}}
    if streams:
        content |= {media_type: {"schema": schema} for media_type, schema in STREAMS.items()}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _any_of(bodies)}}},
        "responses": {"200": {"description": "The answer.", "content": content}},
    }


def page(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The /openapi.json entry of a route without a body."""
    return {"responses": {"200": {"description": "The page.", "content": {media_type: {"schema": schema}}}}}


def dialect_parameters(names: list[str], header: str) -> dict[str, Any]:
    """The /openapi.json entry of ``?dialect=`` and its header."""
    description = "Whose answer is wanted, where body and path leave it open."
    schema = {"type": "string", "enum": names}
    return {
        "parameters": [
            {"name": name, "in": where, "required": False, "description": description, "schema": schema}
            for name, where in (("dialect", "query"), (header, "header"))
        ]
    }


def _any_of(types: Iterable[Any]) -> dict[str, Any]:
    each = [one for type_ in types for one in (type_ if isinstance(type_, tuple) else (type_,))]
    options = list({repr(type_): _schema(type_) for type_ in each}.values())
    return dict(options[0]) if len(options) == 1 else {"anyOf": options}


@cache
def _schema(type_: Any) -> dict[str, Any]:
    """A reference to the struct, or a list of such; the struct itself goes into the components."""
    (schema,), components = msgspec.json.schema_components((type_,), ref_template=REF_TEMPLATE)
    _COMPONENTS.update({name: _exact(component) for name, component in components.items()})
    exact: dict[str, Any] = _exact(schema)
    return exact


def _exact(node: Any) -> Any:
    """``node`` with what the field types say about themselves in place of what msgspec derives."""
    if isinstance(node, list):
        return [_exact(item) for item in node]
    if not isinstance(node, dict):
        return node
    if EXACT in node:
        return {**{key: node[key] for key in ("title", "description") if key in node}, **node[EXACT]}
    return {key: _exact(value) for key, value in node.items()}


def describe(app: FastAPI, service: RerankService) -> None:
    """Adds the structs and the errors that every route may give to the application's /openapi.json."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        app.openapi_schema = None  # built anew once the model is known
        document = original()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(_COMPONENTS)
        schemas["Error"] = _ERROR
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].update(_responses(operation))
        app.openapi_schema = _bounded(document, _bounds(service))
        return app.openapi_schema

    def cached() -> dict[str, Any]:
        loaded = service.default_model != ""
        if app.openapi_schema is None or app.openapi_schema.get("x-model-loaded") != loaded:
            openapi()["x-model-loaded"] = loaded
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = cached  # type: ignore[method-assign]


def _bounds(service: RerankService) -> dict[str, dict[str, Any]]:
    """What ``x-bound`` stands for; before the model is loaded, nothing."""
    if not service.default_model:
        return {}
    engine = service.engine
    least, most = engine.pair_limits
    return {
        "vocab_size": {"maximum": engine.spec.vocab_size - 1},
        "pair_tokens": {"minimum": least, "maximum": most},
        "label_tokens": {"enum": list(engine.label_tokens)} if engine.label_tokens else {},
        **({} if engine.spec.vision else {PICTURES: LEFT_OUT}),
    }


def _bounded(node: Any, bounds: dict[str, dict[str, Any]]) -> Any:
    if isinstance(node, list):
        return [_bounded(item, bounds) for item in node if not _is_left_out(item, bounds)]
    if not isinstance(node, dict):
        return node
    bound = bounds.get(node["x-bound"], {}) if "x-bound" in node else {}
    kept = {key: _bounded(value, bounds) for key, value in node.items() if key not in ("x-bound", NEEDS)}
    return {**kept, **bound}


def _is_left_out(option: Any, bounds: dict[str, dict[str, Any]]) -> bool:
    return isinstance(option, dict) and bounds.get(option.get(NEEDS, "")) is LEFT_OUT


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "request_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "request_id": {"type": "string"},
            },
        },
        "message": {"type": "string", "description": "The same, on paths whose clients read it here."},
        "detail": {"type": "string", "description": "The same, on paths whose clients read it here."},
    },
}

_REASONS = {
    400: "The body or one of its values is wrong.",
    401: "No key, or a wrong one.",
    403: "Sent by a web page of another site, which this server does not allow.",
    404: "The model is not served here.",
    408: "The body came too slowly.",
    413: "Too many bytes, documents or tokens.",
    415: "The body is not JSON.",
    421: "For a host name that this server does not have (--allowed-hosts).",
    422: "What TEI answers for a wrong value.",
    429: "Overloaded; Retry-After says when to come back.",
    431: "Too many headers.",
    500: "A pair has no finite score, or our own fault.",
    503: "Loading, overloaded, shutting down or dead; Retry-After says when to come back.",
    504: "The call's own deadline passed before anything was scored.",
}


def _responses(operation: dict[str, Any]) -> dict[str, Any]:
    """The answers beside 200: the common error, or another dialect's object."""
    codes = (401, 403, 421, 431, 503, *([404] if "parameters" in operation else []))
    statuses = _REASONS if "requestBody" in operation else {code: _REASONS[code] for code in codes}
    content = {
        "application/json": {"schema": {"anyOf": [{"$ref": REF_TEMPLATE.format(name="Error")}, {"type": "object"}]}}
    }
    return {str(code): {"description": reason, "content": content} for code, reason in statuses.items()}
