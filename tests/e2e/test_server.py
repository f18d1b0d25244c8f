"""One server, many callers, over real sockets: streams, loads, departures and odd requests."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3, official_qwen3_scores

QUERY = "what is a panda?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("server") / "Qwen3-Reranker")


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[ServerProcess]:
    with ServerProcess(checkpoint, "--max-num-batched-tokens", "1k", "--max-body-bytes", "4m") as running:
        yield running


def documents_of(count: int, words: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    vocabulary = ["panda", "bear", "bamboo", "river", "the", "of", "is", "in", "grey", "北京", "capital", "?"]
    return [" ".join(rng.choices(vocabulary, k=rng.randint(1, words))) for _ in range(count)]


def test_scores_are_transformers(server: ServerProcess, checkpoint: Path) -> None:
    documents = documents_of(12, 40)
    results = server.post("/v1/rerank", {"query": QUERY, "documents": documents}).json()["results"]
    expected = official_qwen3_scores(checkpoint, QUERY, documents)
    assert {e["index"]: e["relevance_score"] for e in results} == pytest.approx(dict(enumerate(expected)), abs=1e-5)


@pytest.mark.parametrize("form", ["sse", "ndjson"])
def test_streaming(server: ServerProcess, form: str) -> None:
    documents = documents_of(900, 120)
    body: dict[str, Any] = {"query": QUERY, "documents": documents, "top_n": 10}
    plain = server.post("/v1/rerank", body).json()
    headers = {"Accept": "application/x-ndjson"} if form == "ndjson" else {}
    events, arrivals = [], []
    with server.post("/v1/rerank", body | {"stream": form == "sse"}, headers=headers, stream=True) as answer:
        for line in answer.iter_lines(chunk_size=None):
            text = line.decode()
            if text.startswith("event:") or not text:
                continue
            events.append(json.loads(text.removeprefix("data: ")))
            arrivals.append(time.monotonic())
    assert sorted(event["index"] for event in events[:-1]) == list(range(900))
    final = events[-1]
    assert [e["index"] for e in final["results"]] == [e["index"] for e in plain["results"]]
    assert final["usage"] == plain["usage"]
    by_index = {event["index"]: event["relevance_score"] for event in events[:-1]}
    for entry in (*final["results"], *plain["results"]):
        assert by_index[entry["index"]] == pytest.approx(entry["relevance_score"], abs=1e-6)
    # The scores of the first step were here long before those of the last one: nothing waited for the end.
    assert len({round(arrival, 2) for arrival in arrivals}) > 3


async def test_fifty_callers_long_and_short(server: ServerProcess) -> None:
    calls = [(f"query {i}", documents_of(200, 60, i) if i % 10 == 0 else documents_of(3, 10, i)) for i in range(50)]

    async def ask(session: aiohttp.ClientSession, query: str, documents: list[str]) -> tuple[list[float], float]:
        started = time.monotonic()
        async with session.post("/v1/score", json={"text_1": query, "text_2": documents}) as answer:
            assert answer.status == 200, await answer.text()
            data = (await answer.json())["data"]
        assert [entry["index"] for entry in data] == list(range(len(documents)))
        return [entry["score"] for entry in data], time.monotonic() - started

    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        together = await asyncio.gather(*(ask(session, *call) for call in calls))
        for call, (scores, _) in zip(calls, together, strict=True):
            alone, _ = await ask(session, *call)
            assert scores == pytest.approx(alone, abs=1e-6)
    short = sorted(seconds for i, (_, seconds) in enumerate(together) if i % 10)
    long = sorted(seconds for i, (_, seconds) in enumerate(together) if i % 10 == 0)
    assert short[len(short) // 2] < long[len(long) // 2]  # a long call does not hold up the short ones


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_what_has_not_run(server: ServerProcess, stream: bool) -> None:
    before, aborted = server.metric("engine_cancelled_total"), server.metric("engine_core_aborted_pairs_total")
    body = json.dumps({"query": "long", "documents": documents_of(2000, 200), "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        server.wait_for("engine_core_waiting_pairs", 1)
    left = time.monotonic()
    server.wait_for("engine_cancelled_total", before + 1)
    assert time.monotonic() - left < 2
    assert server.metric("engine_running_calls") == server.metric("engine_queued_pairs") == 0
    assert server.post("/v1/rerank", {"query": "q", "documents": ["a"]}).status_code == 200
    assert server.metric("engine_core_aborted_pairs_total") > aborted


def test_live_answers_while_a_large_body_is_tokenised(server: ServerProcess) -> None:
    documents = documents_of(1500, 300)
    with requests.Session() as session:
        pending = session.post(
            f"{server.url}/v1/rerank",
            json={"query": "q", "documents": documents, "max_tokens_per_doc": 4, "stream": True},
            stream=True,
            timeout=60,
        )
        started = time.monotonic()
        assert requests.get(f"{server.url}/live", timeout=5).status_code == 200
        assert time.monotonic() - started < 1
        pending.close()


def raw(server: ServerProcess, request: bytes, timeout_s: float = 10.0) -> bytes:
    """The answer to bytes that no library would send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s) as client:
        client.sendall(request)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


def test_odd_requests_over_the_socket(server: ServerProcess) -> None:
    tail = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    json_of_nothing = tail + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    answer = raw(server, b"POST /health/../v1/rerank" + json_of_nothing)
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"POST /v1/rerank" in answer
    for path in (b"//v1/rerank", b"/v1/v1/rerank", b"/v1/%72erank"):  # what clients write where they mean the route
        answer = raw(server, b"POST " + path + json_of_nothing)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"documents" in answer
    many = b"".join(b"X-%d: a\r\n" % i for i in range(2000))
    assert raw(server, b"GET /live" + tail + many + b"\r\n").startswith(b"HTTP/1.1 431")
    assert raw(server, b"GET /live" + tail + b"X: " + b"a" * 100_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    assert raw(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_body_over_the_cap(server: ServerProcess) -> None:
    large = b'{"query": "q", "documents": ["%b"]}' % (b"x" * 6_000_000)
    answer = requests.post(f"{server.url}/v1/rerank", data=large, timeout=20)
    assert answer.status_code == 413
    parts = (large[start : start + 65536] for start in range(0, len(large), 65536))
    chunked = requests.post(f"{server.url}/v1/rerank", data=parts, timeout=20)
    assert (chunked.status_code, chunked.headers["Connection"]) == (413, "close")
