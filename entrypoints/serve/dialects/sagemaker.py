"""A SageMaker endpoint of a cross-encoder, as langchain calls one: pairs in, scores in their order out."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import Text, fail
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class SageMakerBody(Extensions, kw_only=True):
    text_pairs: Annotated[list[tuple[Text, str]], Meta(min_length=1)]


class SageMakerAnswer(PartialAnswer, kw_only=True):
    scores: list[float | None]
    """null: no score within ``timeout_ms``."""


class SageMakerScore(msgspec.Struct):
    index: int
    score: float


class SageMakerDialect(Dialect):
    name = "sagemaker"
    title = "SageMaker"
    body_keys = ("text_pairs",)
    precedence = 120
    text_paths = TextPaths(("text_pairs", ..., 0), ("text_pairs", ..., 1))
    request_type: ClassVar[Any] = SageMakerBody
    answer_type: ClassVar[Any] = SageMakerAnswer

    def call(self, body: SageMakerBody, view: RequestView) -> RerankCall:
        for i, (query, _) in enumerate(body.text_pairs):
            if not query.strip():
                fail("The query must not be empty", ("text_pairs", i, 0))
        queries, documents = zip(*body.text_pairs, strict=True)
        return call_of(body, view, queries=list(queries), documents=list(documents))

    def render(self, result: CallResult) -> Any:
        scores: list[float | None] = [None] * len(result.call.documents)
        for pair in result.in_order:
            scores[pair.index] = pair.score
        return SageMakerAnswer(scores=scores, **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return SageMakerScore(pair.index, pair.score)
