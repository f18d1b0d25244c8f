"""Pinecone's rerank, told by the header in which its SDKs name a version: objects in, the same objects out."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    PartialAnswer,
    RequestView,
    document_object,
    partial_of,
    search_units,
)
from engine.entrypoints.serve.dialects.fields import as_query
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect, rerank_call
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

ERROR_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class PineconeEntry(msgspec.Struct, kw_only=True):
    index: int
    score: float
    document: dict[str, Any] | UnsetType = UNSET


class PineconeAnswer(PartialAnswer, kw_only=True):
    model: str
    data: list[PineconeEntry]
    usage: dict[str, int]


class PineconeDialect(RerankDialect):
    name = "pinecone"
    title = "Pinecone"
    probabilities = True
    recognised_by_header = "x-pinecone-api-version"  # Api-Key alone is also how Azure's clients come
    precedence = 70
    answer_type: ClassVar[Any] = PineconeAnswer

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        return rerank_call(body, view, [as_query(body.query)])

    def render(self, result: CallResult) -> Any:
        return PineconeAnswer(
            model=result.model,
            data=[self.render_pair(pair, result.call) for pair in result.pairs],
            usage={"rerank_units": search_units(result)},
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = document_object(pair.index, call) if call.return_documents else UNSET
        return PineconeEntry(index=pair.index, score=pair.score, document=document)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        code = ERROR_CODES.get(error.status, "INTERNAL")
        return {"error": {"code": code, "message": str(error)}, "status": error.status}
