"""DashScope (Alibaba Cloud): ``input`` and ``parameters`` in, ``output`` out; and its flat form, the compatible one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    document_object,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of, instruction_of
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
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect, rerank_call
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

ERROR_CODES = {
    400: "InvalidParameter",
    401: "InvalidApiKey",
    404: "ModelNotFound",
    413: "InvalidParameter",
    429: "Throttling",
    503: "ServiceUnavailable",
}


class DashScopeInput(msgspec.Struct):
    query: Query
    documents: Documents


class DashScopeParameters(msgspec.Struct):
    top_n: Count = None
    return_documents: Bool = None
    instruct: Annotated[str | None, Meta(description="What counts as relevant, in words.")] = None


class DashScopeBody(Extensions, kw_only=True):
    input: DashScopeInput
    parameters: DashScopeParameters | None = None


class DashScopeEntry(msgspec.Struct, kw_only=True):
    document: dict[str, Any] | UnsetType = UNSET
    index: int
    relevance_score: float


class DashScopeOutput(msgspec.Struct):
    results: list[DashScopeEntry]


class DashScopeUsage(msgspec.Struct):
    total_tokens: int


class DashScopeAnswer(PartialAnswer, kw_only=True):
    output: DashScopeOutput
    usage: DashScopeUsage
    request_id: str


class DashScopeDialect(Dialect):
    name = "dashscope"
    title = "DashScope"
    probabilities = True
    paths: ClassVar[Mapping[str, str]] = {"/api/v1/services/rerank/text-rerank/text-rerank": "DashScope's path."}
    body_keys = ("input:object",)
    precedence = 130
    text_paths = TextPaths(("input", "query"), ("input", "documents", ...))
    request_type: ClassVar[Any] = DashScopeBody
    answer_type: ClassVar[Any] = DashScopeAnswer

    def to_call(self, body: DashScopeBody, view: RequestView) -> RerankCall:
        parameters = body.parameters or DashScopeParameters()
        instruction = instruction_of(body) or parameters.instruct or None
        return call_of(
            body,
            view,
            queries=[as_query(body.input.query, ("input", "query"))],
            documents=as_documents(body.input.documents, ("input", "documents")),
            top_n=as_count(parameters.top_n, ("parameters", "top_n")),
            return_documents=as_bool(parameters.return_documents, ("parameters", "return_documents"), default=False),
            instruction=instruction,
        )

    def render(self, result: CallResult) -> Any:
        return DashScopeAnswer(
            output=DashScopeOutput([self.render_pair(pair, result.call) for pair in result.pairs]),
            usage=DashScopeUsage(result.prompt_tokens),
            request_id=result.request_id,
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = document_object(pair.index, call) if call.return_documents else UNSET
        return DashScopeEntry(document=document, index=pair.index, relevance_score=pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        code = ERROR_CODES.get(error.status, "InternalError")
        return {"code": code, "message": str(error), "request_id": request_id}


class FlatDashScopeAnswer(PartialAnswer, kw_only=True):
    object: str = "list"
    results: list[DashScopeEntry]
    model: str
    id: str
    usage: DashScopeUsage


class FlatDashScopeDialect(RerankDialect):
    name = "dashscope-compatible"
    title = "DashScope, compatible mode"
    paths: ClassVar[Mapping[str, str]] = {
        "/v1/reranks": "DashScope's path for OpenAI's clients.",
        "/reranks": "The same, without a version.",
    }
    is_shared = True
    probabilities = True
    answer_type: ClassVar[Any] = FlatDashScopeAnswer

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        return rerank_call(body, view, [as_query(body.query)], return_documents=False)

    def render(self, result: CallResult) -> Any:
        return FlatDashScopeAnswer(
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            model=result.model,
            id=result.request_id,
            usage=DashScopeUsage(result.prompt_tokens),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = document_object(pair.index, call) if call.return_documents else UNSET
        return DashScopeEntry(document=document, index=pair.index, relevance_score=pair.score)
