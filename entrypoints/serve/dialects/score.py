"""vLLM's score: two sides, 1:1, 1:N or N:N, answered in input order. Four spellings of the two sides are in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPath,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.body import Keys
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import Bool, Documents, QuerySide, as_bool, as_documents, as_queries, fail
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


class ScoreFields(Extensions, kw_only=True):
    raw_scores: Bool = None


class DataBody(ScoreFields, kw_only=True):
    """Today's names."""

    data_1: QuerySide
    data_2: Documents


class QueriesDocumentsBody(ScoreFields, kw_only=True):
    """Names for reranking."""

    queries: QuerySide
    documents: Documents


class QueriesItemsBody(ScoreFields, kw_only=True):
    """Names for anything else."""

    queries: QuerySide
    items: Documents


class TextBody(ScoreFields, kw_only=True):
    """Yesterday's names."""

    text_1: QuerySide
    text_2: Documents


BODIES: dict[tuple[str, str], type[ScoreFields]] = {
    ("data_1", "data_2"): DataBody,
    ("queries", "documents"): QueriesDocumentsBody,
    ("queries", "items"): QueriesItemsBody,
    ("text_1", "text_2"): TextBody,
}


class ScoreUsage(msgspec.Struct):
    """OpenAI's usage, in full."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None
    completion_tokens_details: None = None


class ScoreEntry(msgspec.Struct, kw_only=True):
    index: int
    object: str = "score"
    score: float
    truncated: bool | UnsetType = UNSET
    unfamiliar: bool | UnsetType = UNSET


class ScoreAnswer(PartialAnswer, kw_only=True):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[ScoreEntry]
    usage: ScoreUsage


class ScoreDialect(Dialect):
    name = "score"
    title = "vLLM score"
    choosable = False
    task = "score"
    paths: ClassVar[Mapping[str, str]] = {
        "/v1/score": "Score pairs: 1:1, 1:N or N:N, in input order.",
        "/score": "The same.",
    }
    body_keys = ("text_1|text_2|data_1|data_2|queries|items",)
    precedence = 30
    text_paths = TextPaths(("data_1",), ("data_2", ...))
    request_type: ClassVar[Any] = tuple(BODIES.values())
    answer_type: ClassVar[Any] = ScoreAnswer

    def body_type(self, keys: Keys) -> Any:
        given = {name for sides in BODIES for name in sides if keys.get(name, "null") != "null"}
        found = next((body for sides, body in BODIES.items() if given == set(sides)), None)
        if found is None:
            missing = next((b if a in given else a for a, b in BODIES if (a in given) != (b in given)), "data_1")
            spellings = ", ".join("/".join(sides) for sides in BODIES)
            fail(f"Two sides are needed, as one of {spellings}; found {', '.join(sorted(given)) or 'none'}", missing)
        return found

    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        first, second = sides_of(body)
        queries, documents = as_queries(getattr(body, first), first), as_documents(getattr(body, second), second)
        if len(queries) not in (1, len(documents.texts)):
            lengths = f"got {len(queries)}:{len(documents.texts)}"
            fail(f"Input lengths must be either 1:1, 1:N or N:N, {lengths}", second)
        raw_scores = as_bool(body.raw_scores, "raw_scores", default=False)
        return call_of(body, view, queries=queries, documents=documents, raw_scores=raw_scores)

    def paths_of(self, body: Any) -> TextPaths:
        first, second = sides_of(body)
        query: TextPath = (first, ...) if isinstance(getattr(body, first), list) else (first,)
        return TextPaths(query, (second, ...) if isinstance(getattr(body, second), list) else (second,))

    def render(self, result: CallResult) -> Any:
        return ScoreAnswer(
            id=f"score-{result.request_id}",
            created=result.created,
            model=result.model,
            data=[self.render_pair(pair, result.call) for pair in result.in_order],
            usage=ScoreUsage(result.prompt_tokens, result.prompt_tokens),
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return ScoreEntry(
            index=pair.index,
            score=pair.score,
            truncated=True if pair.truncated else UNSET,
            unfamiliar=True if pair.unfamiliar else UNSET,
        )


def sides_of(body: ScoreFields) -> tuple[str, str]:
    """The names of the two sides."""
    return next(sides for sides, type_ in BODIES.items() if isinstance(body, type_))
