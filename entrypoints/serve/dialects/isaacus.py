"""isaacus: ``texts`` like TEI, on a route of its own, answered with an object."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from engine.entrypoints.collect import PairScore
from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    FieldNames,
    PartialAnswer,
    RequestView,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import Count, Documents, Query, as_count, as_documents, as_query
from engine.request import RerankCall


class IsaacusBody(Extensions, kw_only=True):
    query: Query
    texts: Documents
    top_n: Count = None


class IsaacusEntry(msgspec.Struct):
    index: int
    score: float


class IsaacusAnswer(PartialAnswer, kw_only=True):
    results: list[IsaacusEntry]
    usage: dict[str, int]


class IsaacusDialect(Dialect):
    name = "isaacus"
    title = "isaacus"
    reads = ("texts", "")
    names = FieldNames("query", "texts[{}]")
    request_type: ClassVar[Any] = IsaacusBody
    answer_type: ClassVar[Any] = IsaacusAnswer

    def call(self, body: IsaacusBody, view: RequestView) -> RerankCall:
        return call_of(
            body,
            view,
            queries=[as_query(body.query)],
            documents=as_documents(body.texts, "texts"),
            top_n=as_count(body.top_n, "top_n"),
        )

    def render(self, result: CallResult) -> Any:
        results = [self.render_pair(pair, result.call) for pair in result.pairs]
        return IsaacusAnswer(results=results, usage={"input_tokens": result.prompt_tokens}, **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return IsaacusEntry(pair.index, pair.score)
