"""The project's own components for other frameworks, by the frameworks' own standard tests where they have some."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

pytest.importorskip("langchain_tests", reason="the frameworks are installed by make test-clients")
from haystack import Document as HaystackDocument
from haystack import Pipeline
from haystack.utils import Secret
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from engine.entrypoints.client import RequestFailedError
from engine.entrypoints.integrations.haystack import EngineRanker
from engine.entrypoints.integrations.langchain import EngineRerank
from engine.entrypoints.integrations.llama_index import EngineRerank as LlamaEngineRerank

PAGES = [Document(page_content=text, metadata={"page": number}) for number, text in enumerate(DOCUMENTS)]


class Reranked(BaseRetriever):
    """A retriever that finds everything and ranks it, as ContextualCompressionRetriever does."""

    compressor: Any
    k: int = 3

    def _get_relevant_documents(self, query: str, *, run_manager: Any, k: int | None = None) -> list[Document]:
        return list(self.compressor.model_copy(update={"top_n": k or self.k}).compress_documents(PAGES, query))

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any, k: int | None = None) -> list[Document]:
        compressor = self.compressor.model_copy(update={"top_n": k or self.k})
        return list(await compressor.acompress_documents(PAGES, query))


class TestLangChain(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _served(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def retriever_constructor(self) -> type[Reranked]:
        return Reranked

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"compressor": EngineRerank(base_url=self.engine.url, api_key=KEY)}

    @property
    def retriever_query_example(self) -> str:
        return QUERY


def test_langchain_scores_and_keeps_metadata(engine: Engine) -> None:
    compressor = EngineRerank(base_url=f"{engine.url}/v1", api_key=KEY, top_n=2)
    found = compressor.compress_documents(PAGES, QUERY)
    engine.check([(page.metadata["page"], page.metadata["relevance_score"]) for page in found], top_n=2)
    assert "relevance_score" not in PAGES[0].metadata
    engine.check([(entry["index"], entry["relevance_score"]) for entry in compressor.rerank(PAGES, QUERY)], top_n=2)
    assert compressor.compress_documents([], QUERY) == []
    assert KEY not in repr(compressor)
    with pytest.raises(RequestFailedError, match="does not exist"):
        EngineRerank(base_url=engine.url, api_key=KEY, model="no-such-model").compress_documents(PAGES, QUERY)


def test_llama_index(engine: Engine) -> None:
    assert BaseNodePostprocessor in LlamaEngineRerank.__mro__
    postprocessor = LlamaEngineRerank(base_url=engine.url, api_key=KEY, top_n=2, keep_retrieval_score=True)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.25) for text in DOCUMENTS]
    for found in (
        postprocessor.postprocess_nodes(nodes, query_bundle=QueryBundle(QUERY)),
        asyncio.run(postprocessor.apostprocess_nodes(nodes, query_str=QUERY)),
    ):
        engine.check_texts([(DOCUMENTS[nodes.index(_same(nodes, item))], item.score) for item in found], top_n=2)
        assert found[0].node.metadata["retrieval_score"] == 0.25
    assert KEY not in str(postprocessor.to_dict())
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValueError, match="needs the query"):
        postprocessor.postprocess_nodes(nodes)


def _same(nodes: list[NodeWithScore], item: NodeWithScore) -> NodeWithScore:
    return next(node for node in nodes if node.node.node_id == item.node.node_id)


def test_haystack(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_API_KEY", KEY)
    pipeline = Pipeline()
    pipeline.add_component("ranker", EngineRanker(base_url=engine.url, top_k=2))
    pipeline = Pipeline.loads(pipeline.dumps(), allowed_modules=[EngineRanker.__module__])
    assert KEY not in pipeline.dumps()
    documents = [HaystackDocument(content=text) for text in DOCUMENTS]
    found = pipeline.run({"ranker": {"query": QUERY, "documents": documents}})["ranker"]["documents"]
    engine.check_texts([(document.content, document.score) for document in found], top_n=2)
    assert documents[0].score is None
    ranker = EngineRanker(base_url=engine.url, api_key=Secret.from_token(KEY), meta_fields_to_embed=["title"])
    found = asyncio.run(ranker.run_async(QUERY, documents, top_k=1))["documents"]
    engine.check_texts([(document.content, document.score) for document in found], top_n=1)
    assert ranker.run(QUERY, [])["documents"] == []
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        EngineRanker(top_k=0)
