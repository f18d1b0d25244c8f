"""Several takers at one listening socket: who has few takes the next connection, and nobody waits for the absent."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from typing import Self

import pytest

from engine.entrypoints.serve.api_servers.listener import NOT_LISTENING, ConnectionCounts, FairListener
from engine.entrypoints.serve.loop import new_loop


class Echo(asyncio.Protocol):
    def __init__(self, taken: list[asyncio.Transport]) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._taken.append(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        listener.setblocking(False)
        yield listener


class Takers:
    """Several in one process, each with its own descriptor of the socket. A context: all is closed at its end."""

    def __init__(self, listener: socket.socket, counts: ConnectionCounts, number: int) -> None:
        self.clients: list[socket.socket] = []
        self._listener = listener
        self.taken = [list[asyncio.Transport]() for _ in range(number)]
        self.sockets = [type(listener)(fileno=os.dup(listener.fileno())) for _ in range(number)]
        self.listeners = [self._start(counts, index) for index in range(number)]

    def _start(self, counts: ConnectionCounts, index: int) -> FairListener:
        taken = self.taken[index]
        return FairListener(self.sockets[index], counts, index, lambda: Echo(taken), lambda: len(taken))

    @property
    def numbers(self) -> list[int]:
        return [len(taken) for taken in self.taken]

    async def connect(self, number: int) -> None:
        """Until each has been taken and has had its echo."""
        loop, new = asyncio.get_running_loop(), [socket.socket() for _ in range(number)]
        self.clients += new
        for client in new:
            client.setblocking(False)
            await loop.sock_connect(client, self._listener.getsockname())
        for client in new:
            await loop.sock_sendall(client, b"x")
        for client in new:
            assert await asyncio.wait_for(loop.sock_recv(client, 1), 5) == b"x"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for one in self.listeners:
            one.close()
            await one.wait_closed()
        for transport in (transport for taken in self.taken for transport in taken):
            transport.close()
        for each in (*self.clients, *self.sockets):
            each.close()
        await asyncio.sleep(0.01)  # transports end in the next turn


def run(work: object) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work)  # type: ignore[arg-type]


def test_a_burst_is_shared(listening: socket.socket) -> None:
    async def work() -> None:
        counts = ConnectionCounts.create(3)  # the third is away
        async with Takers(listening, counts, 2) as takers:
            await takers.connect(40)
            assert sum(takers.numbers) == 40
            assert min(takers.numbers) >= 15
            assert [counts[index] for index in range(3)] == [*takers.numbers, NOT_LISTENING]
            assert takers.taken[0][0].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            first, second = takers.numbers
            takers.listeners[0].close()  # from now on, all are the other's
            await takers.connect(10)
            assert (takers.numbers, counts[0]) == ([first, second + 10], NOT_LISTENING)

    run(work())


def test_nobody_waits_long_for_one_that_hangs(listening: socket.socket) -> None:
    async def work() -> None:
        counts = ConnectionCounts.create(2)
        counts[1] = 0  # it has none, and takes none
        async with Takers(listening, counts, 1) as takers:
            started = time.monotonic()
            await takers.connect(30)
            assert takers.numbers == [30]
            assert time.monotonic() - started < 2

    run(work())


def test_the_numbers_are_one_memory() -> None:
    ours = ConnectionCounts.create(2)
    theirs = ConnectionCounts(os.dup(ours.descriptor), 2)
    theirs[1] = 7
    assert (ours[0], ours[1], ours.fewest()) == (NOT_LISTENING, 7, 7)


def test_an_error_of_the_system_is_no_end(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors left, once: the connection is taken a moment later."""
    failures = [OSError(24, "Too many open files")]

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if failures:
                raise failures.pop()
            return super().accept()

    async def work() -> None:
        monkeypatch.setattr("engine.entrypoints.serve.api_servers.listener.PAUSE_S", 0.05)
        with Full(fileno=os.dup(listening.fileno())) as full:
            async with Takers(full, ConnectionCounts.create(1), 1) as takers:
                await takers.connect(1)
        assert not failures

    run(work())
