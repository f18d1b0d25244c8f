"""LangChain: a document compressor that ranks with the engine. The extra ``langchain``.

from engine.entrypoints.integrations.langchain import EngineRerank
ContextualCompressionRetriever(base_compressor=EngineRerank(top_n=5), base_retriever=retriever)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, PrivateAttr

from engine.entrypoints.client import AsyncClient, Client, Ranking
from engine.entrypoints.client.calls import DEFAULT_URL, Options


class EngineRerank(BaseDocumentCompressor):
    """The ``top_n`` best documents, best first, with ``relevance_score`` in a copy of their metadata.

    A document that the server cannot read is left out. Raises what ``engine.Client.rerank`` raises.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    base_url: str = DEFAULT_URL
    api_key: str | None = Field(default=None, repr=False)
    model: str | None = None
    top_n: int | None = 3
    instruction: str | None = None
    timeout_s: float = 60.0
    _client: Client | None = PrivateAttr(default=None)
    _async_client: AsyncClient | None = PrivateAttr(default=None)

    def rerank(self, documents: Sequence[Document | str], query: str) -> list[dict[str, Any]]:
        """``index`` and ``relevance_score`` of the best documents, as other rerankers of LangChain give them."""
        ranking = self._sync().rerank(query, [_text(document) for document in documents], **self._options())
        return [{"index": result.index, "relevance_score": result.score} for result in ranking]

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        return _ranked(self._sync().rerank(query, texts, **self._options()), documents)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        if not documents:
            return []
        if self._async_client is None:
            self._async_client = AsyncClient(self.base_url, self.api_key, model=self.model, timeout_s=self.timeout_s)
        texts = [document.page_content for document in documents]
        return _ranked(await self._async_client.rerank(query, texts, **self._options()), documents)

    def _sync(self) -> Client:
        if self._client is None:
            self._client = Client(self.base_url, self.api_key, model=self.model, timeout_s=self.timeout_s)
        return self._client

    def _options(self) -> Options:
        return {"top_n": self.top_n, "instruction": self.instruction}


def _text(document: Document | str) -> str:
    return document if isinstance(document, str) else document.page_content


def _ranked(ranking: Ranking, documents: Sequence[Document]) -> list[Document]:
    found = []
    for result in ranking:
        document = documents[result.index]
        metadata = {**document.metadata, "relevance_score": result.score}
        found.append(Document(page_content=document.page_content, metadata=metadata, id=document.id))
    return found
