"""langchain's compressors and cross-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pytest
import requests

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

pytest.importorskip("langchain_cohere", reason="the clients are installed by make test-clients")
from langchain_core.documents import BaseDocumentCompressor, Document

PAGES = [Document(page_content=text) for text in DOCUMENTS]


def ranked(compressor: BaseDocumentCompressor) -> list[tuple[str, float]]:
    found = compressor.compress_documents(PAGES, QUERY)
    return [(page.page_content, page.metadata["relevance_score"]) for page in found]


@pytest.mark.client("langchain-cohere")
def test_cohere(engine: Engine) -> None:
    from langchain_cohere import CohereRerank

    compressor = CohereRerank(model=engine.model, cohere_api_key=KEY, base_url=engine.url, top_n=3)
    engine.check_texts(ranked(compressor), top_n=3)
    objects = [{"title": text, "n": i} for i, text in enumerate(DOCUMENTS)]
    assert compressor.rerank(objects, QUERY, rank_fields=["title"], top_n=None)[0]["index"] == 2


@pytest.mark.client("langchain-jina")
def test_jina(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_community.document_compressors import jina_rerank

    monkeypatch.setattr(jina_rerank, "JINA_API_URL", f"{engine.url}/v1/rerank")
    compressor = jina_rerank.JinaRerank(model=engine.model, jina_api_key=KEY, top_n=3)
    engine.check_texts(ranked(compressor), top_n=3)
    with pytest.raises(RuntimeError, match="does not exist"):
        compressor.rerank(DOCUMENTS, QUERY, model="no-such-model")


@pytest.mark.client("langchain-nvidia")
def test_nvidia(engine: Engine) -> None:
    from langchain_nvidia_ai_endpoints import NVIDIARerank

    compressor = NVIDIARerank(base_url=f"{engine.url}/v1", model=engine.model, api_key=KEY, top_n=4, truncate="END")
    logits = [(DOCUMENTS.index(text), logit) for text, logit in ranked(compressor)]
    assert [index for index, _ in logits] == engine.order
    assert [logit for _, logit in logits] == pytest.approx([engine.logits[i] for i in engine.order], abs=1e-4)


@pytest.mark.client("langchain-voyage")
def test_voyage(engine: Engine) -> None:
    from langchain_voyageai import VoyageAIRerank

    compressor = VoyageAIRerank(model=engine.model, api_key=KEY, base_url=f"{engine.url}/v1", top_k=2)
    engine.check_texts(ranked(compressor), top_n=2)


class TeiCompressor(BaseDocumentCompressor):
    """What users write for a TEI server, for which langchain has no class."""

    url: str
    key: str
    top_n: int = 3

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        body = {"query": query, "texts": [page.page_content for page in documents], "raw_scores": False}
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = requests.post(f"{self.url}/rerank", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return [
            Document(page_content=documents[rank["index"]].page_content, metadata={"relevance_score": rank["score"]})
            for rank in answer.json()[: self.top_n]
        ]


@pytest.mark.client("langchain-tei")
def test_tei_style(engine: Engine) -> None:
    engine.check_texts(ranked(TeiCompressor(url=engine.url, key=KEY)), top_n=3)


class RuntimeClient:
    """boto3's client for an endpoint, with the network that lies between it and the container taken out."""

    def __init__(self, url: str) -> None:
        self._url = url

    def invoke_endpoint(self, *, Body: bytes, ContentType: str, Accept: str, **more: Any) -> dict[str, Any]:
        headers = {"Content-Type": ContentType, "Accept": Accept, "Authorization": f"Bearer {KEY}"}
        return {"Body": BytesIO(requests.post(self._url, data=Body, headers=headers, timeout=60).content)}


@pytest.mark.client("langchain-sagemaker")
def test_sagemaker(engine: Engine) -> None:
    from langchain_community.cross_encoders.sagemaker_endpoint import (
        CrossEncoderContentHandler,
        SagemakerEndpointCrossEncoder,
    )

    encoder = SagemakerEndpointCrossEncoder.model_construct(
        client=RuntimeClient(f"{engine.url}/invocations"),
        endpoint_name="endpoint",
        content_handler=CrossEncoderContentHandler(),
    )
    scores = encoder.score([(QUERY, text) for text in DOCUMENTS])
    assert scores == pytest.approx(engine.scores, abs=1e-5)
