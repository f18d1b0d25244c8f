"""Google's ranking API (Vertex AI, Discovery Engine): records with an id go in, and come back by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import Bool, Count, DocumentList, Query, as_bool, as_count, as_query
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class VertexRecord(msgspec.Struct):
    """Title and content are one text, a line each."""

    content: str | None = None
    title: str | None = None
    id: str | None = None


class VertexBody(Extensions, kw_only=True):
    query: Query
    records: Annotated[list[VertexRecord], Meta(min_length=1)]
    top_n: Count = field(name="topN", default=None)
    only_ids: Bool = field(name="ignoreRecordDetailsInResponse", default=None)
    labels: dict[str, str] | None = field(name="userLabels", default=None)


class VertexEntry(msgspec.Struct, kw_only=True):
    id: str
    title: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    score: float


class VertexAnswer(PartialAnswer, kw_only=True):
    records: list[VertexEntry]


class VertexDialect(Dialect):
    name = "vertex"
    title = "Google's ranking API"
    paths: ClassVar[Mapping[str, str]] = {
        "/v1/projects/{project}/locations/{location}/rankingConfigs/{config}:rank": "Google's path.",
    }
    body_keys = ("query", "records")
    precedence = 135
    probabilities = True
    text_paths = TextPaths(("query",), ("records", ..., "content"))
    request_type: ClassVar[Any] = VertexBody
    answer_type: ClassVar[Any] = VertexAnswer

    def to_call(self, body: VertexBody, view: RequestView) -> RerankCall:
        texts = ["\n".join(filter(None, (record.title, record.content))) for record in body.records]
        call = call_of(
            body,
            view,
            queries=[as_query(body.query)],
            documents=DocumentList(texts, None, [msgspec.to_builtins(record) for record in body.records]),
            top_n=as_count(body.top_n, "topN"),
        )
        return replace(
            call, return_documents=not as_bool(body.only_ids, "ignoreRecordDetailsInResponse", default=False)
        )

    def render(self, result: CallResult) -> Any:
        records = [self.render_pair(pair, result.call) for pair in result.pairs]
        return VertexAnswer(records=records, **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        source = (call.sources[pair.index] if call.sources else None) or {}
        name = source.get("id")
        entry = VertexEntry(id=name if isinstance(name, str) else str(pair.index), score=pair.score)
        if call.return_documents:
            title, content = source.get("title"), source.get("content")
            entry.title = title if isinstance(title, str) else UNSET
            entry.content = content if isinstance(content, str) else call.documents[pair.index]
        return entry

    def render_error(self, error: EngineError, request_id: str) -> Any:
        status = STATUSES.get(error.status, "INTERNAL")
        return {"error": {"code": error.status, "message": str(error), "status": status}}
