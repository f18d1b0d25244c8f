"""Weaviate's reranker container, told by ``property``: one score for each document, in the order of the documents."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from engine.entrypoints.serve.dialects.base import CallResult, PartialAnswer, partial_of
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class WeaviateBody(RerankBody, kw_only=True):
    property: str | None = None
    """The property of Weaviate's objects that the documents are; it changes nothing."""


class WeaviateScore(msgspec.Struct):
    document: str
    score: float


class WeaviateAnswer(PartialAnswer, kw_only=True):
    scores: list[WeaviateScore]


class WeaviateDialect(RerankDialect):
    name = "weaviate"
    title = "Weaviate's reranker-transformers"
    recognised_by = ("query", "documents", "property")
    precedence = 65
    request_type: ClassVar[Any] = WeaviateBody
    answer_type: ClassVar[Any] = WeaviateAnswer

    def render(self, result: CallResult) -> Any:
        scores = [self.render_pair(pair, result.call) for pair in result.in_order]
        return WeaviateAnswer(scores=scores, **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = call.documents[pair.index] if call.documents else ""
        return WeaviateScore(document, pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"error": str(error)}
