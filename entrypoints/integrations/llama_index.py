"""LlamaIndex: a node postprocessor that ranks with the engine. The extra ``llama-index``.

from engine.entrypoints.integrations.llama_index import EngineRerank
index.as_query_engine(similarity_top_k=50, node_postprocessors=[EngineRerank(top_n=5)])
"""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from engine.entrypoints.client import AsyncClient, Client, Ranking
from engine.entrypoints.client.calls import DEFAULT_URL, Options


class EngineRerank(BaseNodePostprocessor):
    """The ``top_n`` best nodes, best first, with the engine's score.

    A node that the server cannot read is left out. Raises ``ValueError`` without a query, and what
    ``engine.Client.rerank`` raises.
    """

    base_url: str = Field(default=DEFAULT_URL, description="The engine's address.")
    api_key: str | None = Field(default=None, repr=False, exclude=True, description="Its key, if it has one.")
    model: str | None = Field(default=None, description="A name of /v1/models; None: the first.")
    top_n: int | None = Field(default=3, description="Nodes to keep; None: all.")
    instruction: str | None = Field(default=None, description="What counts as relevant, in words.")
    timeout_s: float = Field(default=60.0, description="Of connecting and of each silence.")
    keep_retrieval_score: bool = Field(default=False, description="Keep the score before in the node's metadata.")
    _client: Client | None = PrivateAttr(default=None)
    _async_client: AsyncClient | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        return "EngineRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        if not nodes:
            return []
        if self._client is None:
            self._client = Client(self.base_url, self.api_key, model=self.model, timeout_s=self.timeout_s)
        return self._ranked(self._client.rerank(query, _texts(nodes), **self._options()), nodes)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        if not nodes:
            return []
        if self._async_client is None:
            self._async_client = AsyncClient(self.base_url, self.api_key, model=self.model, timeout_s=self.timeout_s)
        return self._ranked(await self._async_client.rerank(query, _texts(nodes), **self._options()), nodes)

    def _options(self) -> Options:
        return {"top_n": self.top_n, "instruction": self.instruction}

    def _ranked(self, ranking: Ranking, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        found = []
        for result in ranking:
            before = nodes[result.index]
            node: Any = before.node
            if self.keep_retrieval_score:  # in a copy: metadata is part of what is embedded and ranked
                node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": before.score}})
            found.append(NodeWithScore(node=node, score=result.score))
        return found


def _query(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise ValueError("EngineRerank needs the query: pass query_bundle or query_str")
    return query_bundle.query_str


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    """As an embedding would see them, metadata included."""
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
