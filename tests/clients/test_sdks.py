"""The SDKs of services whose form is told by body, path or header."""

from __future__ import annotations

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

REASON = "the clients are installed by make test-clients"


@pytest.mark.client("dashscope")
def test_dashscope(engine: Engine) -> None:
    dashscope = pytest.importorskip("dashscope", reason=REASON)
    dashscope.base_http_api_url = f"{engine.url}/api/v1"
    answer = dashscope.TextReRank.call(
        model=engine.model, query=QUERY, documents=DOCUMENTS, top_n=3, return_documents=True, api_key=KEY
    )
    assert answer.status_code == 200, answer
    engine.check([(result.index, result.relevance_score) for result in answer.output.results], top_n=3)
    assert answer.output.results[0]["document"]["text"] == DOCUMENTS[2]
    assert answer.usage.total_tokens > 0
    wrong = dashscope.TextReRank.call(model="no-such-model", query=QUERY, documents=DOCUMENTS, api_key=KEY)
    assert (wrong.status_code, wrong.code) == (404, "ModelNotFound")
    assert "does not exist" in wrong.message


@pytest.mark.client("mixedbread")
def test_mixedbread(engine: Engine) -> None:
    mixedbread = pytest.importorskip("mixedbread", reason=REASON)
    client = mixedbread.Mixedbread(api_key=KEY, base_url=engine.url)
    answer = client.rerank(model=engine.model, query=QUERY, input=DOCUMENTS, top_k=3, return_input=True)
    engine.check([(entry.index, entry.score) for entry in answer.data], top_n=3)
    assert [entry.input for entry in answer.data] == [DOCUMENTS[entry.index] for entry in answer.data]
    assert (answer.top_k, answer.return_input) == (3, True)


@pytest.mark.client("pinecone")
def test_pinecone(engine: Engine) -> None:
    pinecone = pytest.importorskip("pinecone", reason=REASON)
    client = pinecone.Pinecone(api_key=KEY, host=engine.url)
    documents = [{"id": str(i), "text": text} for i, text in enumerate(DOCUMENTS)]
    answer = client.inference.rerank(model=engine.model, query=QUERY, documents=documents, top_n=3)
    engine.check([(entry.index, entry.score) for entry in answer.data], top_n=3)
    assert answer.data[0].document == documents[2]
    assert answer.usage.rerank_units == 1


@pytest.mark.client("isaacus")
def test_isaacus(engine: Engine) -> None:
    isaacus = pytest.importorskip("isaacus", reason=REASON)
    client = isaacus.Isaacus(api_key=KEY, base_url=f"{engine.url}/v1")
    answer = client.rerankings.create(model=engine.model, query=QUERY, texts=DOCUMENTS, top_n=3)
    engine.check([(result.index, result.score) for result in answer.results], top_n=3)
    assert answer.usage.input_tokens > 0


@pytest.mark.client("infinity")
def test_infinity(engine: Engine) -> None:
    infinity_client = pytest.importorskip("infinity_client", reason=REASON)
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    headers = {"Authorization": f"Bearer {KEY}"}
    body = RerankInput(query=QUERY, documents=DOCUMENTS, model=engine.model, return_documents=True)
    answer = rerank.sync(client=infinity_client.Client(base_url=engine.url, headers=headers), body=body)
    engine.check([(result.index, result.relevance_score) for result in answer.results])
    assert [result.document for result in answer.results] == [DOCUMENTS[result.index] for result in answer.results]
