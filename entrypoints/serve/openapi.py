"""/openapi.json: FastAPI lists the routes, msgspec describes the bodies, and both meet here."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

REF_TEMPLATE = "#/components/schemas/{name}"
_DESCRIBED: dict[str, type[Any]] = {}


def body_schema(*types: type[Any]) -> dict[str, Any]:
    """The request body of a route: one of these structs."""
    references = []
    for type_ in types:
        _DESCRIBED[type_.__name__] = type_
        references.append({"$ref": REF_TEMPLATE.format(name=type_.__name__)})
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Adds the structs to the document, and the errors that every route may give."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            _, components = msgspec.json.schema_components(_DESCRIBED.values(), ref_template=REF_TEMPLATE)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(components)
            schemas["Error"] = _ERROR
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].update(_responses(operation))
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


_ERROR = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "request_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["integer", "string"]},
                "request_id": {"type": "string"},
            },
        },
        "message": {"type": "string"},
        "detail": {"type": "string"},
    },
}

_REASONS = {
    400: "The body or one of its values is wrong.",
    401: "No key, or a wrong one.",
    404: "The model is not served here.",
    413: "Too many bytes, documents or tokens.",
    415: "The body is not JSON.",
    431: "Too many headers.",
    500: "A pair has no finite score, or our own fault.",
    503: "Loading, overloaded, shutting down or dead; Retry-After says when to come back.",
    504: "The call's own deadline passed.",
}


def _responses(operation: dict[str, Any]) -> dict[str, Any]:
    """The answers beside 200, all with the same body."""
    statuses = _REASONS if "requestBody" in operation else {code: _REASONS[code] for code in (401, 431, 503)}
    content = {
        "application/json": {"schema": {"anyOf": [{"$ref": REF_TEMPLATE.format(name="Error")}, {"type": "object"}]}}
    }
    return {str(code): {"description": reason, "content": content} for code, reason in statuses.items()}
