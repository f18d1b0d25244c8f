"""Cohere's rerank, v1 and v2.

v1 takes documents as texts or objects, returns them on request, and reads long ones in chunks (its default is ten).
v2 takes texts, cuts them to ``max_tokens_per_doc`` (4096), and can say which spans of a document were relevant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace as replace_struct

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    PartialAnswer,
    RequestView,
    cohere_meta,
    document_object,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import chunk_options
from engine.entrypoints.serve.dialects.fields import Count, as_count, as_query
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect, rerank_call
from engine.errors import EngineError
from engine.request import ChunkOptions, RerankCall
from engine.scoring.result_assembler import PairScore

V1_CHUNKS = 10
V2_DOCUMENT_TOKENS = 4096


class CohereEntry(msgspec.Struct, kw_only=True):
    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


class CohereAnswer(PartialAnswer, kw_only=True):
    id: str
    results: list[CohereEntry]
    meta: dict[str, Any]


class CohereV1Dialect(RerankDialect):
    name = "cohere-v1"
    title = "Cohere v1"
    probabilities = True
    answer_type: ClassVar[Any] = CohereAnswer

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        call = rerank_call(body, view, [as_query(body.query)], return_documents=False)
        return replace(call, chunks=chunk_options(body, default=ChunkOptions(most=V1_CHUNKS)))

    def render(self, result: CallResult) -> Any:
        return CohereAnswer(
            id=result.request_id,
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            meta=cohere_meta(result, "1"),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = document_object(pair.index, call) if call.return_documents else UNSET
        return CohereEntry(index=pair.index, relevance_score=pair.score, document=document)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"id": request_id, "message": str(error)}


class RelevantSpans(msgspec.Struct):
    """The spans of a document to name; here they are its chunks."""

    mode: Literal["enabled", "disabled"] | None = None
    threshold: float | None = None
    max_spans: Count = None


class SpansWanted(NamedTuple):
    """The wishes of a call with ``relevant_spans``, for its answer."""

    threshold: float
    most: int | None


class CohereV2Body(RerankBody, kw_only=True):
    relevant_spans: RelevantSpans | None = None


class CohereSpan(msgspec.Struct):
    start: int
    end: int
    score: float


class CohereV2Entry(msgspec.Struct, kw_only=True):
    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET
    relevant_spans: list[CohereSpan] | UnsetType = UNSET


class CohereV2Answer(PartialAnswer, kw_only=True):
    id: str
    results: list[CohereV2Entry]
    meta: dict[str, Any]


class CohereV2Dialect(CohereV1Dialect):
    name = "cohere-v2"
    title = "Cohere v2"
    aliases = ("cohere", "azure", "azure-ai")
    paths: ClassVar[Mapping[str, str]] = {
        "/model/{model:path}/invoke": "Amazon Bedrock's InvokeModel, of Cohere's models."
    }
    request_type: ClassVar[Any] = CohereV2Body
    answer_type: ClassVar[Any] = CohereV2Answer

    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        call = rerank_call(body, view, [as_query(body.query)], return_documents=False)
        wanted = body.relevant_spans
        if wanted is not None and wanted.mode == "enabled":
            threshold = 0.1 if wanted.threshold is None else wanted.threshold
            spans = SpansWanted(threshold, as_count(wanted.max_spans, ("relevant_spans", "max_spans")))
            return replace(call, chunks=chunk_options(body, default=ChunkOptions()), memo=spans)
        if body.max_tokens_per_doc is None and call.chunks is None:
            call = replace(call, options=replace(call.options, max_tokens_per_doc=V2_DOCUMENT_TOKENS))
        return call

    def render(self, result: CallResult) -> Any:
        return CohereV2Answer(
            id=result.request_id,
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            meta=cohere_meta(result, "2"),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return CohereV2Entry(
            index=pair.index,
            relevance_score=pair.score,
            document=document_object(pair.index, call) if call.return_documents else UNSET,
            relevant_spans=relevant_spans(pair, call),
        )


class OpenSearchDialect(CohereV2Dialect):
    """Its connector casts every score to Java's ``Double``, and the parser before it makes a ``BigDecimal`` of a number
    with more than 18 characters (json-smart, ``extractFloat``): ten digits stay below that."""

    name = "opensearch"
    title = "OpenSearch's Cohere connector"

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        entry = super().render_pair(pair, call)
        return replace_struct(entry, relevance_score=float(f"{pair.score:.10g}"))


def relevant_spans(pair: PairScore, call: RerankCall) -> list[CohereSpan] | UnsetType:
    """The chunks that reach the threshold, best first."""
    if not isinstance(call.memo, SpansWanted):
        return UNSET
    threshold, most = call.memo
    whole = CohereSpan(0, len(call.documents[pair.index]), pair.score)
    spans = [CohereSpan(span.start, span.end, span.score) for span in pair.spans] or [whole]
    return [span for span in spans if span.score >= threshold][:most]
