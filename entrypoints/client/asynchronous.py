"""The client for asyncio. Same names, answers and errors as ``Client``, which says what they mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar, Unpack

from engine.entrypoints.client.answers import DocumentError, RankedDocument, Ranking, from_stream, ranking_of
from engine.entrypoints.client.calls import (
    DEFAULT_URL,
    JSON_LINES,
    MODELS,
    READY,
    RERANK,
    Options,
    base_url_of,
    body_of,
    headers_of,
    json_of,
    listed,
    readable,
)
from engine.entrypoints.client.errors import ConnectionFailedError, RequestFailedError, no_answer
from engine.entrypoints.client.httpx_package import httpx
from engine.entrypoints.client.retries import Retries

T = TypeVar("T")


class AsyncClient:
    """``Client``, awaited; ``transport`` is ``httpx.AsyncHTTPTransport``."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout_s: float = 60.0,
        retries: Retries | int = 4,
        transport: Any = None,
    ) -> None:
        self.base_url = base_url_of(base_url)
        self.model = model
        self.retries = retries if isinstance(retries, Retries) else Retries(attempts=retries)
        self._http = httpx.AsyncClient(
            base_url=self.base_url, headers=headers_of(api_key), timeout=timeout_s, transport=transport
        )

    async def rerank(self, query: str, documents: Iterable[Any], **options: Unpack[Options]) -> Ranking:
        """See ``Client.rerank``."""
        documents = listed(documents)
        body = body_of(query, documents, options, self.model)

        async def once() -> Ranking:
            answer = await self._http.post(RERANK, content=body)
            found = json_of(answer.status_code, answer.content, answer.headers)
            with readable(answer.status_code):
                return ranking_of(found, documents)

        return await self._with_retries(once)

    async def score(self, query: str, documents: Iterable[Any], **options: Unpack[Options]) -> list[float]:
        """See ``Client.score``."""
        documents = listed(documents)
        return (await self.rerank(query, documents, **options)).scores(len(documents))

    async def stream(
        self, query: str, documents: Iterable[Any], **options: Unpack[Options]
    ) -> AsyncIterator[RankedDocument | DocumentError | Ranking]:
        """See ``Client.stream``. Raises ``ConnectionFailedError`` where the server ends it too early."""
        documents = listed(documents)
        body = body_of(query, documents, options, self.model)

        async def opened() -> Any:
            request = self._http.build_request("POST", RERANK, content=body, headers={"Accept": JSON_LINES})
            answer = await self._http.send(request, stream=True)
            if answer.status_code >= 400:
                try:
                    json_of(answer.status_code, await answer.aread(), answer.headers)
                finally:
                    await answer.aclose()
            return answer

        answer = await self._with_retries(opened)
        part: RankedDocument | DocumentError | Ranking | None = None
        try:
            async for line in answer.aiter_lines():
                if line:
                    with readable(answer.status_code):
                        part = from_stream(json.loads(line), documents)
                    yield part
        except httpx.TransportError as error:
            raise no_answer(self.base_url, error) from error
        finally:
            await answer.aclose()
        if not isinstance(part, Ranking):
            raise ConnectionFailedError(f"{self.base_url} ended the stream before its ranking")

    async def models(self) -> list[str]:
        """Names that ``model`` may have."""

        async def once() -> list[str]:
            answer = await self._http.get(MODELS)
            found = json_of(answer.status_code, answer.content, answer.headers)
            with readable(answer.status_code):
                return [entry["id"] for entry in found["data"]]

        return await self._with_retries(once)

    async def is_ready(self) -> bool:
        """Whether a server is there and its model is loaded."""
        try:
            return bool((await self._http.get(READY)).status_code == 200)
        except httpx.TransportError:
            return False

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _with_retries(self, once: Callable[[], Awaitable[T]]) -> T:
        """The result of ``once``, tried again while that may help."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await once()
            except httpx.TransportError as error:
                wait_s = self.retries.wait_s(attempt, error)
                if wait_s is None:
                    raise no_answer(self.base_url, error) from error
            except RequestFailedError as error:
                wait_s = self.retries.wait_s(attempt, error)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
