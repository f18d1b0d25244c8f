"""The Voyage SDK."""

from __future__ import annotations

import asyncio

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

voyageai = pytest.importorskip("voyageai", reason="the clients are installed by make test-clients")


@pytest.mark.client("voyage")
@pytest.mark.parametrize("top_k", [None, 2])
def test_rerank(engine: Engine, top_k: int | None) -> None:
    client = voyageai.Client(api_key=KEY, base_url=f"{engine.url}/v1")
    answer = client.rerank(QUERY, DOCUMENTS, model=engine.model, top_k=top_k, truncation=True)
    engine.check([(result.index, result.relevance_score) for result in answer.results], top_n=top_k)
    assert [result.document for result in answer.results] == [DOCUMENTS[result.index] for result in answer.results]
    assert answer.total_tokens > 0


@pytest.mark.client("voyage")
def test_errors(engine: Engine) -> None:
    client = voyageai.Client(api_key=KEY, base_url=f"{engine.url}/v1")
    with pytest.raises(voyageai.error.InvalidRequestError, match="must not be empty"):
        client.rerank(" ", DOCUMENTS, model=engine.model)
    with pytest.raises(voyageai.error.VoyageError, match="does not exist"):
        client.rerank(QUERY, DOCUMENTS, model="no-such-model")


@pytest.mark.client("voyage")
def test_without_blocking(engine: Engine) -> None:
    async def rank() -> list[tuple[int, float]]:
        client = voyageai.AsyncClient(api_key=KEY, base_url=f"{engine.url}/v1")
        answer = await client.rerank(QUERY, DOCUMENTS, model=engine.model)
        return [(result.index, result.relevance_score) for result in answer.results]

    engine.check(asyncio.run(rank()))
