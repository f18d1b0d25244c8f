"""ZeroEntropy: the common body on a path of its own; what it took stands beside the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from engine.entrypoints.serve.dialects.base import CallResult, PartialAnswer, RequestView, partial_of
from engine.entrypoints.serve.dialects.fields import as_query
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect, rerank_call
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class ZeroEntropyBody(RerankBody, kw_only=True):
    latency: Literal["fast", "slow"] | None = None
    """Which queue the call waits in; here there is one."""


class ZeroEntropyEntry(msgspec.Struct):
    index: int
    relevance_score: float


class ZeroEntropyAnswer(PartialAnswer, kw_only=True):
    results: list[ZeroEntropyEntry]
    total_bytes: int
    """Of the query, once for each document, and of the documents."""
    total_tokens: int
    actual_latency_mode: Literal["fast"] = "fast"
    e2e_latency: float
    """Seconds."""
    inference_latency: float


class ZeroEntropyDialect(RerankDialect):
    name = "zeroentropy"
    title = "ZeroEntropy"
    paths: ClassVar[Mapping[str, str]] = {"/v1/models/rerank": "ZeroEntropy's path."}
    request_type: ClassVar[Any] = ZeroEntropyBody
    answer_type: ClassVar[Any] = ZeroEntropyAnswer
    probabilities = True

    def to_call(self, body: RerankBody, view: RequestView) -> RerankCall:
        return rerank_call(body, view, [as_query(body.query)], return_documents=False)

    def render(self, result: CallResult) -> Any:
        call = result.call
        query = sum(len(text.encode()) for text in call.queries)
        return ZeroEntropyAnswer(
            results=[self.render_pair(pair, call) for pair in result.pairs],
            total_bytes=query * len(call.documents) + sum(len(text.encode()) for text in call.documents),
            total_tokens=result.prompt_tokens,
            e2e_latency=round(result.total_s, 6),
            inference_latency=round(result.compute_s, 6),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return ZeroEntropyEntry(pair.index, pair.score)
