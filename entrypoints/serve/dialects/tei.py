"""Hugging Face text-embeddings-inference: ``query`` and ``texts`` in, a bare list of ``{index, score}`` out; and its
``/predict``, a label with a score for a text, a pair, or a batch of them, which the pipelines of transformers take as
objects with ``text`` and ``text_pair``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.entrypoints.serve.dialects.base import CallResult, Dialect, RequestView, TextPaths
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.field_schemas import EXACT, NOT_BLANK
from engine.entrypoints.serve.dialects.fields import (
    Bool,
    Count,
    Documents,
    Query,
    as_bool,
    as_count,
    as_documents,
    as_query,
    fail,
)
from engine.errors import EngineError, OverloadedError, TooLargeError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

EMPTY = "empty_input"
FLAT = "flat"
"""One prediction for each input, without a list around it."""
LABEL = "LABEL_0"
Direction = Literal["left", "right", "Left", "Right"] | None


class TeiFields(Extensions, kw_only=True):
    truncation_direction: Direction = None
    raw_scores: Bool = None


class TeiBody(TeiFields, kw_only=True):
    query: Query
    texts: Documents
    return_text: Bool = None
    top_n: Annotated[Count, Meta(description="LiteLLM and Elasticsearch send it; TEI itself returns all.")] = None


class TeiRank(msgspec.Struct, kw_only=True):
    index: int
    score: float
    text: str | UnsetType = UNSET


def tei_call(body: TeiFields, view: RequestView, **more: Any) -> RerankCall:
    """The call of a body with TEI's common fields."""
    if body.truncation_direction is not None:
        more["truncation_side"] = body.truncation_direction.lower()
    raw_scores = as_bool(body.raw_scores, "raw_scores", default=False)
    return call_of(body, view, raw_scores=raw_scores, **more)


class TeiDialect(Dialect):
    name = "tei"
    title = "Hugging Face TEI"
    probabilities = True
    aliases = ("huggingface", "text-embeddings-inference")
    paths: ClassVar[Mapping[str, str]] = {"/": "TEI's path for the model's own task."}
    body_keys = ("texts",)
    precedence = 100
    text_paths = TextPaths(("query",), ("texts", ...))
    request_type: ClassVar[Any] = TeiBody
    answer_type: ClassVar[Any] = list[TeiRank]

    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        if body.texts == []:
            fail("At least one text is needed", "texts", EMPTY)
        return tei_call(
            body,
            view,
            queries=[as_query(body.query)],
            documents=as_documents(body.texts, "texts"),
            top_n=as_count(body.top_n, "top_n"),
            return_documents=as_bool(body.return_text, "return_text", default=False),
        )

    def render(self, result: CallResult) -> Any:
        return [self.render_pair(pair, result.call) for pair in result.pairs]

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        text = call.documents[pair.index] if call.return_documents else UNSET
        return TeiRank(index=pair.index, score=pair.score, text=text)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"error": str(error), "error_type": _error_type(error)}

    def error_status(self, error: EngineError, status: int) -> int:
        if _error_type(error) == "Validation" and not isinstance(error, TooLargeError):
            return 422
        return 429 if isinstance(error, OverloadedError) else status

    def headers(self, result: CallResult) -> dict[str, str]:
        call = result.call
        texts = [*call.documents, *call.queries, *(p for p in call.prompts or () if isinstance(p, str))]
        return {
            "x-compute-type": "engine",
            "x-compute-time": str(round(1000 * result.total_s)),
            "x-compute-characters": str(sum(map(len, texts))),
            "x-compute-tokens": str(result.prompt_tokens),
            "x-total-time": str(round(1000 * result.total_s)),
            "x-tokenization-time": str(round(1000 * result.encode_s)),
            "x-queue-time": str(round(1000 * result.queue_s)),
            "x-inference-time": str(round(1000 * result.compute_s)),
        }


def _error_type(error: EngineError) -> str:
    if error.code == EMPTY:
        return "Empty"
    if isinstance(error, OverloadedError):
        return "Overloaded"
    if error.status in (400, 413):
        return "Validation"
    return "Unhealthy" if error.status == 503 else "Backend"


_SINGLE = {"type": "array", "items": NOT_BLANK, "minItems": 1, "maxItems": 1}
_PAIR = {"type": "array", "prefixItems": [NOT_BLANK, {"type": "string"}], "minItems": 2, "maxItems": 2}
_PAIR_OBJECT = {
    "type": "object",
    "required": ["text", "text_pair"],
    "properties": {"text": NOT_BLANK, "text_pair": {"type": "string"}},
}
_INPUTS = {
    EXACT: {
        "anyOf": [
            NOT_BLANK,
            _PAIR,
            {"type": "array", "minItems": 1, "items": _SINGLE},
            {"type": "array", "minItems": 1, "items": _PAIR},
            {"type": "array", "minItems": 1, "items": _PAIR_OBJECT},
        ]
    }
}


class PredictBody(TeiFields, kw_only=True):
    inputs: Annotated[
        str | list[str | list[str] | dict[str, Any]],
        Meta(
            description="A text, a pair, or a list of [text], of [query, document] or of {text, text_pair}.",
            extra_json_schema=_INPUTS,
        ),
    ]


class Prediction(msgspec.Struct):
    score: float
    label: str


class PredictDialect(TeiDialect):
    name = "tei-predict"
    title = "Hugging Face TEI, /predict"
    choosable = False
    task = "prompts"
    paths: ClassVar[Mapping[str, str]] = {
        "/predict": "TEI: a label and a score for a text, a pair, or a batch of them."
    }
    body_keys = ("inputs",)
    precedence = 10
    text_paths = TextPaths(("inputs", ..., 0), ("inputs", ..., 1))
    request_type: ClassVar[Any] = PredictBody
    answer_type: ClassVar[Any] = (list[Prediction], list[list[Prediction]])

    def to_call(self, body: PredictBody, view: RequestView) -> RerankCall:
        inputs = body.inputs
        if not inputs:
            fail("At least one text is needed", "inputs", EMPTY)
        if isinstance(inputs, str):
            return tei_call(body, view, queries=[], documents=[], prompts=[inputs])
        if any(isinstance(item, dict) for item in inputs):
            return _call_of_objects(body, view)
        batch = not any(isinstance(item, str) for item in inputs)
        items: list[Any] = list(inputs) if batch else [inputs]
        lengths = {len(item) if all(isinstance(text, str) for text in item) else 0 for item in items}
        if lengths == {1} and batch:
            call = tei_call(body, view, queries=[], documents=[], prompts=[text for (text,) in items])
        elif lengths == {2}:
            for i, (query, _) in enumerate(items):
                if not query.strip():
                    fail("The query must not be empty", ("inputs", i, 0), EMPTY)
            call = tei_call(body, view, queries=[q for q, _ in items], documents=[d for _, d in items])
        else:
            fail("Expected a text, a pair of texts, or a list of [text] or of [query, document]", "inputs")
        return replace(call, memo=batch)

    def paths_of(self, body: PredictBody) -> TextPaths:
        objects = any(isinstance(item, dict) for item in body.inputs)
        return TextPaths(("inputs", ..., "text"), ("inputs", ..., "text_pair")) if objects else self.text_paths

    def render(self, result: CallResult) -> Any:
        predictions: list[list[Prediction]] = [[] for _ in range(result.call.num_pairs)]
        for pair in result.in_order:
            predictions[pair.index] = [Prediction(pair.score, LABEL)]
        if result.call.memo == FLAT:
            return [one for found in predictions for one in found]
        return predictions if result.call.memo else predictions[0]

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return {"index": pair.index, "score": pair.score, "label": LABEL}


def _call_of_objects(body: PredictBody, view: RequestView) -> RerankCall:
    """The call of ``{"text": query, "text_pair": document}`` objects, as transformers' pipelines read them."""
    queries, documents = [], []
    for i, item in enumerate(body.inputs):
        text, other = (item.get("text"), item.get("text_pair")) if isinstance(item, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(other, str):
            fail("Expected an object with the texts 'text' and 'text_pair'", ("inputs", i))
        if not text.strip():
            fail("The query must not be empty", ("inputs", i, "text"), EMPTY)
        queries.append(text)
        documents.append(other)
    return replace(tei_call(body, view, queries=queries, documents=documents), memo=FLAT)
