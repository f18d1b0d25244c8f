"""Hugging Face's sentence similarity, which Milvus asks for: one score for each sentence, in the order sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from engine.entrypoints.serve.dialects.base import CallResult, Dialect, RequestView, TextPaths
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import Documents, Query, as_documents, as_query
from engine.entrypoints.serve.dialects.sagemaker import SageMakerScore, scores_in_order
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class SimilarityInputs(msgspec.Struct):
    source_sentence: Query
    sentences: Documents


class SimilarityBody(Extensions, kw_only=True):
    inputs: SimilarityInputs
    parameters: dict[str, Any] | None = None


class SimilarityDialect(Dialect):
    name = "sentence-similarity"
    title = "Hugging Face, sentence similarity"
    paths: ClassVar[Mapping[str, str]] = {
        "/models/{model:path}/pipeline/sentence-similarity": "Hugging Face's path for the task.",
    }
    body_keys = ("inputs:object",)
    precedence = 4
    probabilities = True
    text_paths = TextPaths(("inputs", "source_sentence"), ("inputs", "sentences", ...))
    request_type: ClassVar[Any] = SimilarityBody
    answer_type: ClassVar[Any] = list[float | None]

    def to_call(self, body: SimilarityBody, view: RequestView) -> RerankCall:
        return call_of(
            body,
            view,
            queries=[as_query(body.inputs.source_sentence, ("inputs", "source_sentence"))],
            documents=as_documents(body.inputs.sentences, ("inputs", "sentences")),
        )

    def render(self, result: CallResult) -> Any:
        return scores_in_order(result)

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return SageMakerScore(pair.index, pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"error": str(error)}
