"""Which dialect a request speaks: an explicit choice first, then the keys of the body, then the server's default.

Keys decide because gateways rewrite routes. Where two dialects send the same body (SGLang's and Jina's), only the
caller or the operator can know: ``?dialect=``, the header ``X-Rerank-Dialect`` or ``--dialect``.
"""

from __future__ import annotations

from engine.entrypoints.options import nearest
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.dialects.rerank import RerankDialect
from engine.entrypoints.serve.dialects.score import ScoreDialect
from engine.entrypoints.serve.dialects.sglang import SglangDialect
from engine.entrypoints.serve.dialects.tei import TeiDialect
from engine.errors import InvalidRequestError

RERANK = RerankDialect()
SCORE = ScoreDialect()
RERANK_DIALECTS: dict[str, Dialect] = {d.name: d for d in (RERANK, SglangDialect(), TeiDialect())}
SAME_ANSWER = {"vllm": "rerank", "cohere": "rerank", "jina": "rerank", "llamacpp": "rerank"}
"""Dialects that the common answer serves already, so that they can be named."""


def by_name(name: str) -> Dialect:
    dialect = RERANK_DIALECTS.get(SAME_ANSWER.get(name, name))
    if dialect is None:
        known = [*RERANK_DIALECTS, *SAME_ANSWER]
        raise InvalidRequestError(
            f"There is no dialect {name!r}; known are {', '.join(known)}.{nearest(name, known)}", param="dialect"
        )
    return dialect


def detect_rerank(keys: frozenset[str], chosen: str | None, default: str | None) -> Dialect:
    if chosen:
        return by_name(chosen)
    if "texts" in keys and "documents" not in keys:
        return RERANK_DIALECTS["tei"]
    return by_name(default) if default else RERANK
