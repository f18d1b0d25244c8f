"""vLLM's score: two sides, 1:1, 1:N or N:N, answered in input order. Four spellings of the two sides are in use."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

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
from engine.entrypoints.serve.dialects.fields import Bool, Documents, as_bool, as_documents, fail
from engine.request import RerankCall

SIDES = (("data_1", "data_2"), ("queries", "documents"), ("queries", "items"), ("text_1", "text_2"))


class ScoreBody(Extensions, kw_only=True):
    """Two sides, in one of four spellings."""

    data_1: Documents | None = None
    data_2: Documents | None = None
    text_1: Documents | None = None
    text_2: Documents | None = None
    queries: Documents | None = None
    documents: Documents | None = None
    items: Documents | None = None
    raw_scores: Bool = None


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
    request_type: ClassVar[Any] = ScoreBody
    answer_type: ClassVar[Any] = ScoreAnswer

    def call(self, body: ScoreBody, view: RequestView) -> RerankCall:
        first, second = sides_of(body)
        queries, documents = as_documents(getattr(body, first), first), as_documents(getattr(body, second), second)
        for i, text in enumerate(queries.texts):
            if not text.strip():
                fail("The query must not be empty", self.names_of(body).query.format(i))
        if len(queries.texts) not in (1, len(documents.texts)):
            lengths = f"got {len(queries.texts)}:{len(documents.texts)}"
            fail(f"Input lengths must be either 1:1, 1:N or N:N, {lengths}", second)
        return call_of(
            body,
            view,
            queries=queries.texts,
            documents=documents,
            raw_scores=as_bool(body.raw_scores, "raw_scores", default=False),
        )

    def names_of(self, body: ScoreBody) -> FieldNames:
        first, second = (f"{side}[{{}}]" if isinstance(getattr(body, side), list) else side for side in sides_of(body))
        return FieldNames(first, second)

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
        return ScoreEntry(index=pair.index, score=pair.score, truncated=True if pair.truncated else UNSET)


def sides_of(body: ScoreBody) -> tuple[str, str]:
    """The names of the two sides."""
    given = {name for pair in SIDES for name in pair if getattr(body, name) is not None}
    sides = next((pair for pair in SIDES if given == set(pair)), None)
    if sides is None:
        missing = next((b if a in given else a for a, b in SIDES if (a in given) != (b in given)), "data_1")
        spellings = ", ".join("/".join(pair) for pair in SIDES)
        fail(f"Two sides are needed, as one of {spellings}; found {', '.join(sorted(given)) or 'none'}", missing)
    return sides
