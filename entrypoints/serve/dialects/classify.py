"""vLLM's /classify and /pooling for a model with one label: whole prompts in, probabilities out.

A prompt is scored as it is, without a template; only the model's own prompt, sent in full, is recognised. ``messages``
with the roles ``query`` and ``document`` are a pair like any other.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.body import Keys
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.field_schemas import EXACT, NOT_BLANK
from engine.entrypoints.serve.dialects.fields import Prompts, as_prompts, fail
from engine.entrypoints.serve.dialects.score import ScoreUsage
from engine.entrypoints.serve.dialects.tei import LABEL
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

ROLES = ("query", "document", "system")
_MESSAGES = {
    EXACT: {
        "type": "array",
        "prefixItems": [
            {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"const": role}, "content": text},
            }
            for role, text in (("query", NOT_BLANK), ("document", {"type": "string"}))
        ],
        "minItems": 2,
        "maxItems": 2,
    }
}


class Message(msgspec.Struct):
    role: str
    content: str


Messages = Annotated[
    list[Message], Meta(description="A query and a document, as two messages.", extra_json_schema=_MESSAGES)
]


def pair_of(messages: list[Message]) -> tuple[str, str, str | None]:
    """Query, document and instruction (a ``system`` message)."""
    found: dict[str, str] = {}
    for i, message in enumerate(messages):
        if message.role not in ROLES or message.role in found:
            fail(f"One message each of the roles {', '.join(ROLES)} is possible", ("messages", i, "role"))
        found[message.role] = message.content
    if not found.get("query", "").strip() or "document" not in found:
        fail("A message of the role query and one of the role document are needed", "messages")
    return found["query"], found["document"], found.get("system") or None


class PromptFields(Extensions, kw_only=True):
    """The fields that bodies with a prompt and bodies with messages have in common."""


class ClassifyBody(PromptFields, kw_only=True):
    """Whole prompts."""

    input: Prompts


class ClassifyMessagesBody(PromptFields, kw_only=True):
    """A pair."""

    messages: Messages


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
    choosable = False
    task = "prompts"
    paths: ClassVar[Mapping[str, str]] = {"/classify": "vLLM: probabilities of whole prompts."}
    body_keys = ("messages|input:string|input:array", "!query")
    precedence = 50
    text_paths = TextPaths(("input", ...), ("input", ...))
    request_type: ClassVar[Any] = (ClassifyBody, ClassifyMessagesBody)
    answer_type: ClassVar[Any] = ClassifyAnswer

    def body_type(self, keys: Keys) -> Any:
        with_input, with_messages = self.request_type
        has_input = keys.get("input", "null") != "null"
        return with_messages if keys.get("messages", "null") != "null" and not has_input else with_input

    def paths_of(self, body: Any) -> TextPaths:
        several = isinstance(body, ClassifyMessagesBody | PoolingMessagesBody)
        if several:
            return TextPaths(("messages",), ("messages",))
        one = isinstance(body.input, str) or isinstance(body.input[0], int | float)
        return TextPaths(("input",), ("input",) if one else ("input", ...))

    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        if not isinstance(body, ClassifyMessagesBody | PoolingMessagesBody):
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


class PoolingFields(PromptFields, kw_only=True):
    task: Literal["classify"] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class PoolingBody(PoolingFields, kw_only=True):
    """Whole prompts."""

    input: Prompts


class PoolingMessagesBody(PoolingFields, kw_only=True):
    """A pair."""

    messages: Messages


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
    paths: ClassVar[Mapping[str, str]] = {"/pooling": "vLLM: the same, as pooled data."}
    recognised_by = (*ClassifyDialect.body_keys, "task|encoding_format")
    precedence = 40
    request_type: ClassVar[Any] = (PoolingBody, PoolingMessagesBody)
    answer_type: ClassVar[Any] = PoolingAnswer

    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        return replace(super().to_call(body, view), memo=body.encoding_format)

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
