"""isaacus: ``texts`` like TEI, on a route of its own, answered with an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import (
    ChunkSize,
    Count,
    Documents,
    Query,
    as_count,
    as_documents,
    as_int,
    as_query,
)
from engine.inputs.spans import MIN_CHUNK_TOKENS
from engine.request import ChunkOptions, RerankCall
from engine.scoring.result_assembler import PairScore


class IsaacusChunking(msgspec.Struct):
    """How texts are cut into chunks; the best one counts."""

    size: ChunkSize = None
    overlap_ratio: Annotated[float, Meta(ge=0, lt=1)] | None = None
    overlap_tokens: Count = None


class IsaacusBody(Extensions, kw_only=True):
    query: Query
    texts: Documents
    top_n: Count = None
    scoring_method: Literal["auto", "chunk_max"] | None = None
    chunking_options: IsaacusChunking | None = None


class IsaacusEntry(msgspec.Struct):
    index: int
    score: float


class IsaacusAnswer(PartialAnswer, kw_only=True):
    results: list[IsaacusEntry]
    usage: dict[str, int]


class IsaacusDialect(Dialect):
    name = "isaacus"
    title = "isaacus"
    probabilities = True
    paths: ClassVar[Mapping[str, str]] = {"/v1/rerankings": "isaacus' path."}
    body_keys = ("texts",)
    text_paths = TextPaths(("query",), ("texts", ...))
    request_type: ClassVar[Any] = IsaacusBody
    answer_type: ClassVar[Any] = IsaacusAnswer

    def to_call(self, body: IsaacusBody, view: RequestView) -> RerankCall:
        call = call_of(
            body,
            view,
            queries=[as_query(body.query)],
            documents=as_documents(body.texts, "texts"),
            top_n=as_count(body.top_n, "top_n"),
        )
        wanted = body.chunking_options
        if wanted is None or call.chunks is not None:
            return call
        size = as_int(wanted.size, ("chunking_options", "size"), minimum=MIN_CHUNK_TOKENS)
        overlap = as_int(wanted.overlap_tokens, ("chunking_options", "overlap_tokens"))
        if overlap is None and wanted.overlap_ratio is not None and size is not None:
            overlap = int(size * wanted.overlap_ratio)
        return replace(call, chunks=ChunkOptions(tokens=size, overlap=overlap))

    def render(self, result: CallResult) -> Any:
        results = [self.render_pair(pair, result.call) for pair in result.pairs]
        return IsaacusAnswer(results=results, usage={"input_tokens": result.prompt_tokens}, **partial_of(result))

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        return IsaacusEntry(pair.index, pair.score)
