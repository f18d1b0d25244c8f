"""Haystack: a ranker component that ranks with the engine. The extra ``haystack``.

from engine.entrypoints.integrations.haystack import EngineRanker
pipeline.add_component("ranker", EngineRanker(top_k=5))
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret, deserialize_secrets_inplace

from engine.entrypoints.client import AsyncClient, Client, Ranking
from engine.entrypoints.client.calls import DEFAULT_URL, Options


@component
class EngineRanker:
    """The ``top_k`` best documents, best first, with the engine's score.

    ``api_key`` is ``Secret.from_env_var("ENGINE_API_KEY", strict=False)`` unless given. A document that the server
    cannot read is left out. Raises ``ValueError`` for a ``top_k`` below 1, and what ``engine.Client.rerank`` raises.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: Secret | None = None,
        model: str | None = None,
        top_k: int | None = 10,
        instruction: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        _check(top_k)
        self.base_url, self.model, self.top_k = base_url, model, top_k
        self.api_key = api_key or Secret.from_env_var("ENGINE_API_KEY", strict=False)
        self.instruction, self.timeout_s = instruction, timeout_s
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self._client: Client | None = None
        self._async_client: AsyncClient | None = None

    def to_dict(self) -> dict[str, Any]:
        fields = ("base_url", "model", "top_k", "instruction", "meta_fields_to_embed", "timeout_s")
        values = {name: getattr(self, name) for name in fields}
        return default_to_dict(self, api_key=self.api_key.to_dict(), **values)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EngineRanker:
        deserialize_secrets_inplace(data["init_parameters"], keys=["api_key"])
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """The best documents. ``top_k``: instead of the component's."""
        _check(top_k)
        if not documents:
            return {"documents": []}
        if self._client is None:
            self._client = Client(
                self.base_url, self.api_key.resolve_value(), model=self.model, timeout_s=self.timeout_s
            )
        ranking = self._client.rerank(query, self._texts(documents), **self._options(top_k))
        return {"documents": _ranked(ranking, documents)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Does what ``run`` does, awaited."""
        _check(top_k)
        if not documents:
            return {"documents": []}
        if self._async_client is None:
            self._async_client = AsyncClient(
                self.base_url, self.api_key.resolve_value(), model=self.model, timeout_s=self.timeout_s
            )
        ranking = await self._async_client.rerank(query, self._texts(documents), **self._options(top_k))
        return {"documents": _ranked(ranking, documents)}

    def _options(self, top_k: int | None) -> Options:
        return {"top_n": self.top_k if top_k is None else top_k, "instruction": self.instruction}

    def _texts(self, documents: list[Document]) -> list[str]:
        """Contents, behind the metadata that is to be read too."""
        return [
            "\n".join(
                [*(str(document.meta[name]) for name in self.meta_fields_to_embed if document.meta.get(name)),
                 document.content or ""]
            )
            for document in documents
        ]  # fmt: skip


def _check(top_k: int | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")


def _ranked(ranking: Ranking, documents: list[Document]) -> list[Document]:
    return [replace(documents[result.index], score=result.score) for result in ranking]
