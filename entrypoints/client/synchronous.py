"""The client for ordinary code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
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


class Client:
    """Talks to ``engine serve``.

    ``model``: the one of every call that names none; None: the server's first. ``timeout_s``: of connecting and of each
    silence. Calls that the server refuses for now (full queue, restart) are tried again as ``retries`` says.
    ``transport`` is httpx's, for tests and for sockets: ``httpx.HTTPTransport(uds="/run/engine.sock")``.
    """

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
        self._http = httpx.Client(
            base_url=self.base_url, headers=headers_of(api_key), timeout=timeout_s, transport=transport
        )

    def rerank(self, query: str, documents: Iterable[Any], **options: Unpack[Options]) -> Ranking:
        """The documents, best first. ``options`` are the fields of ``Options``: top_n, instruction, timeout_ms, ...

        A document that cannot be read is in ``errors`` of the ranking, one that ``timeout_ms`` cut off in ``unscored``.
        Raises ``RequestFailedError`` if the whole call fails, ``ConnectionFailedError`` if there is no server, and
        ``TypeError`` for an option that does not exist.
        """
        documents = listed(documents)
        body = body_of(query, documents, options, self.model)

        def once() -> Ranking:
            answer = self._http.post(RERANK, content=body)
            found = json_of(answer.status_code, answer.content, answer.headers)
            with readable(answer.status_code):
                return ranking_of(found, documents)

        return self._with_retries(once)

    def score(self, query: str, documents: Iterable[Any], **options: Unpack[Options]) -> list[float]:
        """A score for each document, in the order in which they are given; NaN: it has none."""
        documents = listed(documents)
        return self.rerank(query, documents, **options).scores(len(documents))

    def stream(
        self, query: str, documents: Iterable[Any], **options: Unpack[Options]
    ) -> Iterator[RankedDocument | DocumentError | Ranking]:
        """Each document as soon as it has a score, in no order; the whole ``Ranking`` comes last.

        Tried again only until the answer begins; a connection that breaks later is a ``ConnectionFailedError``.
        """
        documents = listed(documents)
        body = body_of(query, documents, options, self.model)

        def opened() -> Any:
            request = self._http.build_request("POST", RERANK, content=body, headers={"Accept": JSON_LINES})
            answer = self._http.send(request, stream=True)
            if answer.status_code >= 400:
                try:
                    json_of(answer.status_code, answer.read(), answer.headers)
                finally:
                    answer.close()
            return answer

        answer = self._with_retries(opened)
        part: RankedDocument | DocumentError | Ranking | None = None
        try:
            for line in answer.iter_lines():
                if line:
                    with readable(answer.status_code):
                        part = from_stream(json.loads(line), documents)
                    yield part
        except httpx.TransportError as error:
            raise no_answer(self.base_url, error) from error
        finally:
            answer.close()
        if not isinstance(part, Ranking):
            raise ConnectionFailedError(f"{self.base_url} ended the stream before its ranking")

    def models(self) -> list[str]:
        """Names that ``model`` may have."""

        def once() -> list[str]:
            answer = self._http.get(MODELS)
            found = json_of(answer.status_code, answer.content, answer.headers)
            with readable(answer.status_code):
                return [entry["id"] for entry in found["data"]]

        return self._with_retries(once)

    def is_ready(self) -> bool:
        """Whether a server is there and its model is loaded."""
        try:
            return bool(self._http.get(READY).status_code == 200)
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _with_retries(self, once: Callable[[], T]) -> T:
        """The result of ``once``, tried again while that may help."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return once()
            except httpx.TransportError as error:
                wait_s = self.retries.wait_s(attempt, error)
                if wait_s is None:
                    raise no_answer(self.base_url, error) from error
            except RequestFailedError as error:
                wait_s = self.retries.wait_s(attempt, error)
                if wait_s is None:
                    raise
            time.sleep(wait_s)
