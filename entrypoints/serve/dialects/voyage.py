"""Voyage's rerank, told by ``top_k``, by ``truncation`` where there is no ``top_n``, or by its SDK's name; documents
come back as strings.

LiteLLM's ``voyage`` leaves ``top_k`` out where there is no limit, and its body is then that of its other providers. But
it names no ``Accept``, which those do that cannot read this answer (1.110.2; ``fireworks_ai`` names none, and can).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.entrypoints.serve.dialects.base import CallResult, Dialect, PartialAnswer, RequestView, matches, partial_of
from engine.entrypoints.serve.dialects.body import Keys
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import (
    Bool,
    Count,
    Documents,
    Query,
    as_bool,
    as_count,
    as_documents,
    as_query,
)
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class VoyageBody(Extensions, kw_only=True):
    query: Query
    documents: Documents
    top_k: Annotated[Count, Meta(description="Best results to return; 0, null and absent: all.")] = None
    return_documents: Bool = None
    truncation: Bool = None


class VoyageEntry(msgspec.Struct, kw_only=True):
    relevance_score: float
    index: int
    document: str | UnsetType = UNSET


class VoyageUsage(msgspec.Struct, omit_defaults=True):
    total_tokens: int
    prompt_tokens: int | UnsetType = UNSET
    """For LiteLLM's ``fireworks_ai``, which counts these."""


class VoyageAnswer(PartialAnswer, kw_only=True):
    object: str = "list"
    data: list[VoyageEntry]
    model: str
    usage: VoyageUsage


class VoyageDialect(Dialect):
    name = "voyage"
    title = "Voyage"
    recognised_by = ("documents", "!queries", "top_k|truncation", "!top_n")
    user_agents = ("voyageai/",)
    precedence = 80
    probabilities = True
    request_type: ClassVar[Any] = VoyageBody
    answer_type: ClassVar[Any] = VoyageAnswer

    def recognises(self, keys: Keys, headers: Mapping[str, str] = MappingProxyType({})) -> bool:
        if super().recognises(keys, headers):
            return True
        accepts_anything = headers.get("accept", "*/*") == "*/*"
        by_litellm = accepts_anything and headers.get("user-agent", "").startswith("litellm/")
        return by_litellm and matches(keys, ("query", "documents", "!queries", "!top_n"))

    def to_call(self, body: VoyageBody, view: RequestView) -> RerankCall:
        named: dict[str, Any] = {}
        if body.truncate is None and body.truncation is not None:
            named["truncate"] = as_bool(body.truncation, "truncation", default=True)
        return call_of(
            body,
            view,
            queries=[as_query(body.query)],
            documents=as_documents(body.documents),
            top_n=as_count(body.top_k, "top_k"),
            return_documents=as_bool(body.return_documents, "return_documents", default=False),
            **named,
        )

    def render(self, result: CallResult) -> Any:
        return VoyageAnswer(
            data=[self.render_pair(pair, result.call) for pair in result.pairs],
            model=result.model,
            usage=VoyageUsage(
                result.prompt_tokens, result.prompt_tokens if result.model.startswith("fireworks/") else UNSET
            ),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = call.documents[pair.index] if call.return_documents else UNSET
        return VoyageEntry(relevance_score=pair.score, index=pair.index, document=document)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"detail": str(error)}  # and no "error": its Python SDK fails over an object of that name
