"""Alibaba Cloud AI Search, told by ``docs``: LlamaIndex sends it batches of sixteen."""

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
from engine.entrypoints.serve.dialects.fields import Documents, Query, as_documents, as_query
from engine.entrypoints.serve.dialects.sagemaker import SageMakerScore
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class AiSearchBody(Extensions, kw_only=True):
    query: Query
    docs: Documents


class AiSearchResult(msgspec.Struct):
    scores: list[SageMakerScore]


class AiSearchAnswer(PartialAnswer, kw_only=True):
    request_id: str
    latency: float
    """Milliseconds."""
    usage: dict[str, int]
    result: AiSearchResult


class AiSearchDialect(Dialect):
    name = "ai-search"
    title = "Alibaba Cloud AI Search"
    paths: ClassVar[Mapping[str, str]] = {"/openapi/workspaces/{workspace}/ranker/{model}": "AI Search's path."}
    body_keys = ("query", "docs")
    precedence = 136
    probabilities = True
    text_paths = TextPaths(("query",), ("docs", ...))
    request_type: ClassVar[Any] = AiSearchBody
    answer_type: ClassVar[Any] = AiSearchAnswer

    def to_call(self, body: AiSearchBody, view: RequestView) -> RerankCall:
        documents = as_documents(body.docs, "docs")
        return call_of(body, view, queries=[as_query(body.query)], documents=documents)

    def render(self, result: CallResult) -> Any:
        return AiSearchAnswer(
            request_id=result.request_id,
            latency=round(1000 * result.total_s),
            usage={"doc_count": len(result.call.documents)},
            result=AiSearchResult([self.render_pair(pair, result.call) for pair in result.pairs]),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return SageMakerScore(pair.index, pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"code": error.code or error.type, "message": str(error), "request_id": request_id}
