"""SGLang's score: a query, items, and the tokens whose probabilities are wanted after each prompt.

This engine keeps one row of the output matrix, the difference of the model's two labels, and no vocabulary. It knows
the probabilities of those two tokens among themselves (``apply_softmax``), which is what a reranker is asked for.
"""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    Usage,
    partial_of,
    usage_of,
)
from engine.entrypoints.serve.dialects.body import Keys
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.field_schemas import EXACT, TOKEN_ID
from engine.entrypoints.serve.dialects.fields import Bool, Text, as_bool, as_ids, fail
from engine.entrypoints.serve.dialects.vllm import flat_error
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

_LABEL = {"type": "integer", "x-bound": "label_tokens"}
_LABELS = {"type": "array", "minItems": 1, "items": _LABEL}
_TEXTS = {EXACT: {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}}
_IDS = {"type": "array", "items": TOKEN_ID}
_LISTS = {"type": "array", "minItems": 1, "items": _IDS}
_TRUE = {EXACT: {"enum": [True, "true", "True", None]}}
_FALSE = {EXACT: {"enum": [False, "false", "False", None]}}


class SglangScoreFields(Extensions, kw_only=True):
    label_token_ids: Annotated[
        list[int | float] | None,
        Meta(
            description="Any of the model's two label tokens; absent: both, the one for a relevant document first.",
            extra_json_schema={EXACT: {"anyOf": [_LABELS, {"type": "null"}]}},
        ),
    ] = None
    apply_softmax: Annotated[bool | str | None, Meta(description="Always true here.", extra_json_schema=_TRUE)] = None
    temperature: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="Divides the logits.")] = None
    item_first: Bool = None
    return_token_logprobs: Annotated[
        bool | str | None, Meta(description="Always false here.", extra_json_schema=_FALSE)
    ] = None


class SglangScoreBody(SglangScoreFields, kw_only=True):
    """Texts, joined as they are."""

    query: Text
    items: Annotated[str | list[str], Meta(extra_json_schema=_TEXTS)]


class SglangScoreIdsBody(SglangScoreFields, kw_only=True):
    """Token ids."""

    query: Annotated[list[int | float], Meta(extra_json_schema={EXACT: {**_IDS, "minItems": 1}})]
    items: Annotated[list[list[int | float]], Meta(extra_json_schema={EXACT: _LISTS})]


class SglangScoreAnswer(PartialAnswer, kw_only=True):
    scores: list[list[float]]
    """For each item the probabilities of its labels, in the order asked for; empty: no score in time."""
    token_logprobs: None = None
    model: str
    usage: Usage
    object: str = "scoring"


class SglangItemScore(msgspec.Struct):
    index: int
    scores: list[float]


class SglangScoreDialect(Dialect):
    name = "sglang-score"
    title = "SGLang score"
    choosable = False
    task = "score"
    body_keys = ("query", "items")
    precedence = 20
    text_paths = TextPaths(("query",), ("items", ...))
    request_type: ClassVar[Any] = (SglangScoreBody, SglangScoreIdsBody)
    answer_type: ClassVar[Any] = SglangScoreAnswer

    def body_type(self, keys: Keys) -> Any:
        return SglangScoreIdsBody if keys.get("query") == "array" else SglangScoreBody

    def to_call(self, body: SglangScoreBody | SglangScoreIdsBody, view: RequestView) -> RerankCall:
        if not as_bool(body.apply_softmax, "apply_softmax", default=True):
            fail("Only the probabilities of the labels among themselves are known: apply_softmax true", "apply_softmax")
        if as_bool(body.return_token_logprobs, "return_token_logprobs", default=False):
            fail("There are no log-probabilities over the vocabulary", "return_token_logprobs")
        temperature = 1.0 if body.temperature is None else body.temperature
        prompts = _joined(body, as_bool(body.item_first, "item_first", default=False))
        call = call_of(body, view, queries=[], documents=[], prompts=prompts)
        return replace(call, memo=(_labels(body.label_token_ids, view.label_tokens), temperature))

    def render(self, result: CallResult) -> Any:
        scores: list[list[float]] = [[] for _ in range(result.call.num_pairs)]
        for pair in result.in_order:
            scores[pair.index] = label_scores(pair.logit, *result.call.memo)
        return SglangScoreAnswer(scores=scores, model=result.model, usage=usage_of(result), **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return SglangItemScore(pair.index, label_scores(pair.logit, *call.memo))

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return flat_error(error)


def label_scores(logit: float, labels: list[bool], temperature: float) -> list[float]:
    """The softmax over the labels; ``logit`` is by how much the relevant one (True) leads."""
    logits = [logit / temperature if label else 0.0 for label in labels]
    highest = max(logits)
    powers = [exp(value - highest) for value in logits]
    return [power / sum(powers) for power in powers]


def _labels(wanted: list[int | float] | None, known: tuple[int, ...]) -> list[bool]:
    """For each label whether it is the one for a relevant document."""
    if len(known) != 2:
        fail("This model has no label tokens: its logit is not the plain difference of two", "label_token_ids")
    if wanted is None:
        return [True, False]
    for i, label in enumerate(as_ids(wanted, "label_token_ids")):
        if label not in known:
            no, yes = known
            message = f"Token {label} is none of this model's labels, {yes} (relevant) and {no}"
            fail(message, ("label_token_ids", i))
    if not wanted:
        fail("At least one label is needed", "label_token_ids")
    return [label == known[1] for label in wanted]


def _joined(body: SglangScoreBody | SglangScoreIdsBody, item_first: bool) -> list[str | list[int]]:
    if not body.items and body.items != "":
        fail("At least one item is needed", "items")
    if isinstance(body, SglangScoreBody):
        if not body.query.strip():
            fail("The query must not be empty", "query")
        texts = [body.items] if isinstance(body.items, str) else body.items
        return [text + body.query if item_first else body.query + text for text in texts]
    query = as_ids(body.query, "query")
    if not query:
        fail("The query must not be empty", "query")
    items = [as_ids(item, ("items", i)) for i, item in enumerate(body.items)]
    return [[*item, *query] if item_first else [*query, *item] for item in items]
