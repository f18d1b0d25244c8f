"""Schemathesis against the real application and tokenizer: what /openapi.json says is what happens.

Every check is on: no server error, statuses, media types, headers and bodies as documented, valid calls accepted,
invalid ones refused, unknown methods refused with all known ones named.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis import Case

from engine.config import ModelConfig, ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import LoadedEngine, RerankService
from engine.inputs import InputProcessor
from engine.model_resolver import resolve_model
from tests.serve.fakes import FakeCore

SIDES = (("data_1", "data_2"), ("queries", "documents"), ("queries", "items"), ("text_1", "text_2"))


@cache
def application() -> FastAPI:
    """The packaged model's tokenizer and prompts, with a core that scores by hash."""

    async def build() -> FastAPI:
        service = RerankService(ServerConfig(), ServerMetrics())
        config = ModelConfig()
        spec = resolve_model(config)
        service.attach(LoadedEngine(spec, InputProcessor(spec, config), FakeCore(), ("reranker",)))
        return create_app(service)

    return asyncio.run(build())


def loaded(*paths: str, coverage: bool) -> Any:
    schema = schemathesis.openapi.from_asgi("/openapi.json", application()).include(path=list(paths))
    schema.config.phases.coverage.enabled = coverage
    return schema


SMALL = loaded(
    *("/predict", "/classify", "/pooling", "/tokenize", "/detokenize", "/decode", "/v1/models", "/info", "/version"),
    *("/load", "/health", "/ping", "/metrics"),
    coverage=True,
)
SCORE = loaded("/v1/score", coverage=False)
# Two dozen kinds of bodies: trying every border of every field takes minutes, random ones show the same.
RERANK = loaded("/v1/rerank", "/v1/ranking", "/invocations", coverage=False)
SHORT = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@SMALL.parametrize()
@SHORT
def test_small_routes(case: Case) -> None:
    case.call_and_validate()


@RERANK.parametrize()
@SHORT
def test_rerank(case: Case) -> None:
    case.call_and_validate()


@SCORE.parametrize()
@SHORT
def test_score(case: Case) -> None:
    if lengths_differ(case.body):  # JSON Schema cannot say that two lists have the same length
        assert case.call().status_code == 400
    else:
        case.call_and_validate()


def lengths_differ(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    given = {name for sides in SIDES for name in sides if body.get(name) is not None}
    sides = next((sides for sides in SIDES if given == set(sides)), None)
    if sides is None or not isinstance(body[sides[0]], list):
        return False
    second = body[sides[1]]
    return len(body[sides[0]]) not in (1, len(second) if isinstance(second, list) else 1)


def test_every_route_is_described() -> None:
    document = application().openapi()
    described = set(document["paths"])
    routes = {route.path for route in application().routes if getattr(route, "include_in_schema", False)}
    assert described == routes
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["responses"]["200"]["content"], (method, path)
            assert ("requestBody" in operation) == (method != "get" and path != "/ping"), (method, path)


def test_limits_of_the_model_are_in_the_document() -> None:
    schemas = application().openapi()["components"]["schemas"]
    cut = schemas["RerankBody"]["properties"]["truncate_prompt_tokens"]["anyOf"][1]
    assert cut["maximum"] == 8192
    assert cut["minimum"] > 20
    assert schemas["DetokenizeBody"]["properties"]["tokens"]["items"]["maximum"] == 15999
    assert "x-bound" not in str(schemas)
    assert "x-exact" not in str(schemas)


@pytest.mark.parametrize("name", ["RerankBody", "TeiBody", "NvidiaBody", "CohereV2Body", "SglangScoreBody"])
def test_fields_are_explained(name: str) -> None:
    properties = application().openapi()["components"]["schemas"][name]["properties"]
    for field in ("instruction", "timeout_ms", "long_document", "truncate", "model"):
        assert properties[field]["description"], field
