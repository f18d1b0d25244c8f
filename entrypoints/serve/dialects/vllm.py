"""vLLM's rerank, both generations: today's, and the one of the seed tutorial (0.9 and 0.10).

The request is the common one. ``score-`` ids and two usage fields are today's, ``rerank-`` and one field yesterday's,
whose errors were flat as well.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    PartialAnswer,
    Usage,
    document_object,
    partial_of,
    usage_of,
)
from engine.entrypoints.serve.dialects.rerank import RerankDialect
from engine.entrypoints.serve.errors import error_object
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class VllmEntry(msgspec.Struct):
    index: int
    document: dict[str, Any]
    relevance_score: float


class VllmAnswer(PartialAnswer, kw_only=True):
    id: str
    model: str
    usage: Usage
    results: list[VllmEntry]


class VllmDialect(RerankDialect):
    name = "vllm"
    title = "vLLM"
    answer_type: ClassVar[Any] = VllmAnswer

    def render(self, result: CallResult) -> Any:
        return VllmAnswer(
            id=f"score-{result.request_id}",
            model=result.model,
            usage=usage_of(result),
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return VllmEntry(pair.index, document_object(pair.index, call, multi_modal=None), pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        shared = error_object(error, request_id)
        return {**shared, "error": {**shared["error"], "code": error.code or error.status}}


class OldVllmUsage(msgspec.Struct):
    total_tokens: int


class OldVllmAnswer(PartialAnswer, kw_only=True):
    id: str
    model: str
    usage: OldVllmUsage
    results: list[VllmEntry]


class OldVllmDialect(VllmDialect):
    name = "vllm-0.9"
    title = "vLLM 0.9 and 0.10"
    answer_type: ClassVar[Any] = OldVllmAnswer

    def render(self, result: CallResult) -> Any:
        return OldVllmAnswer(
            id=f"rerank-{result.request_id}",
            model=result.model,
            usage=OldVllmUsage(result.prompt_tokens),
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            **partial_of(result),
        )

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return flat_error(error)


def flat_error(error: EngineError) -> dict[str, Any]:
    """The error object of older vLLM and of SGLang."""
    return {
        "object": "error",
        "message": str(error),
        "type": error.type,
        "param": error.param,
        "code": error.status,
    }
