"""DeepInfra: queries and documents in pairs, the model in the path, scores in the order of the documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import Documents, Queries, as_documents, as_queries, fail
from engine.entrypoints.serve.dialects.sagemaker import SageMakerScore, scores_in_order
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class DeepInfraBody(Extensions, kw_only=True):
    """One query for all documents, or one for each."""

    queries: Queries
    documents: Documents
    service_tier: str | None = None


class DeepInfraStatus(msgspec.Struct):
    status: str
    runtime_ms: int
    cost: float
    tokens_generated: int
    tokens_input: int


class DeepInfraAnswer(PartialAnswer, kw_only=True):
    scores: list[float | None]
    """null: no score within ``timeout_ms``."""
    input_tokens: int
    request_id: str
    inference_status: DeepInfraStatus


class DeepInfraDialect(Dialect):
    name = "deepinfra"
    title = "DeepInfra"
    probabilities = True
    paths: ClassVar[Mapping[str, str]] = {"/inference/{model:path}": "DeepInfra's path."}
    body_keys = ("queries", "documents", "!query")
    text_paths = TextPaths(("queries", ...), ("documents", ...))
    request_type: ClassVar[Any] = DeepInfraBody
    answer_type: ClassVar[Any] = DeepInfraAnswer

    def to_call(self, body: DeepInfraBody, view: RequestView) -> RerankCall:
        queries, documents = as_queries(body.queries, "queries"), as_documents(body.documents)
        if len(queries) not in (1, len(documents.texts)):
            fail(f"One query, or one for each of the {len(documents.texts)} documents; got {len(queries)}", "queries")
        return call_of(body, view, queries=queries, documents=documents)

    def render(self, result: CallResult) -> Any:
        tokens = result.prompt_tokens
        return DeepInfraAnswer(
            scores=scores_in_order(result),
            input_tokens=tokens,
            request_id=result.request_id,
            inference_status=DeepInfraStatus("succeeded", 0, 0.0, 0, tokens),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return SageMakerScore(pair.index, pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"detail": {"error": str(error)}, "request_id": request_id}
