"""SDKs of services and servers whose clients take an address."""

from __future__ import annotations

import pytest
import requests

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

REASON = "the clients are installed by make test-clients"


@pytest.mark.client("together")
def test_together(engine: Engine) -> None:
    together = pytest.importorskip("together", reason=REASON)
    client = together.Together(api_key=KEY, base_url=f"{engine.url}/v1")
    answer = client.rerank.create(model=engine.model, query=QUERY, documents=DOCUMENTS, top_n=3, return_documents=True)
    engine.check([(result.index, result.relevance_score) for result in answer.results], top_n=3)
    assert answer.results[0].document.text == DOCUMENTS[2]


@pytest.mark.client("zeroentropy")
def test_zeroentropy(engine: Engine) -> None:
    zeroentropy = pytest.importorskip("zeroentropy", reason=REASON)
    client = zeroentropy.ZeroEntropy(api_key=KEY, base_url=f"{engine.url}/v1")
    answer = client.models.rerank(model=engine.model, query=QUERY, documents=DOCUMENTS, top_n=3)
    engine.check([(result.index, result.relevance_score) for result in answer.results], top_n=3)
    assert (answer.total_tokens > 0, answer.actual_latency_mode) == (True, "fast")
    with pytest.raises(zeroentropy.NotFoundError, match="does not exist"):
        client.models.rerank(model="no-such-model", query=QUERY, documents=DOCUMENTS)


@pytest.mark.client("contextual")
def test_contextual(engine: Engine) -> None:
    contextual = pytest.importorskip("contextual", reason=REASON)
    client = contextual.ContextualAI(api_key=KEY, base_url=f"{engine.url}/v1")
    answer = client.rerank.create(model=engine.model, query=QUERY, documents=DOCUMENTS, top_n=3)
    engine.check([(result.index, result.relevance_score) for result in answer.results], top_n=3)


@pytest.mark.client("bedrock")
def test_bedrock(engine: Engine) -> None:
    boto3 = pytest.importorskip("boto3", reason=REASON)
    from botocore.exceptions import ClientError

    client = boto3.client(
        "bedrock-agent-runtime",
        endpoint_url=f"{engine.url}/bedrock",
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key="unused",
    )

    def rerank(model: str) -> list[dict[str, float]]:
        sources = [{"type": "TEXT", "textDocument": {"text": text}} for text in DOCUMENTS]
        configuration = {"modelConfiguration": {"modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{model}"}}
        answer = client.rerank(
            queries=[{"type": "TEXT", "textQuery": {"text": QUERY}}],
            sources=[{"type": "INLINE", "inlineDocumentSource": source} for source in sources],
            rerankingConfiguration={
                "type": "BEDROCK_RERANKING_MODEL",
                "bedrockRerankingConfiguration": configuration | {"numberOfResults": 3},
            },
        )
        results: list[dict[str, float]] = answer["results"]
        return results

    found = rerank(engine.model)
    engine.check([(int(result["index"]), result["relevanceScore"]) for result in found], top_n=3)
    with pytest.raises(ClientError, match="does not exist") as raised:
        rerank("no-such-model")
    assert raised.value.response["Error"]["Code"] == "ResourceNotFoundException"


@pytest.mark.client("bedrock")
def test_bedrock_invoke_model(engine: Engine) -> None:
    cohere = pytest.importorskip("cohere", reason=REASON)
    assert cohere
    body = {"query": QUERY, "documents": DOCUMENTS, "api_version": 2, "top_n": 2}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = requests.post(f"{engine.url}/model/{engine.model}/invoke", json=body, headers=headers, timeout=60).json()
    engine.check([(result["index"], result["relevance_score"]) for result in answer["results"]], top_n=2)


@pytest.mark.client("xinference")
def test_xinference(engine: Engine) -> None:
    """As Dify and MaxKB set it up: whether a key is needed, what the model is, then the call."""
    xinference_client = pytest.importorskip("xinference_client", reason=REASON)
    client = xinference_client.RESTfulClient(engine.url, api_key=KEY)
    model = client.get_model(engine.model)
    answer = model.rerank(documents=DOCUMENTS, query=QUERY, top_n=3, return_documents=True)
    engine.check([(result["index"], result["relevance_score"]) for result in answer["results"]], top_n=3)


@pytest.mark.client("rerankers")
@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("cohere", "/v1/rerank"),
        ("jina", "/v1/rerank"),
        ("voyage", "/v1/rerank"),
        ("mixedbread.ai", "/v1/reranking"),
        ("pinecone", "/rerank"),
        ("isaacus", "/v1/rerankings"),
        ("text-embeddings-inference", "/rerank"),
    ],
)
def test_rerankers(provider: str, path: str, engine: Engine) -> None:
    pytest.importorskip("rerankers", reason=REASON)
    from rerankers.models.api_rankers import APIRanker

    ranker = APIRanker(engine.model, api_provider=provider, api_key=KEY, url=engine.url + path, verbose=0)
    found = ranker.rank(query=QUERY, docs=DOCUMENTS).results
    engine.check([(DOCUMENTS.index(result.text), result.score) for result in found])
