"""llama.cpp's server: Jina's answer without documents, on routes of its own. Its TEI form is read as TEI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from engine.entrypoints.serve.dialects.base import CallResult, PartialAnswer, Usage, partial_of, usage_of
from engine.entrypoints.serve.dialects.rerank import RerankDialect
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class LlamaCppEntry(msgspec.Struct):
    index: int
    relevance_score: float


class LlamaCppAnswer(PartialAnswer, kw_only=True):
    model: str
    object: str = "list"
    usage: Usage
    results: list[LlamaCppEntry]


class LlamaCppDialect(RerankDialect):
    name = "llamacpp"
    title = "llama.cpp"
    aliases = ("llama.cpp",)
    paths: ClassVar[Mapping[str, str]] = {
        "/v1/reranking": "llama.cpp's and mixedbread's path.",
        "/reranking": "llama.cpp's path.",
    }
    answer_type: ClassVar[Any] = LlamaCppAnswer

    def render(self, result: CallResult) -> Any:
        return LlamaCppAnswer(
            model=result.model,
            usage=usage_of(result),
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return LlamaCppEntry(pair.index, pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"error": {"code": error.status, "message": str(error), "type": error.type}}
