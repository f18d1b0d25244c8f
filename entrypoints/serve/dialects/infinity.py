"""Infinity's rerank: a returned document is a plain string."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    PartialAnswer,
    RequestView,
    Usage,
    partial_of,
    usage_of,
)
from engine.entrypoints.serve.dialects.fields import as_query
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect, rerank_call
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class InfinityEntry(msgspec.Struct, kw_only=True):
    relevance_score: float
    index: int
    document: str | UnsetType = UNSET


class InfinityAnswer(PartialAnswer, kw_only=True):
    object: str = "rerank"
    results: list[InfinityEntry]
    model: str
    usage: Usage
    id: str
    created: int


class InfinityDialect(RerankDialect):
    name = "infinity"
    title = "Infinity"
    recognised_by = ("query", "documents", "raw_scores", "return_documents")  # its client sends all four, always
    precedence = 85
    probabilities = True
    answer_type: ClassVar[Any] = InfinityAnswer

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        return rerank_call(body, view, [as_query(body.query)], return_documents=False)

    def render(self, result: CallResult) -> Any:
        return InfinityAnswer(
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            model=result.model,
            usage=usage_of(result),
            id=f"infinity-{result.request_id}",
            created=result.created,
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = call.documents[pair.index] if call.return_documents else UNSET
        return InfinityEntry(relevance_score=pair.score, index=pair.index, document=document)
