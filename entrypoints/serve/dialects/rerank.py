"""The common rerank dialect: the object of vLLM, Cohere v1 and v2, Jina, Infinity and llama.cpp, in one superset.

Their requests differ in optional fields only, and their clients ignore what they do not know in an answer, so one
answer serves them all: ids, usage in both spellings, ``meta.billed_units`` for Cohere. A document that is not wanted
is absent, never null.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from engine.entrypoints.collect import PairScore
from engine.entrypoints.serve.dialects.base import CallResult, Dialect, ParsedCall, RequestView
from engine.entrypoints.serve.dialects.fields import (
    Bool,
    Documents,
    Int,
    as_bool,
    as_count,
    as_documents,
    as_int,
    as_query,
    fail,
    read,
)
from engine.request import PairOptions, RerankCall


class PairFields(msgspec.Struct, kw_only=True):
    """Fields that rerank and score bodies share."""

    model: str | None = None
    instruction: str | None = None
    instruct: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    truncate: Bool = None
    truncation: Bool = None
    truncate_prompt_tokens: Int = None
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_doc: Int = None
    max_doc_length: Int = None
    max_tokens_per_query: Int = None
    max_query_length: Int = None
    use_activation: Bool = None
    raw_scores: Bool = None
    priority: Int = None
    timeout_ms: Int = None
    stream: Bool = None
    request_id: str | None = None
    user: str | None = None


class RerankBody(PairFields, kw_only=True):
    query: str | dict[str, Any]
    documents: Documents
    top_n: Int = None
    min_score: float | None = None
    return_documents: Bool = None
    rank_fields: list[str] | None = None


def pair_options(body: PairFields) -> PairOptions:
    cut_to = as_int(body.truncate_prompt_tokens, "truncate_prompt_tokens", minimum=-1)
    if cut_to == 0:
        fail("Expected -1 (the model's limit) or a positive number, got 0", "truncate_prompt_tokens")
    truncate = body.truncate if body.truncate is not None else body.truncation
    doc_limit = as_int(body.max_tokens_per_doc, "max_tokens_per_doc") or as_int(body.max_doc_length, "max_doc_length")
    query_limit = as_int(body.max_tokens_per_query, "max_tokens_per_query") or as_int(
        body.max_query_length, "max_query_length"
    )
    return PairOptions(
        instruction=_instruction(body),
        truncate=as_bool(truncate, "truncate", default=True),
        max_tokens_per_doc=doc_limit or 0,
        max_tokens_per_query=query_limit or 0,
        truncate_prompt_tokens=None if cut_to == -1 else cut_to,
        truncation_side=body.truncation_side or "right",
    )


def _instruction(body: PairFields) -> str | None:
    """vLLM's order: the one inside ``chat_template_kwargs`` wins. Templates themselves never come from a client."""
    inside = body.chat_template_kwargs or {}
    for key in ("chat_template", "tools", "tokenize"):
        if key in inside:
            fail("Templates are set when the server starts, not by a call", f"chat_template_kwargs.{key}")
    wanted = inside.get("instruction") or body.instruction or inside.get("instruct") or body.instruct or None
    if wanted is not None and not isinstance(wanted, str):
        fail("Expected a text", "chat_template_kwargs.instruction")
    return wanted


def wants_raw_scores(body: PairFields) -> bool:
    use_activation = as_bool(body.use_activation, "use_activation", default=True)
    return as_bool(body.raw_scores, "raw_scores", default=False) or not use_activation


def timeout_of(body: PairFields) -> float | None:
    timeout_ms = as_int(body.timeout_ms, "timeout_ms", minimum=1)
    return None if timeout_ms is None else timeout_ms / 1000


def priority_of(body: PairFields) -> int:
    return as_int(body.priority, "priority", minimum=-(2**31)) or 0


def unknown_fields(keys: frozenset[str], type_: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(sorted(keys.difference(type_.__struct_encode_fields__)))


class RerankDialect(Dialect):
    name = "rerank"
    request_type = RerankBody

    def parse(self, body: bytes, keys: frozenset[str], view: RequestView) -> ParsedCall:
        fields = read(body, RerankBody)
        call = RerankCall(
            queries=[as_query(fields.query)],
            documents=as_documents(fields.documents, "documents", fields.rank_fields),
            model=fields.model,
            options=pair_options(fields),
            top_n=as_count(fields.top_n, "top_n"),
            min_score=fields.min_score,
            raw_scores=wants_raw_scores(fields),
            return_documents=self._returns_documents(fields),
            priority=priority_of(fields),
            timeout_s=timeout_of(fields),
            stream=as_bool(fields.stream, "stream", default=False),
            caller=view.caller,
        )
        return ParsedCall(call, unknown_fields(keys, RerankBody))

    def _returns_documents(self, fields: RerankBody) -> bool:
        return as_bool(fields.return_documents, "return_documents", default=True)

    def render(self, result: CallResult) -> Any:
        return {
            "id": f"rerank-{result.request_id}",
            "object": "list",
            "created": result.created,
            "model": result.model,
            "results": [self.render_pair(pair, result.call) for pair in result.pairs],
            "usage": usage_of(result),
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": search_units(result)}},
        }

    def render_pair(self, pair: PairScore, call: RerankCall) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": pair.index, "relevance_score": pair.score}
        if call.return_documents:
            entry["document"] = {"text": call.documents[pair.index], "multi_modal": None}
        if pair.truncated:
            entry["truncated"] = True
        return entry


def usage_of(result: CallResult) -> dict[str, int]:
    return {
        "prompt_tokens": result.prompt_tokens,
        "total_tokens": result.prompt_tokens,
        "truncated_documents": result.truncated_documents,
    }


def search_units(result: CallResult) -> int:
    """Cohere counts one unit for each hundred documents of a query."""
    return -(-result.call.num_pairs // 100)
