"""A SageMaker endpoint of a cross-encoder, as langchain and Dify call one: pairs in, scores in their order out."""

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
from engine.entrypoints.serve.dialects.fields import (
    Text,
    TextOrDocuments,
    TextOrQueries,
    as_documents,
    as_queries,
    fail,
)
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
    body_keys: ClassVar[tuple[str, ...]] = ("text_pairs",)
    precedence = 120
    text_paths = TextPaths(("text_pairs", ..., 0), ("text_pairs", ..., 1))
    request_type: ClassVar[Any] = SageMakerBody
    answer_type: ClassVar[Any] = SageMakerAnswer

    def to_call(self, body: SageMakerBody, view: RequestView) -> RerankCall:
        for i, (query, _) in enumerate(body.text_pairs):
            if not query.strip():
                fail("The query must not be empty", ("text_pairs", i, 0))
        queries, documents = zip(*body.text_pairs, strict=True)
        return call_of(body, view, queries=list(queries), documents=list(documents))

    def render(self, result: CallResult) -> Any:
        return SageMakerAnswer(scores=scores_in_order(result), **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return SageMakerScore(pair.index, pair.score)


class SageMakerDocsBody(Extensions, kw_only=True):
    """A query for each document, or one for all."""

    inputs: TextOrQueries
    docs: TextOrDocuments


class SageMakerDocsDialect(SageMakerDialect):
    name = "sagemaker-docs"
    title = "SageMaker, as Dify calls it"
    body_keys = ("inputs", "docs")
    precedence = 6
    text_paths = TextPaths(("inputs", ...), ("docs", ...))
    request_type: ClassVar[Any] = SageMakerDocsBody

    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        queries, documents = as_queries(body.inputs, "inputs"), as_documents(body.docs, "docs")
        if len(queries) not in (1, len(documents.texts)):
            fail(f"One query, or one for each of the {len(documents.texts)} docs; got {len(queries)}", "inputs")
        return call_of(body, view, queries=queries, documents=documents)

    def paths_of(self, body: Any) -> TextPaths:
        return self.text_paths if isinstance(body.inputs, list) else TextPaths(("inputs",), ("docs", ...))


def scores_in_order(result: CallResult) -> list[float | None]:
    """One score for each result, in the order of the body; None where the call's deadline left none."""
    scores: list[float | None] = [None] * result.call.num_pairs
    for pair in result.in_order:
        scores[pair.index] = pair.score
    return scores
