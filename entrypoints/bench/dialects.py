"""How each server wants to be asked, and how its answer is read. A dialect is data and two pure functions, no I/O.

An answer counts only when it is complete: one finite score for every document that was sent. A server that answers 200
with half of the scores is not fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.entrypoints.bench.call import BenchCall
from engine.errors import ConfigError


class BadAnswerError(Exception):
    """The server answered, but not with what was asked for."""


@dataclass(frozen=True)
class Answer:
    """The content of an answer: one score a document, and tokens where the server counts them."""

    scores: dict[int, float]
    num_tokens: int | None = None


@dataclass(frozen=True)
class Dialect:
    """One kind of server."""

    name: str
    endpoint: str
    build: Callable[[BenchCall, str], dict[str, Any]]
    """Call and model name -> JSON body."""
    results_key: str | None
    """Where the list of results is; None when the answer is the list."""
    score_key: str
    models_path: str | None
    """Where the server says which models it has."""
    streams: bool = False
    tokens_header: str | None = None

    def read(self, payload: Any, headers: Mapping[str, str], num_documents: int) -> Answer:
        """The answer, or ``BadAnswerError`` with what is wrong with it."""
        results = payload if self.results_key is None else _get(payload, self.results_key)
        if not isinstance(results, list):
            raise BadAnswerError(f"the answer has no list of results: {str(payload)[:200]}")
        scores: dict[int, float] = {}
        for result in results:
            index, score = _get(result, "index"), _get(result, self.score_key)
            if not isinstance(index, int) or not 0 <= index < num_documents or index in scores:
                raise BadAnswerError(f"a result has the index {index!r}, of {num_documents} documents")
            if not isinstance(score, int | float) or not math.isfinite(score):
                raise BadAnswerError(f"document {index} has the score {score!r}")
            scores[index] = float(score)
        if len(scores) != num_documents:
            raise BadAnswerError(f"{len(scores)} scores for {num_documents} documents")
        return Answer(scores, self._num_tokens(payload, headers))

    def _num_tokens(self, payload: Any, headers: Mapping[str, str]) -> int | None:
        if self.tokens_header is not None:
            value = headers.get(self.tokens_header, "")
            return int(value) if value.isdigit() else None
        usage = _get(payload, "usage")
        for key in ("prompt_tokens", "total_tokens"):
            value = _get(usage, key)
            if isinstance(value, int):
                return value
        return None


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _documents_body(call: BenchCall, model: str) -> dict[str, Any]:
    return {"model": model, "query": call.query, "documents": call.documents}


def _vllm_body(call: BenchCall, model: str) -> dict[str, Any]:
    body = {**_documents_body(call, model), "truncate_prompt_tokens": -1}
    return body if call.instruction is None else {**body, "instruction": call.instruction}


def _tei_body(call: BenchCall, model: str) -> dict[str, Any]:
    return {"query": call.query, "texts": call.documents, "truncate": True}


def _sglang_body(call: BenchCall, model: str) -> dict[str, Any]:
    body = {**_documents_body(call, model), "return_documents": False}
    return body if call.instruction is None else {**body, "instruct": call.instruction}


def _infinity_body(call: BenchCall, model: str) -> dict[str, Any]:
    return {**_documents_body(call, model), "return_documents": False}


V1, MODELS, RESULTS, SCORE = "/v1/rerank", "/v1/models", "results", "relevance_score"

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("rerank", V1, _vllm_body, RESULTS, SCORE, MODELS, streams=True),
        Dialect("vllm-rerank", V1, _vllm_body, RESULTS, SCORE, MODELS),
        Dialect("tei", "/rerank", _tei_body, None, "score", "/info", tokens_header="x-compute-tokens"),
        Dialect("sglang", V1, _sglang_body, None, "score", MODELS),
        Dialect("infinity", "/rerank", _infinity_body, RESULTS, SCORE, "/models"),
        Dialect("llamacpp", V1, _documents_body, RESULTS, SCORE, MODELS),
        Dialect("cohere", "/v2/rerank", _documents_body, RESULTS, SCORE, None),
    )
}


def dialect_named(name: str) -> Dialect:
    """The dialect of ``--backend``. Raises ``ConfigError``, which names those that there are."""
    if name not in DIALECTS:
        raise ConfigError(f"--backend {name!r} is not known; there are {', '.join(DIALECTS)}.")
    return DIALECTS[name]


def first_model(raw: bytes) -> tuple[str, str | None] | None:
    """(name, folder or hub id) of the first model in what ``models_path`` answers; None for anything else."""
    try:
        payload = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(payload, dict):
        return None
    if isinstance(payload.get("model_id"), str):
        return payload["model_id"], payload["model_id"]
    listed = payload.get("data")
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return None
    name, root = listed[0].get("id"), listed[0].get("root")
    return (name, root if isinstance(root, str) else name) if isinstance(name, str) else None
