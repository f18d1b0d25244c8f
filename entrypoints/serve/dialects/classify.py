"""vLLM's /classify and /pooling for a model with one label: whole prompts in, probabilities out.

A prompt is scored as it is, without a template; only the model's own prompt, sent in full, is recognised. ``messages``
with the roles ``query`` and ``document`` are a pair like any other.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta

from engine.entrypoints.collect import PairScore
from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    FieldNames,
    PartialAnswer,
    RequestView,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import EXACT, Prompts, as_prompts, fail
from engine.entrypoints.serve.dialects.score import ScoreUsage
from engine.entrypoints.serve.dialects.tei import LABEL
from engine.request import RerankCall

ROLES = ("query", "document", "system")
_NOT_BLANK = {"type": "string", "pattern": r"\S"}
_MESSAGES = {
    EXACT: {
        "type": ["array", "null"],
        "prefixItems": [
            {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"const": role}, "content": text},
            }
            for role, text in (("query", _NOT_BLANK), ("document", {"type": "string"}))
        ],
        "minItems": 2,
        "maxItems": 2,
    }
}


class Message(msgspec.Struct):
    role: str
    content: str


Messages = Annotated[
    list[Message] | None, Meta(description="A query and a document, as two messages.", extra_json_schema=_MESSAGES)
]


class PromptBody(Extensions, kw_only=True):
    input: Prompts | None = None
    messages: Messages = None


def pair_of(messages: list[Message]) -> tuple[str, str, str | None]:
    """Query, document and instruction (a ``system`` message)."""
    found: dict[str, str] = {}
    for i, message in enumerate(messages):
        if message.role not in ROLES or message.role in found:
            fail(f"One message each of the roles {', '.join(ROLES)} is possible", f"messages[{i}].role")
        found[message.role] = message.content
    if not found.get("query", "").strip() or "document" not in found:
        fail("A message of the role query and one of the role document are needed", "messages")
    return found["query"], found["document"], found.get("system") or None


class ClassifyBody(PromptBody, kw_only=True):
    pass


class Classification(msgspec.Struct):
    index: int
    label: str
    probs: list[float]
    num_classes: int = 1


class ClassifyAnswer(PartialAnswer, kw_only=True):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Classification]
    usage: ScoreUsage


class ClassifyDialect(Dialect):
    name = "classify"
    title = "vLLM classify"
    names = FieldNames("messages[0].content", "input[{}]")
    request_type: ClassVar[Any] = ClassifyBody
    answer_type: ClassVar[Any] = ClassifyAnswer

    def call(self, body: PromptBody, view: RequestView) -> RerankCall:
        if (body.input is None) == (body.messages is None):
            fail("Exactly one of input and messages is needed", "input")
        if body.messages is None:
            return call_of(body, view, queries=[], documents=[], prompts=as_prompts(body.input, "input"))
        query, document, instruction = pair_of(body.messages)
        call = call_of(body, view, queries=[query], documents=[document])
        if instruction and not call.options.instruction:
            call = replace(call, options=replace(call.options, instruction=instruction))
        return call

    def render(self, result: CallResult) -> Any:
        return ClassifyAnswer(
            id=f"classify-{result.request_id}",
            created=result.created,
            model=result.model,
            data=[self.render_pair(pair, result.call) for pair in result.in_order],
            usage=ScoreUsage(result.prompt_tokens, result.prompt_tokens),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return Classification(pair.index, LABEL, [pair.score])


class PoolingBody(PromptBody, kw_only=True):
    task: Literal["classify"] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class Pooled(msgspec.Struct, kw_only=True):
    index: int
    object: str = "pooling"
    data: list[float] | str
    """The probabilities, or their little-endian float32 bytes in base64."""


class PoolingAnswer(PartialAnswer, kw_only=True):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Pooled]
    usage: ScoreUsage


class PoolingDialect(ClassifyDialect):
    name = "pooling"
    title = "vLLM pooling"
    request_type: ClassVar[Any] = PoolingBody
    answer_type: ClassVar[Any] = PoolingAnswer

    def call(self, body: Any, view: RequestView) -> RerankCall:
        return replace(super().call(body, view), memo=body.encoding_format)

    def render(self, result: CallResult) -> Any:
        return PoolingAnswer(
            id=f"pool-{result.request_id}",
            created=result.created,
            model=result.model,
            data=[self.render_pair(pair, result.call) for pair in result.in_order],
            usage=ScoreUsage(result.prompt_tokens, result.prompt_tokens),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        as_bytes = base64.b64encode(np.array([pair.score], "<f4").tobytes()).decode()
        return Pooled(index=pair.index, data=as_bytes if call.memo == "base64" else [pair.score])
