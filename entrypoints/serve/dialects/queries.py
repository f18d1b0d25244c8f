"""This engine's own: several queries and one list of documents, every query ranked over all of them in one call."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.base import CallResult, PartialAnswer, RequestView, TextPaths
from engine.entrypoints.serve.dialects.fields import Queries, as_query, fail
from engine.entrypoints.serve.dialects.rerank import (
    DetailedEntry,
    RerankDialect,
    RerankFields,
    RerankUsage,
    rerank_call,
)
from engine.request import RerankCall


class QueriesBody(RerankFields, kw_only=True):
    """Many queries, many documents."""

    queries: Queries


class QueryRanking(PartialAnswer, kw_only=True):
    """The documents of one query, best first."""

    index: int
    results: list[DetailedEntry]


class QueriesAnswer(msgspec.Struct, kw_only=True):
    id: str
    object: str = "list"
    created: int
    model: str
    queries: list[QueryRanking]
    usage: RerankUsage
    partial: bool | UnsetType = UNSET


class QueriesDialect(RerankDialect):
    name = "queries"
    title = "several queries"
    choosable = False  # no other answer has room for several rankings
    body_keys = ("queries", "documents", "!query")
    precedence = 60
    text_paths = TextPaths(query=("queries", ...))
    request_type: ClassVar[Any] = QueriesBody
    answer_type: ClassVar[Any] = QueriesAnswer

    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        if not body.queries:
            fail("At least one query is needed", "queries")
        queries = [as_query(query, ("queries", i)) for i, query in enumerate(body.queries)]
        return rerank_call(body, view, queries, every_query=True)

    def render(self, result: CallResult) -> Any:
        return QueriesAnswer(
            id=f"rerank-{result.request_id}",
            created=result.created,
            model=result.model,
            queries=[self._ranking(index, result) for index in range(len(result.rankings))],
            usage=RerankUsage(result.prompt_tokens, result.prompt_tokens, result.truncated_documents),
            partial=True if result.unscored else UNSET,
        )

    def _ranking(self, index: int, result: CallResult) -> QueryRanking:
        positions = map(result.call.position, result.unscored)
        unscored = [document for query, document in positions if query == index]
        return QueryRanking(
            index=index,
            results=[self.render_pair(pair, result.call) for pair in result.rankings[index]],
            partial=True if unscored else UNSET,
            unscored=unscored or UNSET,
        )
