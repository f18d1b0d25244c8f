"""What every body may say beside the fields of its dialect, and the one way from fields to a ``RerankCall``.

Most of these names are vLLM's. They are the same in every dialect, so that a caller never loses a feature to the shape
of an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.entrypoints.serve.dialects.base import RequestView
from engine.entrypoints.serve.dialects.fields import (
    Bool,
    ChunkSize,
    Count,
    Cut,
    CutTo,
    DocumentList,
    Positive,
    Priority,
    as_bool,
    as_cut,
    as_int,
    fail,
)
from engine.inputs.spans import MIN_CHUNK_TOKENS
from engine.request import ChunkOptions, Content, PairOptions, RerankCall

TEMPLATE_KEYS = ("chat_template", "tools", "tokenize")
_KWARGS_SCHEMA = {
    "x-exact": {
        "type": ["object", "null"],
        "properties": {
            "instruction": {"type": ["string", "null"]},
            "instruct": {"type": ["string", "null"]},
            **dict.fromkeys(TEMPLATE_KEYS, False),
        },
    }
}


class Extensions(msgspec.Struct, kw_only=True):
    """Fields that every dialect accepts."""

    model: Annotated[str | None, Meta(description="A name of /v1/models; absent or empty: the first one.")] = None
    instruction: Annotated[str | None, Meta(description="What counts as relevant, in words.")] = None
    instruct: Annotated[str | None, Meta(description="SGLang's name of instruction.")] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None,
        Meta(description="vLLM's place for an instruction; it wins.", extra_json_schema=_KWARGS_SCHEMA),
    ] = None
    truncate: Annotated[Cut, Meta(description="false: an over-long pair is an error instead of being cut.")] = None
    truncate_prompt_tokens: Annotated[CutTo, Meta(description="Cut whole pairs to this; -1: the model's limit.")] = None
    truncation_side: Annotated[Literal["left", "right"] | None, Meta(description="Which end of a document is cut.")] = (
        None
    )
    max_tokens_per_doc: Annotated[Count, Meta(description="Cut each document to this before anything else.")] = None
    max_tokens_per_query: Annotated[Count, Meta(description="Cut the query to this.")] = None
    long_document: Annotated[
        Literal["truncate", "chunk"] | None,
        Meta(description="chunk: an over-long document is read in overlapping chunks, the best of which counts."),
    ] = None
    chunk_tokens: Annotated[ChunkSize, Meta(description="Tokens of a chunk; absent: what the model reads at once.")] = (
        None
    )
    chunk_overlap: Annotated[Count, Meta(description="Tokens that neighbours share, at most half a chunk.")] = None
    max_chunks_per_doc: Annotated[Count, Meta(description="Most chunks of a document; asks for chunks.")] = None
    use_activation: Annotated[Bool, Meta(description="false: logits instead of scores.")] = None
    min_score: Annotated[float | None, Meta(description="Leave out what scores less.")] = None
    timeout_ms: Annotated[
        Positive, Meta(description="Answer after this time with what is scored: partial, unscored.")
    ] = None
    priority: Annotated[Priority, Meta(description="Lower runs earlier.")] = None
    stream: Annotated[Bool, Meta(description="Send each score as it is there (server-sent events).")] = None
    request_id: Annotated[str | None, Meta(description="Id of the answer; the header X-Request-Id wins.")] = None
    cache_salt: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1024)] | None,
        Meta(description="Share nothing that is kept with other salts."),
    ] = None
    padding: Annotated[
        Literal["max_length", "do_not_pad"] | None, Meta(description="Nothing is ever padded here; no effect.")
    ] = None
    user: Annotated[str | None, Meta(description="Kept nowhere.")] = None


def instruction_of(body: Extensions) -> str | None:
    """The instruction of a body, in vLLM's order: the one inside ``chat_template_kwargs`` wins.

    Raises ``InvalidRequestError`` for a template, which never comes from a client.
    """
    inside = body.chat_template_kwargs or {}
    for key in TEMPLATE_KEYS:
        if key in inside:
            fail("Templates are set when the server starts, not by a call", ("chat_template_kwargs", key))
    for key in ("instruction", "instruct"):
        if inside.get(key) is not None and not isinstance(inside[key], str):
            fail("Expected a text", ("chat_template_kwargs", key))
    return inside.get("instruction") or body.instruction or inside.get("instruct") or body.instruct or None


def pair_options(body: Extensions, view: RequestView) -> PairOptions:
    """How the pairs of a body are built and cut. Raises ``InvalidRequestError``."""
    cut_to = as_int(body.truncate_prompt_tokens, "truncate_prompt_tokens", minimum=-1)
    if cut_to == 0:
        fail("Expected -1 (the model's limit) or a positive number, got 0", "truncate_prompt_tokens")
    cut = view.auto_truncate if body.truncate is None else as_cut(body.truncate, "truncate")
    return PairOptions(
        instruction=instruction_of(body),
        truncate=bool(cut),
        max_tokens_per_doc=as_int(body.max_tokens_per_doc, "max_tokens_per_doc") or 0,
        max_tokens_per_query=as_int(body.max_tokens_per_query, "max_tokens_per_query") or 0,
        truncate_prompt_tokens=None if cut_to == -1 else cut_to,
        truncation_side="left" if cut == "left" else body.truncation_side or "right",
    )


def chunk_options(body: Extensions, *, default: ChunkOptions | None = None) -> ChunkOptions | None:
    """How long documents of a body are read. ``default`` is that of a dialect that reads them in chunks unasked.

    Raises ``InvalidRequestError``.
    """
    most = as_int(body.max_chunks_per_doc, "max_chunks_per_doc") or 0
    tokens = as_int(body.chunk_tokens, "chunk_tokens", minimum=MIN_CHUNK_TOKENS)
    overlap = as_int(body.chunk_overlap, "chunk_overlap")
    return ChunkOptions.wanted(body.long_document, tokens=tokens, overlap=overlap, most=most, default=default)


def _timeout_s(body: Extensions) -> float | None:
    timeout_ms = as_int(body.timeout_ms, "timeout_ms", minimum=1)
    return None if timeout_ms is None else timeout_ms / 1000


def _hashed(salt: str | None) -> str:
    return hashlib.sha256(salt.encode()).hexdigest()[:16] if salt else ""


def _query_fields(queries: Sequence[str | Content]) -> dict[str, Any]:
    """The fields of a call that its queries become."""
    contents = [Content(query, ()) if isinstance(query, str) else query for query in queries]
    images = [content.images for content in contents]
    return {"queries": [content.text for content in contents], "query_images": images if any(images) else None}


def call_of(
    body: Extensions,
    view: RequestView,
    *,
    queries: Sequence[str | Content],
    documents: list[str] | DocumentList,
    top_n: int | None = None,
    return_documents: bool = False,
    raw_scores: bool = False,
    every_query: bool = False,
    prompts: list[str | list[int]] | None = None,
    **pair: Any,
) -> RerankCall:
    """The call of a body of any dialect; ``pair`` are fields of ``PairOptions`` that the dialect has another name for.

    Raises ``InvalidRequestError`` about the field that is wrong.
    """
    documents = DocumentList(documents, None, None) if isinstance(documents, list) else documents
    raw_scores = raw_scores or not as_bool(body.use_activation, "use_activation", default=True)
    return RerankCall(
        **_query_fields(queries),
        documents=documents.texts,
        document_images=documents.images,
        instructions=documents.instructions,
        sources=documents.sources,
        every_query=every_query,
        prompts=prompts,
        model=body.model,
        options=replace(pair_options(body, view), **pair),
        chunks=chunk_options(body),
        top_n=top_n,
        min_score=body.min_score,
        raw_scores=raw_scores,
        return_documents=return_documents,
        priority=as_int(body.priority, "priority", minimum=-(2**31)) or 0,
        timeout_s=_timeout_s(body),
        stream=as_bool(body.stream, "stream", default=False),
        caller=view.caller,
        cache_salt=_hashed(body.cache_salt),
    )
