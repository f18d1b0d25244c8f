"""A bad network between client and server, made by a proxy: late, slow, cut off, half open. No task is left behind."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import requests

from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3

CALL = {"query": "what is a panda?", "documents": [f"panda {i} eats bamboo" for i in range(40)]}


@dataclass
class FaultyLine:
    """What happens to the bytes on their way, in each direction."""

    latency_s: float = 0.0
    bytes_per_s: float = 1e9
    reset_after: int | None = None
    """Cut the line, with RST, once so many bytes of an answer have passed."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        ways = (self._carry(reader, server_writer, None), self._carry(server_reader, writer, self.reset_after))
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the test is over, and so is its proxy; asyncio's streams do not expect a cancelled task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, server_writer):
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        passed = 0
        while data := await reader.read(65536 if self.bytes_per_s > 1e6 else 256):
            await asyncio.sleep(self.latency_s + len(data) / self.bytes_per_s)
            passed += len(data)
            if limit is not None and passed > limit:
                return
            writer.write(data)
            await writer.drain()


@contextmanager
def through(line: FaultyLine, port: int) -> Iterator[str]:
    """The URL of a proxy in front of ``port``."""
    started: Future[tuple[int, Callable[[], object]]] = Future()

    async def proxy() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(lambda r, w: line.serve(r, w, port), "127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        started.set_result((server.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(stop.set)))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(proxy()))
    thread.start()
    proxy_port, stop = started.result(10)
    try:
        yield f"http://127.0.0.1:{proxy_port}"
    finally:
        stop()
        thread.join(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    checkpoint = make_qwen3(tmp_path_factory.mktemp("network") / "Qwen3-Reranker")
    with ServerProcess(checkpoint, "--body-timeout-s", "2") as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_is_left(server: ServerProcess) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while server.metric("engine_running_calls") + server.metric("engine_queued_pairs"):
        assert time.monotonic() < deadline, "calls are left behind"
        time.sleep(0.05)
    assert server.post("/v1/rerank", CALL).status_code == 200


def test_a_late_line_changes_nothing(server: ServerProcess) -> None:
    expected = server.post("/v1/rerank", CALL).json()["results"]
    with through(FaultyLine(latency_s=0.2), server.port) as url:
        assert requests.post(f"{url}/v1/rerank", json=CALL, timeout=30).json()["results"] == expected


def test_a_body_at_one_kilobyte_a_second_has_a_deadline(server: ServerProcess) -> None:
    body = json.dumps(CALL | {"documents": ["x" * 100] * 200}).encode()
    with through(FaultyLine(bytes_per_s=1024), server.port) as url:
        started = time.monotonic()
        with pytest.raises(requests.exceptions.RequestException):  # the 408 goes out, then the line is closed
            requests.post(f"{url}/v1/rerank", data=body, timeout=30).raise_for_status()
        assert time.monotonic() - started < 10


def test_an_answer_may_be_read_slowly(server: ServerProcess) -> None:
    """A buffering proxy or a slow client: the answer waits for it, complete."""
    expected = server.post("/v1/rerank", CALL).json()["results"]
    with through(FaultyLine(bytes_per_s=4096), server.port) as url:
        answer = requests.post(f"{url}/v1/rerank", json=CALL, headers={"Accept": "text/event-stream"}, timeout=30)
        plain = requests.post(f"{url}/v1/rerank", json=CALL, timeout=30)
    assert answer.status_code == 200
    assert plain.json()["results"] == expected


def test_a_line_cut_during_the_answer(server: ServerProcess) -> None:
    with through(FaultyLine(reset_after=300), server.port) as url, pytest.raises(requests.exceptions.RequestException):
        requests.post(f"{url}/v1/rerank", json=CALL, timeout=30)


def test_a_half_open_line_is_given_up(server: ServerProcess) -> None:
    """The client sent half of its call and closed its side: the rest will never come."""
    body = json.dumps(CALL).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-5]
        )
        client.shutdown(socket.SHUT_WR)
        client.settimeout(10)
        assert b" 200 " not in client.recv(4096).split(b"\r\n")[0]
