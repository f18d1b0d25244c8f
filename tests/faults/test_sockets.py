"""Deadlines and caps at the socket, with a real one: uvicorn with our protocol in front of the fake core."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import uvicorn

from engine.config import ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.ports import listen
from engine.entrypoints.serve.protocol import SocketLimits, guarded_protocol
from engine.entrypoints.serve.service import RerankService
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor

HEAD_S, BODY_S = 0.4, 0.5
LIVE = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CALL = json.dumps({"query": "q", "documents": ["a", "b"]}).encode()


class _Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def server(
    core: FakeCore | None = None, max_connections: int = 100, keys: tuple[str, ...] = ()
) -> AsyncIterator[int]:
    service = RerankService(ServerConfig(api_key=keys), ServerMetrics())
    service.attach(LoadedEngine(SPEC, FakeProcessor(), core or FakeCore()))
    protocol = guarded_protocol(SocketLimits(HEAD_S, BODY_S, max_connections))
    config = uvicorn.Config(create_app(service), http=protocol, ws="none", lifespan="off", log_config=None)
    listener = listen("127.0.0.1", 0)
    http = _Quiet(config)
    task = asyncio.create_task(http.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        http.should_exit = http.force_exit = True
        await task
        await service.stop()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def trickle(self, data: bytes, pause_s: float = 0.05) -> None:
        """A byte at a time, until the other side has had enough."""
        try:
            for byte in data:
                self.writer.write(bytes([byte]))
                await self.writer.drain()
                await asyncio.sleep(pause_s)
        except ConnectionError:
            return

    async def answer(self) -> tuple[int, bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def closed(self, timeout_s: float = 3.0) -> bytes:
        """What came until the other side closed."""
        try:
            return await asyncio.wait_for(self.reader.read(), timeout_s)
        except ConnectionError:
            return b""


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def post(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (size, body)


@pytest.mark.parametrize("bytes_sent", [b"", b"GET /live HTTP/1.1\r\n" + b"X-Slow: " + b"a" * 200])
async def test_a_slow_head_is_closed_however_steadily_it_comes(bytes_sent: bytes) -> None:
    async with server() as port, connection(port) as slow:
        started = time.monotonic()
        sending = asyncio.create_task(slow.trickle(bytes_sent))
        assert await slow.closed() == b""
        assert HEAD_S * 0.9 < time.monotonic() - started < HEAD_S + 1
        await sending


async def test_a_slow_body_gets_408() -> None:
    async with server() as port, connection(port) as slow:
        started = time.monotonic()
        slow.writer.write(post(b'{"query"', length=5000))
        sending = asyncio.create_task(slow.trickle(b" " * 200))
        status, body = await slow.answer()
        assert (status, json.loads(body)["error"]["type"]) == (408, "request_timeout")
        assert BODY_S * 0.9 < time.monotonic() - started < BODY_S + 1.5
        assert await slow.closed() == b""
        await sending


async def test_a_body_that_keeps_a_decent_pace_may_take_longer() -> None:
    body = CALL + b" " * 400_000  # at 64 KiB/s it may take six seconds more
    async with server() as port, connection(port) as steady:
        head, rest = post(body)[:200_000], post(body)[200_000:]
        steady.writer.write(head)
        await asyncio.sleep(BODY_S * 2)
        steady.writer.write(rest)
        assert (await steady.answer())[0] == 200


async def test_a_head_without_end_gets_431() -> None:
    async with server() as port, connection(port) as endless:
        endless.writer.write(b"GET /live HTTP/1.1\r\nX-Long: " + b"a" * 200_000)
        answer = await endless.closed()
        assert answer.startswith(b"HTTP/1.1 431")
        assert b'"headers_too_large"' in answer


async def test_deadlines_do_not_touch_who_waits_for_an_answer() -> None:
    """A call that computes for longer than both deadlines, with another one already sent behind it."""
    core = FakeCore(pairs_per_step=1, step_s=(HEAD_S + BODY_S) * 0.7)
    async with server(core) as port, connection(port) as patient:
        patient.writer.write(post(CALL) + post(CALL)[:60])
        assert (await patient.answer())[0] == 200
        patient.writer.write(post(CALL)[60:])
        assert (await patient.answer())[0] == 200
        await asyncio.sleep(HEAD_S * 1.5)  # between two requests the keep-alive time holds
        patient.writer.write(LIVE)
        assert (await patient.answer())[0] == 200


async def test_idle_connections_make_way_for_new_ones() -> None:
    async with server(max_connections=20) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        async with connection(port) as newcomer:
            newcomer.writer.write(LIVE)
            assert (await newcomer.answer())[0] == 200
        for _, writer in idle:
            writer.close()


async def test_compressed_bodies_are_not_inflated() -> None:
    async with server() as port, connection(port) as client:
        client.writer.write(
            post(b"\x1f\x8b\x08").replace(b"Host: localhost", b"Host: localhost\r\nContent-Encoding: gzip")
        )
        assert (await client.answer())[0] == 415


async def test_trailers_are_bounded_and_never_become_headers() -> None:
    head = b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%b\r\n0\r\n" % (len(CALL), CALL)
    async with server(keys=("secret",)) as port, connection(port) as client:
        client.writer.write(head + body + b"Authorization: Bearer secret\r\n\r\n")
        assert (await client.answer())[0] == 401
    async with server() as port:
        async with connection(port) as client:
            client.writer.write(head + body + b"X-Checksum: 1\r\n\r\n" + LIVE)
            assert (await client.answer())[0] == 200
            assert (await client.answer())[0] == 200
        for trailer in (b"x: y\r\n" * 20_000, b"x: " + b"y" * 200_000):
            async with connection(port) as client:
                client.writer.write(head + body + trailer)
                await client.closed()
            async with connection(port) as client:
                client.writer.write(LIVE)
                assert (await client.answer())[0] == 200


PAGES = (
    (b"Host: localhost:8000", 200),
    (b"Host: [::1]:8000", 200),
    (b"Host: [0:0:0:0:0:0:0:1]:8000", 200),
    (b"Host: LOCALHOST", 200),
    (b"Host: localhost.:8000", 200),
    (b"Host: 127.1.2.3", 200),
    (b"Host: rebound.example", 421),
    (b"Host: rebound.example:8000", 421),
    (b"Host: localhost.rebound.example", 421),
    (b"Host: 127.0.0.1.rebound.example", 421),
    (b"Host: [::1].rebound.example", 421),
    (b"Host: [::1", 421),
    (b"Host: [fe80::1]:8000", 421),
    (b"Host: localhost:8000:9", 421),
    (b"Host: localhost@rebound.example", 421),
    (b"Host: rebound.example, localhost", 421),
    (b"Host: localhost\r\nOrigin: http://localhost", 200),
    (b"Host: localhost\r\nOrigin: https://stranger.example", 403),
    (b"Host: localhost\r\nOrigin: null", 403),
    (b"Host: localhost\r\nSec-Fetch-Site: cross-site", 403),
    (b"Host: localhost\r\nSec-Fetch-Site: same-origin", 200),
)


async def test_a_page_of_a_stranger_cannot_use_a_server_on_loopback() -> None:
    request = b"POST /v1/rerank HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n\r\n%b"
    async with server() as port:
        for headers, status in PAGES:
            async with connection(port) as client:
                client.writer.write(request % (len(CALL), headers, CALL))
                assert ((await client.answer())[0], headers) == (status, headers)
