"""NVIDIA NIM ranking: query and passages are objects, the answer is logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    Usage,
    partial_of,
    usage_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import Count, Documents, Query, as_count, as_documents, as_query
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class NvidiaBody(Extensions, kw_only=True):
    query: Query
    passages: Documents
    top_n: Count = None
    top_k: Annotated[Count, Meta(description="LiteLLM's name of top_n.")] = None


class NvidiaRanking(msgspec.Struct):
    index: int
    logit: float


class NvidiaAnswer(PartialAnswer, kw_only=True):
    rankings: list[NvidiaRanking]
    usage: Usage


class NvidiaDialect(Dialect):
    name = "nvidia"
    title = "NVIDIA NIM"
    aliases = ("nim",)
    paths: ClassVar[Mapping[str, str]] = {
        "/v1/ranking": "NVIDIA NIM's path.",
        "/ranking": "NVIDIA NIM's path, without a version.",
        "/v1/{model}/reranking": "RAGFlow's path of one of its models.",
        "/v1/retrieval/{model:path}/reranking": "The path of NVIDIA's hosted models, which LiteLLM uses for all.",
    }
    body_keys = ("passages",)
    precedence = 110
    text_paths = TextPaths(("query",), ("passages", ...))
    request_type: ClassVar[Any] = NvidiaBody
    answer_type: ClassVar[Any] = NvidiaAnswer

    def to_call(self, body: NvidiaBody, view: RequestView) -> RerankCall:
        return call_of(
            body,
            view,
            queries=[as_query(body.query)],
            documents=as_documents(body.passages, "passages"),
            top_n=as_count(body.top_n, "top_n") or as_count(body.top_k, "top_k"),
        )

    def render(self, result: CallResult) -> Any:
        rankings = [self.render_pair(pair, result.call) for pair in result.pairs]
        return NvidiaAnswer(rankings=rankings, usage=usage_of(result), **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return NvidiaRanking(pair.index, pair.logit)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"object": "error", "message": str(error), "detail": str(error), "type": error.type}
