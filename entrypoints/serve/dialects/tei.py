"""Hugging Face text-embeddings-inference: ``query`` and ``texts`` in, a bare list of ``{index, score}`` out."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.entrypoints.collect import PairScore
from engine.entrypoints.serve.dialects.base import CallResult, Dialect, ParsedCall, RequestView
from engine.entrypoints.serve.dialects.fields import Bool, as_bool, as_documents, as_query, fail, read
from engine.entrypoints.serve.dialects.rerank import unknown_fields
from engine.errors import EngineError
from engine.request import PairOptions, RerankCall

ERROR_TYPES = {400: "Validation", 413: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


class TeiBody(msgspec.Struct, kw_only=True):
    query: str
    texts: list[str]
    truncate: Bool = None
    truncation_direction: str | None = None
    raw_scores: Bool = None
    return_text: Bool = None
    instruction: str | None = None
    model: str | None = None
    stream: Bool = None


class TeiDialect(Dialect):
    name = "tei"
    request_type = TeiBody

    def parse(self, body: bytes, keys: frozenset[str], view: RequestView) -> ParsedCall:
        fields = read(body, TeiBody)
        side = (fields.truncation_direction or "right").lower()
        if side not in ("left", "right"):
            fail(f"Expected 'Left' or 'Right', got {fields.truncation_direction!r}", "truncation_direction")
        call = RerankCall(
            queries=[as_query(fields.query)],
            documents=as_documents(list(fields.texts), "texts"),
            model=fields.model,
            options=PairOptions(
                instruction=fields.instruction or None,
                truncate=as_bool(fields.truncate, "truncate", default=True),
                truncation_side="left" if side == "left" else "right",
            ),
            raw_scores=as_bool(fields.raw_scores, "raw_scores", default=False),
            return_documents=as_bool(fields.return_text, "return_text", default=False),
            stream=as_bool(fields.stream, "stream", default=False),
            caller=view.caller,
        )
        return ParsedCall(call, unknown_fields(keys, TeiBody))

    def render(self, result: CallResult) -> Any:
        return [self.render_pair(pair, result.call) for pair in result.pairs]

    def render_pair(self, pair: PairScore, call: RerankCall) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": pair.index, "score": pair.score}
        if call.return_documents:
            entry["text"] = call.documents[pair.index]
        return entry

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {"error": str(error), "error_type": ERROR_TYPES.get(error.status, "Backend")}

    def headers(self, result: CallResult) -> dict[str, str]:
        characters = sum(map(len, result.call.documents)) + sum(map(len, result.call.queries))
        return {
            "x-compute-type": "engine",
            "x-compute-time": str(round(1000 * result.total_s)),
            "x-compute-characters": str(characters),
            "x-compute-tokens": str(result.prompt_tokens),
            "x-total-time": str(round(1000 * result.total_s)),
            "x-tokenization-time": str(round(1000 * result.encode_s)),
            "x-queue-time": str(round(1000 * result.queue_s)),
            "x-inference-time": str(round(1000 * result.compute_s)),
        }
