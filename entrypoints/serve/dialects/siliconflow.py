"""SiliconFlow's rerank: Jina's form with Cohere's ids and meta, documents on request only, chunks with
``max_chunks_per_doc`` and ``overlap_tokens``."""

from __future__ import annotations

from typing import Any, ClassVar

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    PartialAnswer,
    RequestView,
    Usage,
    partial_of,
    search_units,
    usage_of,
)
from engine.entrypoints.serve.dialects.fields import as_query
from engine.entrypoints.serve.dialects.jina import JinaDialect, JinaEntry
from engine.entrypoints.serve.dialects.rerank import RerankBody, rerank_call
from engine.errors import EngineError
from engine.request import RerankCall


class SiliconFlowAnswer(PartialAnswer, kw_only=True):
    id: str
    model: str
    object: str = "list"
    results: list[JinaEntry]
    usage: Usage
    meta: dict[str, Any]


class SiliconFlowDialect(JinaDialect):
    name = "siliconflow"
    title = "SiliconFlow"
    answer_type: ClassVar[Any] = SiliconFlowAnswer

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        return rerank_call(body, view, [as_query(body.query)], return_documents=False)

    def render(self, result: CallResult) -> Any:
        tokens = {"input_tokens": result.prompt_tokens, "output_tokens": 0}
        return SiliconFlowAnswer(
            id=result.request_id,
            model=result.model,
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            usage=usage_of(result),
            meta={"tokens": tokens, "billed_units": {**tokens, "search_units": search_units(result)}},
            **partial_of(result),
        )

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"code": error.status, "message": str(error), "data": None}
