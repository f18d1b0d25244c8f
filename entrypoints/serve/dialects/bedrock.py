"""Amazon Bedrock's Rerank, as boto3 and the AI SDK send it: everything is wrapped in objects that say their type."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.field_schemas import DOCUMENT_OBJECTS, EXACT
from engine.entrypoints.serve.dialects.fields import Count, Text, as_count, as_documents, as_query, fail
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

ERROR_TYPES = {
    400: "ValidationException",
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ThrottlingException",
}
CONFIGURATION = ("rerankingConfiguration", "bedrockRerankingConfiguration")


_INLINE = {
    EXACT: {
        "type": "object",
        "properties": {"type": {"enum": ["TEXT", "JSON", None]}},
        "anyOf": [
            {
                "required": ["textDocument"],
                "properties": {
                    "textDocument": {
                        "type": "object",
                        "required": ["text"],
                        "properties": {"text": {"type": "string"}},
                    },
                    "jsonDocument": {"type": "null"},
                },
            },
            {
                "required": ["jsonDocument"],
                "properties": {"jsonDocument": {"anyOf": [*DOCUMENT_OBJECTS]}, "textDocument": {"type": "null"}},
            },
        ],
    }
}


class BedrockText(msgspec.Struct):
    text: Text


class BedrockQuery(msgspec.Struct):
    text_query: BedrockText = field(name="textQuery")
    type: Literal["TEXT"] = "TEXT"


class BedrockDocumentText(msgspec.Struct):
    text: str


class BedrockInline(msgspec.Struct):
    text_document: BedrockDocumentText | None = field(name="textDocument", default=None)
    json_document: dict[str, Any] | None = field(name="jsonDocument", default=None)
    type: Literal["TEXT", "JSON"] | None = None


class BedrockSource(msgspec.Struct):
    inline: Annotated[BedrockInline, Meta(extra_json_schema=_INLINE)] = field(name="inlineDocumentSource")
    type: Literal["INLINE"] = "INLINE"


class BedrockModel(msgspec.Struct):
    arn: str = field(name="modelArn")
    """The part behind the last slash is a name of /v1/models."""


class BedrockConfiguration(msgspec.Struct):
    model: BedrockModel | None = field(name="modelConfiguration", default=None)
    top_n: Count = field(name="numberOfResults", default=None)


class BedrockReranking(msgspec.Struct):
    bedrock: BedrockConfiguration = field(name="bedrockRerankingConfiguration")
    type: Literal["BEDROCK_RERANKING_MODEL"] = "BEDROCK_RERANKING_MODEL"


class BedrockBody(Extensions, kw_only=True):
    queries: Annotated[list[BedrockQuery], Meta(min_length=1, max_length=1)]
    sources: Annotated[list[BedrockSource], Meta(min_length=1)]
    reranking: BedrockReranking | None = field(name="rerankingConfiguration", default=None)


class BedrockEntry(msgspec.Struct, kw_only=True):
    index: int
    score: float = field(name="relevanceScore")
    document: dict[str, Any] | UnsetType = UNSET


class BedrockAnswer(PartialAnswer, kw_only=True):
    results: list[BedrockEntry]


class BedrockDialect(Dialect):
    name = "bedrock"
    title = "Amazon Bedrock"
    body_keys = ("queries", "sources")
    precedence = 25
    probabilities = True
    text_paths = TextPaths(
        ("queries", 0, "textQuery", "text"), ("sources", ..., "inlineDocumentSource", "textDocument", "text")
    )
    request_type: ClassVar[Any] = BedrockBody
    answer_type: ClassVar[Any] = BedrockAnswer

    def to_call(self, body: BedrockBody, view: RequestView) -> RerankCall:
        wanted = body.reranking.bedrock if body.reranking else BedrockConfiguration()
        call = call_of(
            body,
            view,
            queries=[as_query(body.queries[0].text_query.text, ("queries", 0, "textQuery", "text"))],
            documents=as_documents([_document(source, i) for i, source in enumerate(body.sources)], "sources"),
            top_n=as_count(wanted.top_n, (*CONFIGURATION, "numberOfResults")),
        )
        return call if wanted.model is None or call.model else replace(call, model=wanted.model.arn.rpartition("/")[2])

    def render(self, result: CallResult) -> Any:
        results = [self.render_pair(pair, result.call) for pair in result.pairs]
        return BedrockAnswer(results=results, **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return BedrockEntry(index=pair.index, score=pair.score)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"__type": ERROR_TYPES.get(error.status, "InternalServerException"), "message": str(error)}


def _document(source: BedrockSource, number: int) -> str | dict[str, Any]:
    """The text, or an object that is read as text like Cohere's."""
    inline = source.inline
    if (inline.text_document is None) == (inline.json_document is None):
        fail("Either textDocument or jsonDocument is needed", ("sources", number, "inlineDocumentSource"))
    return inline.text_document.text if inline.text_document is not None else inline.json_document or {}
