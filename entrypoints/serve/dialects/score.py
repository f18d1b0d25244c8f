"""vLLM's score: two sides, 1:1, 1:N or N:N, answered in input order. Four spellings of the two sides are in use."""

from __future__ import annotations

from typing import Any

from engine.entrypoints.collect import PairScore
from engine.entrypoints.serve.dialects.base import CallResult, Dialect, ParsedCall, RequestView
from engine.entrypoints.serve.dialects.fields import Documents, as_bool, as_documents, fail, read
from engine.entrypoints.serve.dialects.rerank import (
    PairFields,
    pair_options,
    priority_of,
    timeout_of,
    unknown_fields,
    usage_of,
    wants_raw_scores,
)
from engine.request import RerankCall

SIDES = (("data_1", "data_2"), ("queries", "documents"), ("queries", "items"), ("text_1", "text_2"))


class ScoreBody(PairFields, kw_only=True):
    data_1: Documents | None = None
    data_2: Documents | None = None
    text_1: Documents | None = None
    text_2: Documents | None = None
    queries: Documents | None = None
    documents: Documents | None = None
    items: Documents | None = None


class ScoreDialect(Dialect):
    name = "score"
    request_type = ScoreBody

    def parse(self, body: bytes, keys: frozenset[str], view: RequestView) -> ParsedCall:
        fields = read(body, ScoreBody)
        queries, documents = _two_sides(fields)
        call = RerankCall(
            queries=queries,
            documents=documents,
            model=fields.model,
            options=pair_options(fields),
            raw_scores=wants_raw_scores(fields),
            return_documents=False,
            priority=priority_of(fields),
            timeout_s=timeout_of(fields),
            stream=as_bool(fields.stream, "stream", default=False),
            caller=view.caller,
        )
        return ParsedCall(call, unknown_fields(keys, ScoreBody))

    def render(self, result: CallResult) -> Any:
        return {
            "id": f"score-{result.request_id}",
            "object": "list",
            "created": result.created,
            "model": result.model,
            "data": [self.render_pair(pair, result.call) for pair in result.in_order],
            "usage": {
                **usage_of(result),
                "completion_tokens": 0,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
        }

    def render_pair(self, pair: PairScore, call: RerankCall) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": pair.index, "object": "score", "score": pair.score}
        if pair.truncated:
            entry["truncated"] = True
        return entry


def _two_sides(fields: ScoreBody) -> tuple[list[str], list[str]]:
    given = {name for pair in SIDES for name in pair if getattr(fields, name) is not None}
    sides = next((pair for pair in SIDES if given == set(pair)), None)
    if sides is None:
        missing = next((b if a in given else a for a, b in SIDES if (a in given) != (b in given)), "data_1")
        spellings = ", ".join("/".join(pair) for pair in SIDES)
        fail(f"Two sides are needed, as one of {spellings}; found {', '.join(sorted(given)) or 'none'}", missing)
    first, second = (as_documents(getattr(fields, name), name) for name in sides)
    for i, text in enumerate(first):
        if not text.strip():
            fail(
                "The query must not be empty",
                f"{sides[0]}[{i}]" if isinstance(getattr(fields, sides[0]), list) else sides[0],
            )
    if len(first) not in (1, len(second)):
        fail(f"Input lengths must be either 1:1, 1:N or N:N, got {len(first)}:{len(second)}", sides[1])
    return first, second
