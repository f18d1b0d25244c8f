"""Schemathesis against the real application and tokenizer: what /openapi.json says is what happens.

Every check is on: no server error, statuses, media types, headers and bodies as documented, valid calls accepted,
invalid ones refused, unknown methods refused with all known ones named. The same with tens of thousands of cases:
``python -m benchmarks.reliability --only schema``.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from jsonschema import Draft202012Validator
from schemathesis import Case

from engine.entrypoints.serve.dialect_registry import DIALECTS
from engine.entrypoints.serve.dialects.base import Dialect, RequestView
from engine.entrypoints.serve.dialects.body import read_keys
from engine.errors import RequestError
from tests.serve.described import PICTURES, application, check, checkpoint, described
from tests.serve.example_bodies import QUERY, example_body

SMALL = described(
    *(
        "/predict",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
        "/decode",
        "/v1/models",
        "/v1/models/{model}",
        "/info",
        "/version",
    ),
    *("/load", "/health", "/ping", "/metrics"),
    coverage=True,
)
# Two dozen kinds of bodies: trying every border of every field takes minutes, random ones show the same.
RERANK = described("/v1/rerank", "/v1/ranking", "/v1/score", "/invocations", "/inference/{model}")
WITH_PICTURES = described("/v1/rerank", "/v1/score", pictures=True)
SHORT = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def examples_of_this_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis also draws strings out of the sources that happen to be imported: other tests would change ours."""
    nothing = providers.Constants()
    monkeypatch.setattr(providers, "_get_local_constants", lambda: nothing)
    providers.CONSTANTS_CACHE.cache.clear()


@SMALL.parametrize()
@SHORT
def test_small_routes(case: Case) -> None:
    check(case)


@RERANK.parametrize()
@SHORT
def test_rerank_and_score(case: Case) -> None:
    check(case)


@WITH_PICTURES.parametrize()
@SHORT
def test_rerank_and_score_with_pictures(case: Case) -> None:
    check(case)


DATA = PICTURES[0]
SIDES = (
    {"image": DATA},
    {"text": "a cat", "image": {"url": DATA}},
    {"text": None, "image_url": [DATA, {"url": DATA}]},
    {"content": [{"type": "image_url", "image_url": {"url": DATA}}, {"type": "text", "text": "a cat"}]},
    {"content": [{"image": DATA}]},
)
NO_SIDES = (
    {"image": None},
    {"image": []},
    {"image": 3},
    {"image": ""},
    {"image": {"uri": DATA}},
    {"image": DATA, "text": 3},
    {"image": DATA, "video": DATA},
    {"text": "a cat", "video_url": DATA},
    {"image": DATA, "content": [{"type": "text", "text": "a cat"}]},
    {"content": [{"type": "text", "text": "a cat", "image": DATA}]},
    {"content": [{"type": "image_url", "image_url": DATA, "image": DATA}]},
    {"content": [{"type": "image_url", "image_url": [DATA]}]},
    {"content": [{"type": "video_url", "video_url": DATA}]},
)


def takes(dialect: Dialect, body: dict[str, Any], *, pictures: bool) -> bool:
    """Whether the dialect reads the body, for a model that reads pictures or one that does not."""
    data = json.dumps(body).encode()
    try:
        call = dialect.parse(data, read_keys(data), RequestView("/v1/rerank", {})).call
    except RequestError:
        return False
    return pictures or not call.image_data


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
def test_pictures_are_described_where_they_are_read(dialect: Dialect) -> None:
    """Of every dialect's body: as a document, and as the query, where those may be objects."""
    for pictures in (True, False):
        document = application(pictures=pictures).openapi()
        types = dialect.request_type if isinstance(dialect.request_type, tuple) else (dialect.request_type,)
        references = [{"$ref": f"#/components/schemas/{type_.__name__}"} for type_ in types]
        described = Draft202012Validator({"anyOf": references, "components": document["components"]})
        for side in (*SIDES, *NO_SIDES):
            for query, text in ((QUERY, side), (side, "a text")):
                body = example_body(dialect, query, [text])
                assert described.is_valid(body) == takes(dialect, body, pictures=pictures), (pictures, body)


WITHOUT_BODY = (
    *("/ping", "/reset_prefix_cache", "/sleep", "/wake_up"),
    *("/release_memory_occupation", "/resume_memory_occupation"),
)


def test_every_route_is_described() -> None:
    document = application().openapi()
    described = set(document["paths"])
    routes = {route.path_format for route in application().routes if getattr(route, "include_in_schema", False)}
    assert described == routes
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert {"403", "421", "431", "503"} <= set(operation["responses"]), (method, path)
            assert operation["summary"], (method, path)
            assert operation["responses"]["200"]["content"], (method, path)
            has_body = method != "get" and path not in WITHOUT_BODY
            assert ("requestBody" in operation) == has_body, (method, path)


def test_limits_of_the_model_are_in_the_document() -> None:
    schemas = application().openapi()["components"]["schemas"]
    cut = schemas["RerankBody"]["properties"]["truncate_prompt_tokens"]["anyOf"][1]
    config = json.loads((checkpoint() / "config.json").read_text())
    vocab_size = config["vocab_size"]
    assert cut["maximum"] == config["max_position_embeddings"]
    assert cut["minimum"] > 20
    assert schemas["DetokenizeBody"]["properties"]["tokens"]["items"]["maximum"] == vocab_size - 1
    assert "x-bound" not in str(schemas)
    assert "x-exact" not in str(schemas)


@pytest.mark.parametrize("name", ["RerankBody", "TeiBody", "NvidiaBody", "CohereV2Body", "SglangScoreBody"])
def test_fields_are_explained(name: str) -> None:
    properties = application().openapi()["components"]["schemas"][name]["properties"]
    for field in ("instruction", "timeout_ms", "long_document", "truncate", "model"):
        assert properties[field]["description"], field
