"""``engine.Client`` against a real server, and against one that is full, broken, gone or not an engine."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import pytest

from engine import AsyncClient, Client
from engine.entrypoints.client import ConnectionFailedError, DocumentError, RankedDocument, Ranking, RequestFailedError
from engine.entrypoints.client.calls import base_url_of
from engine.entrypoints.client.retries import Retries
from tests.e2e.server import ServerProcess

KEY = "a-key"
QUERY = "What is the capital of China?"
DOCUMENTS = ["Bamboo grows fast.", "The capital of China is Beijing.", "Berlin is the capital of Germany."]
LONG = "word " * 900


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--api-key", KEY, "--served-model-name", "reranker") as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.url, KEY) as client:
        yield client


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, KEY) as client:
        yield client


def test_a_ranking(client: Client) -> None:
    ranking = client.rerank(QUERY, DOCUMENTS, top_n=2)
    assert [(result.index, result.document) for result in ranking] == [(1, DOCUMENTS[1]), (2, DOCUMENTS[2])]
    assert ranking[0].score > ranking[1].score
    assert (ranking.model, ranking.is_partial, len(ranking)) == ("reranker", False, 2)
    assert ranking.request_id
    assert ranking.prompt_tokens >= ranking.computed_tokens > 0
    scores = client.score(QUERY, DOCUMENTS)
    assert scores[1] == pytest.approx(ranking[0].score, abs=1e-6)
    assert client.models() == ["reranker"]
    assert client.is_ready()


async def test_a_ranking_awaited(async_client: AsyncClient, client: Client) -> None:
    assert [r.index for r in await async_client.rerank(QUERY, DOCUMENTS, top_n=2)] == [1, 2]
    assert await async_client.score(QUERY, DOCUMENTS) == pytest.approx(client.score(QUERY, DOCUMENTS), abs=1e-6)
    assert await async_client.models() == ["reranker"]
    assert await async_client.is_ready()
    with pytest.raises(RequestFailedError, match="no-such-model"):
        await async_client.rerank(QUERY, DOCUMENTS, model="no-such-model")


def in_parts(parts: Sequence[RankedDocument | DocumentError | Ranking]) -> Ranking:
    """The last part, which is the ranking, after a look at the parts before it."""
    *early, last = parts
    assert isinstance(last, Ranking)
    scores = {part.index: part.score for part in early if isinstance(part, RankedDocument)}
    assert scores == {result.index: result.score for result in last}
    assert {part.index for part in early if isinstance(part, DocumentError)} <= {0, 1, 2, 3}
    return last


async def test_scores_as_they_come(client: Client, async_client: AsyncClient) -> None:
    parts = list(client.stream(QUERY, [*DOCUMENTS, LONG], truncate=False))
    assert [result.index for result in in_parts(parts)] == [1, 2, 0]
    assert [part.index for part in parts if isinstance(part, DocumentError)] == [3]
    assert in_parts([part async for part in async_client.stream(QUERY, DOCUMENTS)])[0].index == 1
    with pytest.raises(RequestFailedError, match="no-such-model"):
        next(client.stream(QUERY, DOCUMENTS, model="no-such-model"))


def test_a_document_that_cannot_be_read_fails_alone(client: Client) -> None:
    ranking = client.rerank(QUERY, [LONG, *DOCUMENTS], truncate=False)
    assert [result.index for result in ranking] == [2, 3, 1]
    assert [error.index for error in ranking.errors] == [0]
    assert "tokens, and the limit is" in ranking.errors[0].message
    assert ranking.is_partial
    assert math.isnan(client.score(QUERY, [LONG, *DOCUMENTS], truncate=False)[0])


def test_where_a_long_document_is_right(client: Client) -> None:
    document = f"{LONG}{DOCUMENTS[1]} {LONG}"
    (result,) = client.rerank(QUERY, [document], long_document="chunk")
    assert result.span is not None
    assert DOCUMENTS[1] in document[slice(*result.span)]
    assert client.rerank(QUERY, [document])[0].truncated


def test_a_wrong_key_is_said(server: ServerProcess) -> None:
    with Client(server.url, "wrong") as client, pytest.raises(RequestFailedError) as raised:
        client.rerank(QUERY, DOCUMENTS)
    assert raised.value.status == 401
    assert raised.value.type == "authentication_error"
    assert raised.value.request_id


def test_mistakes_are_found_before_anything_is_sent() -> None:
    client = Client("http://127.0.0.1:1")
    with pytest.raises(TypeError, match="no such option: topn; there are top_n, "):
        client.rerank(QUERY, DOCUMENTS, topn=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="not one str"):
        client.rerank(QUERY, "a document")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://host:8000/", "http://host:8000"),
        ("http://host/v1", "http://host"),
        ("https://host/prefix/v1/rerank", "https://host/prefix"),
        ("host:8000", "http://host:8000"),
    ],
)
def test_the_address_may_be_what_people_copy(given: str, used: str) -> None:
    assert base_url_of(given) == used


ANSWER = {"results": [{"index": 0, "relevance_score": 0.5}], "model": "m", "id": "rerank-1"}


def scripted(*answers: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that gives these answers in turn."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        found = answers[len(seen) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    return httpx.MockTransport(answer), seen


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    waited: list[float] = []

    async def asleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("engine.entrypoints.client.synchronous.time.sleep", waited.append)
    monkeypatch.setattr("engine.entrypoints.client.asynchronous.asyncio.sleep", asleep)
    return waited


def full(seconds: str | None = "2") -> httpx.Response:
    error = {"error": {"message": "The queue is full.", "type": "overloaded", "code": "429", "request_id": "r"}}
    return httpx.Response(429, json=error, headers={} if seconds is None else {"Retry-After": seconds})


async def test_what_is_refused_for_now_is_tried_again_when_the_server_says(waits: list[float]) -> None:
    for kind in ("sync", "async"):
        transport, seen = scripted(full(), httpx.ConnectError("refused"), full(None), httpx.Response(200, json=ANSWER))
        if kind == "sync":
            ranking = Client(transport=transport).rerank("q", ["d"])
        else:
            ranking = await AsyncClient(transport=transport).rerank("q", ["d"])
        assert [result.score for result in ranking] == [0.5]
        assert len(seen) == 4
        first, second, third = waits
        assert 2.0 <= first <= 2.2
        assert 0.25 <= second <= 0.5
        assert 0.5 <= third <= 1.0
        waits.clear()


@pytest.mark.parametrize(
    ("answers", "retries", "tried"),
    [
        ([httpx.Response(400, json={"error": {"message": "no"}})], Retries(), 1),
        ([full()] * 3, Retries(3), 3),
        ([full("600")], Retries(), 1),  # longer than anybody waits
        ([full("soon"), httpx.Response(500)], Retries(), 2),
    ],
)
def test_what_does_not_help_is_not_tried(
    answers: list[httpx.Response], retries: Retries, tried: int, waits: list[float]
) -> None:
    transport, seen = scripted(*answers)
    with pytest.raises(RequestFailedError):
        Client(transport=transport, retries=retries).rerank("q", ["d"])
    assert len(seen) == tried


def test_a_server_that_is_not_there_or_not_an_engine(waits: list[float]) -> None:
    with Client("http://127.0.0.1:1", retries=2) as client:
        assert not client.is_ready()
        with pytest.raises(ConnectionFailedError, match=r"no answer from http://127.0.0.1:1: "):
            client.rerank("q", ["d"])
    assert len(waits) == 1
    transport, _ = scripted(httpx.Response(200, text="<html>"))
    with pytest.raises(RequestFailedError, match="is this an engine's address"):
        Client(transport=transport).rerank("q", ["d"])
    transport, _ = scripted(httpx.Response(418, text="<html>"))
    with pytest.raises(RequestFailedError, match="HTTP status 418"):
        Client(transport=transport).rerank("q", ["d"])


@pytest.mark.parametrize("answer", [[{"index": 0, "score": 1.0}], {"data": []}, {"results": [{"index": 9}]}, None, 3])
async def test_the_answer_of_another_server_is_no_traceback(answer: Any) -> None:
    other = httpx.Response(200, json=answer)
    with pytest.raises(RequestFailedError, match="is this an engine's address"):
        Client(transport=scripted(other)[0]).rerank("q", ["d"])
    with pytest.raises(RequestFailedError, match="is this an engine's address"):
        await AsyncClient(transport=scripted(httpx.Response(200, json=answer))[0]).rerank("q", ["d"])
    with pytest.raises(RequestFailedError, match="is this an engine's address"):
        list(Client(transport=scripted(httpx.Response(200, text="<html>"))[0]).stream("q", ["d"]))
    with pytest.raises(RequestFailedError, match="is this an engine's address"):
        Client(transport=scripted(httpx.Response(200, json={"models": []}))[0]).models()


@pytest.mark.parametrize("body", [{"detail": "no such page"}, {"message": "no such page"}, {"error": "no such page"}])
def test_what_a_proxy_says_is_said(body: dict[str, str]) -> None:
    transport, _ = scripted(httpx.Response(403, json=body))
    with pytest.raises(RequestFailedError, match="no such page"):
        Client(transport=transport).rerank("q", ["d"])


def test_documents_come_from_anything_that_can_be_listed() -> None:
    transport, seen = scripted(*(httpx.Response(200, json=ANSWER) for _ in range(2)))
    client = Client(transport=transport)
    assert client.rerank("q", (text for text in ("Grüße 你好",)))[0].document == "Grüße 你好"
    assert "Grüße 你好".encode() in seen[0].content
    assert seen[0].headers["x-dialect"] == "rerank"
    assert client.score("q", {"half \ud800": 1}.keys()) == [0.5]
    assert rb'"half \ud800"' in seen[1].content
    with pytest.raises(ValueError, match="not JSON compliant"):
        client.rerank("q", [{"text": "d", "weight": float("nan")}])


def test_a_stream_that_breaks_is_said() -> None:
    def lines() -> Iterator[bytes]:
        yield b'{"index":0,"relevance_score":0.5}\n'
        raise httpx.ReadError("gone")

    transport, _ = scripted(httpx.Response(200, stream=httpx.ByteStream(b"")), httpx.Response(200, content=lines()))
    client = Client(transport=transport)
    with pytest.raises(ConnectionFailedError, match="ended the stream before its ranking"):
        list(client.stream("q", ["d"]))
    stream = client.stream("q", ["d"])
    assert next(stream) == RankedDocument(0, 0.5, "d")
    with pytest.raises(ConnectionFailedError):
        next(stream)
    failed = b'{"error":{"message":"The server shut down.","code":"503"}}\n'
    transport, _ = scripted(httpx.Response(200, content=failed))
    with pytest.raises(RequestFailedError, match="shut down"):
        list(Client(transport=transport).stream("q", ["d"]))


def test_it_imports_nothing_heavy() -> None:
    """Nor the packages that only the server needs."""
    program = (
        "import sys; from engine import Client, AsyncClient\n"
        "found = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(found & {'torch', 'numpy', 'msgspec', 'fastapi', 'zmq', 'tokenizers', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_without_httpx_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['httpx'] = None\nfrom engine import Client"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "engine.Client needs httpx, which is not installed: pip install 'httpx" in done.stderr


def check_types(client: Client, documents: list[Any]) -> Ranking:
    """For mypy: options are named and typed."""
    return client.rerank(QUERY, documents, top_n=3, truncate=False, long_document="chunk", min_score=0.5)
