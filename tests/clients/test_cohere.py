"""The Cohere SDK, both generations of its API, blocking and not."""

from __future__ import annotations

import asyncio

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

cohere = pytest.importorskip("cohere", reason="the clients are installed by make test-clients")


@pytest.mark.client("cohere-v1")
def test_v1(engine: Engine) -> None:
    client = cohere.Client(api_key=KEY, base_url=engine.url)
    answer = client.rerank(model=engine.model, query=QUERY, documents=DOCUMENTS, top_n=3, return_documents=True)
    engine.check([(result.index, result.relevance_score) for result in answer.results], top_n=3)
    assert [result.document.text for result in answer.results] == [DOCUMENTS[result.index] for result in answer.results]
    assert answer.id
    assert answer.meta.billed_units.search_units == 1


@pytest.mark.client("cohere-v1")
def test_v1_objects_and_nulls(engine: Engine) -> None:
    client = cohere.Client(api_key=KEY, base_url=engine.url)
    answer = client.rerank(
        model=engine.model,
        query=QUERY,
        documents=[{"title": text, "number": i} for i, text in enumerate(DOCUMENTS)],
        rank_fields=["title"],
        top_n=None,
        max_chunks_per_doc=None,
        return_documents=None,
    )
    assert len(answer.results) == len(DOCUMENTS)
    assert answer.results[0].index == 2


@pytest.mark.client("cohere-v1")
def test_v1_errors(engine: Engine) -> None:
    client = cohere.Client(api_key=KEY, base_url=engine.url)
    with pytest.raises(cohere.NotFoundError, match="does not exist"):
        client.rerank(model="no-such-model", query=QUERY, documents=DOCUMENTS)
    with pytest.raises(cohere.BadRequestError, match="must not be empty"):
        client.rerank(model=engine.model, query=" ", documents=DOCUMENTS)
    with pytest.raises(cohere.UnauthorizedError):
        cohere.Client(api_key="wrong", base_url=engine.url).rerank(query=QUERY, documents=DOCUMENTS)


@pytest.mark.client("cohere-v2")
def test_v2(engine: Engine) -> None:
    client = cohere.ClientV2(api_key=KEY, base_url=engine.url)
    answer = client.rerank(model=engine.model, query=QUERY, documents=DOCUMENTS, max_tokens_per_doc=512, priority=0)
    engine.check([(result.index, result.relevance_score) for result in answer.results])
    nulls = client.rerank(model=engine.model, query=QUERY, documents=DOCUMENTS, top_n=None, max_tokens_per_doc=None)
    engine.check([(result.index, result.relevance_score) for result in nulls.results])


@pytest.mark.client("cohere-v2")
def test_v2_without_blocking(engine: Engine) -> None:
    async def rank() -> list[tuple[int, float]]:
        async with cohere.AsyncClientV2(api_key=KEY, base_url=engine.url) as client:
            answer = await client.rerank(model=engine.model, query=QUERY, documents=DOCUMENTS, top_n=2)
            return [(result.index, result.relevance_score) for result in answer.results]

    engine.check(asyncio.run(rank()), top_n=2)
