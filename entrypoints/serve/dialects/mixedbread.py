"""mixedbread's reranking: documents are called ``input`` and come back under that name."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    FullUsage,
    PartialAnswer,
    RequestView,
    TextPaths,
    full_usage_of,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import (
    Bool,
    Count,
    Query,
    TextOrDocuments,
    as_bool,
    as_count,
    as_documents,
    as_query,
)
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class MixedbreadBody(Extensions, kw_only=True):
    query: Query
    input: TextOrDocuments
    top_k: Count = None
    return_input: Bool = None
    rank_fields: list[str] | None = None


class MixedbreadEntry(msgspec.Struct, kw_only=True):
    index: int
    score: float
    input: str | dict[str, Any] | UnsetType = UNSET
    object: str = "rank_result"


class MixedbreadAnswer(PartialAnswer, kw_only=True):
    model: str
    object: str = "list"
    data: list[MixedbreadEntry]
    usage: FullUsage
    top_k: int
    return_input: bool


class MixedbreadDialect(Dialect):
    name = "mixedbread"
    title = "mixedbread"
    probabilities = True
    body_keys = ("input", "!input:object")  # an object is DashScope's
    precedence = 140
    text_paths = TextPaths(("query",), ("input", ...))
    request_type: ClassVar[Any] = MixedbreadBody
    answer_type: ClassVar[Any] = MixedbreadAnswer

    def to_call(self, body: MixedbreadBody, view: RequestView) -> RerankCall:
        return call_of(
            body,
            view,
            queries=[as_query(body.query)],
            documents=as_documents(body.input, "input", body.rank_fields),
            top_n=as_count(body.top_k, "top_k"),
            return_documents=as_bool(body.return_input, "return_input", default=False),
        )

    def render(self, result: CallResult) -> Any:
        return MixedbreadAnswer(
            model=result.model,
            data=[self.render_pair(pair, result.call) for pair in result.pairs],
            usage=full_usage_of(result),
            top_k=result.call.top_n or len(result.call.documents),
            return_input=result.call.return_documents,
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        sent = (call.sources[pair.index] if call.sources else None) or call.documents[pair.index]
        return MixedbreadEntry(index=pair.index, score=pair.score, input=sent if call.return_documents else UNSET)
