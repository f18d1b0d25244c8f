"""``/v1/embeddings`` in OpenAI's form: the vectors that a bi-encoder compares when it scores pairs.

``input_type`` (Cohere's and NVIDIA's word) puts the model's prompt for queries or for documents before each text;
without it none is put. ``encoding_format: base64`` gives little-endian float32, as OpenAI's SDKs ask for.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from fastapi import Request
from msgspec import Meta
from starlette.responses import Response

from engine.entrypoints.serve.counted import counted
from engine.entrypoints.serve.embedding_call import Side, embed
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.streaming import while_connected
from engine.errors import InvalidRequestError
from engine.request import PairOptions

NAME = "embeddings"
SIDES: dict[str, Side] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}


class EmbeddingBody(msgspec.Struct, kw_only=True):
    input: Annotated[str | list[str], Meta(description="One text or several.")]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Meta(description="The model's own number; vectors are not shortened.")] = None
    input_type: Annotated[
        Literal["query", "search_query", "document", "passage", "search_document"] | None,
        Meta(description="Which prompt of the model is put before each text; absent: none."),
    ] = None
    truncate_prompt_tokens: Annotated[int | None, Meta(description="Cut texts to this; -1: the model's length.")] = None
    truncate: Annotated[bool | None, Meta(description="false: a text that is too long is an error.")] = None


class Embedding(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(msgspec.Struct):
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


class EmbeddingRoutes:
    """The handler of both paths."""

    def __init__(self, service: RerankService) -> None:
        self._service = service

    async def embed(self, request: Request) -> Response:
        """Vectors in input order; if one text cannot be read, the call fails with its place."""
        return await counted(self._service, request, NAME, self._embed(request))

    async def _embed(self, request: Request) -> EmbeddingAnswer:
        check_media_type(request.headers)
        try:
            body = msgspec.json.decode(await request.body(), type=EmbeddingBody)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequestError(f"The body asks for no embeddings: {error}.") from error
        texts = [body.input] if isinstance(body.input, str) else body.input
        most = self._service.config.max_documents
        if not texts or len(texts) > most:
            raise InvalidRequestError(f"input has {len(texts)} texts; possible are 1 to {most}.", param="input")
        truncate = self._service.config.auto_truncate if body.truncate is None else body.truncate
        limit = None if body.truncate_prompt_tokens == -1 else body.truncate_prompt_tokens
        options = PairOptions(truncate=truncate, truncate_prompt_tokens=limit)
        side = None if body.input_type is None else SIDES[body.input_type]
        caller = getattr(request.state, "caller", "") or (request.client.host if request.client else "")
        work = embed(
            self._service,
            texts,
            side=side,
            options=options,
            model=body.model or None,
            caller=caller,
            request_id=request.state.request_id,
        )
        result = await while_connected(work, request.receive, self._service.cut_off)
        _check_dimensions(body.dimensions, result.vectors)
        as_text = body.encoding_format == "base64"
        data = [Embedding(index, _written(vector, as_text)) for index, vector in enumerate(result.vectors)]
        return EmbeddingAnswer(data, result.model, EmbeddingUsage(result.prompt_tokens, result.prompt_tokens))


def _check_dimensions(asked: int | None, vectors: list[np.ndarray]) -> None:
    if asked is not None and asked != len(vectors[0]):
        raise InvalidRequestError(
            f"dimensions is {asked}, and this model's vectors have {len(vectors[0])} numbers: they are not shortened.",
            param="dimensions",
        )


def _written(vector: np.ndarray, as_text: bool) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector.tolist()
