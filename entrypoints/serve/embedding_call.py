"""A call for the vectors of texts: on its way through the server like any call, without pairs and ranking."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.entrypoints.serve.service import RerankService
from engine.errors import RequestError
from engine.request import PairOptions, RerankCall, all_encoded
from engine.scoring.vectors import Vectors

Side = Literal["query", "document"]
"""Which prompt of the model is put before a text."""


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """The vectors of a call's texts, in input order."""

    model: str
    vectors: list[np.ndarray]
    """(H,) float32 each."""
    prompt_tokens: int


async def embed(
    service: RerankService,
    texts: list[str],
    *,
    side: Side | None,
    options: PairOptions,
    model: str | None,
    caller: str,
    request_id: str,
) -> EmbeddingResult:
    """The vectors of texts by a bi-encoder, under the limits of any call.

    Raises what ``RerankService.run`` raises, and ``InvalidRequestError`` for a model that embeds no texts.
    """
    call = RerankCall(queries=[], documents=[], prompts=list(texts), options=options, model=model, caller=caller)
    async with service.admitted(call, request_id, shares=False) as admitted:
        encoded = await service.threads.run(admitted.engine.processor.encode_texts, texts, side, options)
        for number, one in enumerate(encoded):
            if isinstance(one, RequestError):
                raise one.at(("input", number))
        prompts = all_encoded(encoded)
        admitted.encoded(sum(prompt.num_tokens for prompt in prompts))
        vectors = Vectors(len(prompts))
        async with aclosing(admitted.outputs(prompts)) as outputs:
            async for output in outputs:
                vectors.add(output)
    if vectors.errors:
        raise vectors.errors[min(vectors.errors)]
    found = [vector for vector in vectors.vectors if vector is not None]
    return EmbeddingResult(admitted.chosen.name, found, admitted.num_tokens)
