"""Jina's rerank: documents come back unless they are not wanted; errors carry ``detail``."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    FullUsage,
    PartialAnswer,
    document_object,
    full_usage_of,
    partial_of,
)
from engine.entrypoints.serve.dialects.rerank import RerankDialect
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class JinaEntry(msgspec.Struct, kw_only=True):
    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


class JinaAnswer(PartialAnswer, kw_only=True):
    model: str
    object: str = "list"
    usage: FullUsage
    results: list[JinaEntry]


class JinaDialect(RerankDialect):
    name = "jina"
    title = "Jina"
    aliases = ("elasticsearch",)
    probabilities = True
    answer_type: ClassVar[Any] = JinaAnswer

    def render(self, result: CallResult) -> Any:
        return JinaAnswer(
            model=result.model,
            usage=full_usage_of(result),
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = document_object(pair.index, call) if call.return_documents else UNSET
        return JinaEntry(index=pair.index, relevance_score=pair.score, document=document)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"detail": str(error)}
