"""The common rerank answer: one object that the clients of vLLM, Cohere, Jina, SiliconFlow and Infinity all can read.

Their requests differ in optional fields only, and their clients ignore what they do not know in an answer, so one
superset serves them all: ids, usage in both spellings, ``meta`` for Cohere. A document that is not wanted is absent,
never null; what happened to long ones stands beside ``results``, since strict clients refuse what they do not know in
an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    cohere_meta,
    document_object,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import (
    Bool,
    Count,
    Documents,
    Query,
    as_bool,
    as_count,
    as_documents,
    as_int,
    as_query,
)
from engine.request import Content, RerankCall
from engine.scoring.result_assembler import PairScore


class RerankFields(Extensions, kw_only=True):
    """The fields that rerank bodies with ``documents`` have in common."""

    documents: Documents
    top_n: Annotated[Count, Meta(description="Best results to return; 0, null and absent: all.")] = None
    return_documents: Annotated[Bool, Meta(description="Send each result's document back.")] = None
    rank_fields: Annotated[
        list[str] | None, Meta(description="Keys of object documents that count, in this order.")
    ] = None
    raw_scores: Annotated[Bool, Meta(description="true: logits instead of scores.")] = None
    truncation: Annotated[Bool, Meta(description="Jina's name of truncate.")] = None
    max_doc_length: Annotated[Count, Meta(description="Jina's name of max_tokens_per_doc.")] = None
    max_query_length: Annotated[Count, Meta(description="Jina's name of max_tokens_per_query.")] = None
    overlap_tokens: Annotated[Count, Meta(description="SiliconFlow's name of chunk_overlap.")] = None


class RerankBody(RerankFields, kw_only=True):
    """One query, many documents."""

    query: Query


class Span(msgspec.Struct):
    """Characters of the document: where its best chunk is."""

    start: int
    end: int


class RerankEntry(msgspec.Struct, kw_only=True):
    """One result, with no other key: some clients refuse an entry with a key that they do not know."""

    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


class DetailedEntry(RerankEntry, kw_only=True):
    """An entry that says itself what was done with its document: of a stream, and of a call with several queries."""

    truncated: bool | UnsetType = UNSET
    unfamiliar: bool | UnsetType = UNSET
    """The tokenizer hardly knows the query or the document, so the score says little."""
    span: Span | UnsetType = UNSET
    query_index: int | UnsetType = UNSET


class RerankDetail(msgspec.Struct, kw_only=True):
    """The treatment of a long document."""

    index: int
    truncated: bool | UnsetType = UNSET
    unfamiliar: bool | UnsetType = UNSET
    """The tokenizer hardly knows the query or the document, so the score says little."""
    span: Span | UnsetType = UNSET


class RerankUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int
    truncated_documents: int
    completion_tokens: int = 0


class RerankCost(msgspec.Struct):
    """The cost of a call; the tokens that were not computed were shared between its documents, or kept."""

    computed_tokens: int
    steps: int
    encode_ms: float
    queue_ms: float
    compute_ms: float
    total_ms: float


class RerankAnswer(PartialAnswer, kw_only=True):
    id: str
    object: str = "list"
    created: int
    model: str
    results: list[RerankEntry]
    details: list[RerankDetail] | UnsetType = UNSET
    """One for each result whose document was cut or read in chunks, in the order of ``results``."""
    usage: RerankUsage
    cost: RerankCost
    meta: dict[str, Any]


def rerank_call(
    body: RerankFields,
    view: RequestView,
    queries: Sequence[str | Content],
    *,
    return_documents: bool = True,
    **more: Any,
) -> RerankCall:
    """The call of any dialect whose body has ``documents``; ``return_documents`` is that dialect's default."""
    named: dict[str, Any] = {}
    if body.truncate is None and body.truncation is not None:
        named["truncate"] = as_bool(body.truncation, "truncation", default=True)
    for ours, theirs in (("max_tokens_per_doc", "max_doc_length"), ("max_tokens_per_query", "max_query_length")):
        limit = as_int(getattr(body, theirs), theirs)
        if limit and not getattr(body, ours):
            named[ours] = limit
    call = call_of(
        body,
        view,
        queries=queries,
        documents=as_documents(body.documents, "documents", body.rank_fields),
        top_n=as_count(body.top_n, "top_n"),
        return_documents=as_bool(body.return_documents, "return_documents", default=return_documents),
        raw_scores=as_bool(body.raw_scores, "raw_scores", default=False),
        **named,
        **more,
    )
    overlap = as_int(body.overlap_tokens, "overlap_tokens")
    if call.chunks is not None and call.chunks.overlap is None and overlap is not None:
        call = replace(call, chunks=replace(call.chunks, overlap=overlap))
    return call


def cost_of(result: CallResult) -> RerankCost:
    """The cost of a call, from its result."""
    # The core counts its queue from the call's arrival; here tokenisation has a time of its own.
    seconds = (result.encode_s, max(0.0, result.queue_s - result.encode_s), result.compute_s, result.total_s)
    return RerankCost(result.computed_tokens, result.num_steps, *(round(1000 * s, 3) for s in seconds))


class RerankDialect(Dialect):
    name = "rerank"
    title = "the common object"
    aliases: ClassVar[tuple[str, ...]] = ("fireworks", "together")
    paths: ClassVar[Mapping[str, str]] = {
        "/v1/rerank": "Rank documents for a query.",
        "/v2/rerank": "The same, where Cohere's second version expects it.",
        "/rerank": "The same, where TEI and gateways expect it.",
    }
    precedence = 90
    is_shared = True
    request_type: ClassVar[Any] = RerankBody
    answer_type: ClassVar[Any] = RerankAnswer

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        return rerank_call(body, view, [as_query(body.query)])

    def render(self, result: CallResult) -> Any:
        return RerankAnswer(
            id=f"rerank-{result.request_id}",
            created=result.created,
            model=result.model,
            results=[_plain_entry(pair, result.call) for pair in result.pairs],
            details=[RerankDetail(index=p.index, **_detail(p)) for p in result.pairs if _detail(p)] or UNSET,
            usage=RerankUsage(result.prompt_tokens, result.prompt_tokens, result.truncated_documents),
            cost=cost_of(result),
            meta=cohere_meta(result, "2"),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return DetailedEntry(
            index=pair.index,
            relevance_score=pair.score,
            document=_sent_back(pair, call),
            query_index=pair.query_index if call.every_query else UNSET,
            **_detail(pair),
        )


def _plain_entry(pair: PairScore, call: RerankCall) -> RerankEntry:
    return RerankEntry(index=pair.index, relevance_score=pair.score, document=_sent_back(pair, call))


def _sent_back(pair: PairScore, call: RerankCall) -> dict[str, Any] | UnsetType:
    return document_object(pair.index, call, multi_modal=None) if call.return_documents else UNSET


def _detail(pair: PairScore) -> dict[str, Any]:
    found: dict[str, Any] = {"truncated": True} if pair.truncated else {}
    found |= {"unfamiliar": True} if pair.unfamiliar else {}
    return found | ({"span": Span(pair.spans[0].start, pair.spans[0].end)} if pair.spans else {})
