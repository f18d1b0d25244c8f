"""SGLang's rerank: the common body, answered with a bare list. Its guide's body cannot be told from Jina's, so this
dialect is chosen by ``--dialect sglang``, a header or a query parameter."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.base import CallResult, RequestView
from engine.entrypoints.serve.dialects.fields import as_query
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect, rerank_call
from engine.entrypoints.serve.dialects.vllm import flat_error
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class SglangEntry(msgspec.Struct, kw_only=True):
    score: float
    document: str | UnsetType = UNSET
    index: int


class SglangDialect(RerankDialect):
    name = "sglang"
    title = "SGLang"
    answer_type: ClassVar[Any] = list[SglangEntry]

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        # Its code returns documents by default, its guide does not; clients ask for them either way.
        return rerank_call(body, view, [as_query(body.query)], return_documents=False)

    def render(self, result: CallResult) -> Any:
        return [self.render_pair(pair, result.call) for pair in result.pairs]

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        document = call.documents[pair.index] if call.return_documents else UNSET
        return SglangEntry(score=pair.score, document=document, index=pair.index)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return flat_error(error)
