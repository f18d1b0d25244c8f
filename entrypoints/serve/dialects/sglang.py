"""SGLang's rerank: the common body, answered with a bare list. Its guide's body cannot be told from Jina's, so this
dialect is chosen by ``--dialect sglang``, a header or a query parameter."""

from __future__ import annotations

from typing import Any

from engine.entrypoints.collect import PairScore
from engine.entrypoints.serve.dialects.base import CallResult
from engine.entrypoints.serve.dialects.fields import as_bool
from engine.entrypoints.serve.dialects.rerank import RerankBody, RerankDialect
from engine.errors import EngineError
from engine.request import RerankCall


class SglangDialect(RerankDialect):
    name = "sglang"

    def _returns_documents(self, fields: RerankBody) -> bool:
        return as_bool(fields.return_documents, "return_documents", default=False)

    def render(self, result: CallResult) -> Any:
        return [self.render_pair(pair, result.call) for pair in result.pairs]

    def render_pair(self, pair: PairScore, call: RerankCall) -> dict[str, Any]:
        entry: dict[str, Any] = {"score": pair.score, "index": pair.index}
        if call.return_documents:
            entry["document"] = call.documents[pair.index]
        return entry

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return {
            "object": "error",
            "message": str(error),
            "type": error.type,
            "param": error.param,
            "code": error.status,
            "request_id": request_id,
        }
