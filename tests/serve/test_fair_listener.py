"""Several takers at one listening socket: who has few takes the next connection, and nobody waits for the absent."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator

import pytest

from engine.entrypoints.serve.fronts.listener import AWAY, ConnectionCounts, FairListener
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
    """Several in one process, each with its own descriptor of the socket."""

    def __init__(self, listener: socket.socket, counts: ConnectionCounts, number: int) -> None:
        self.taken = [list[asyncio.Transport]() for _ in range(number)]
        self.sockets = [type(listener)(fileno=os.dup(listener.fileno())) for _ in range(number)]
        self.listeners = [self._start(counts, index) for index in range(number)]

    def _start(self, counts: ConnectionCounts, index: int) -> FairListener:
        taken = self.taken[index]
        return FairListener(self.sockets[index], counts, index, lambda: Echo(taken), lambda: len(taken))

    @property
    def numbers(self) -> list[int]:
        return [len(taken) for taken in self.taken]

    async def close(self, clients: list[socket.socket]) -> None:
        for one in self.listeners:
            one.close()
            await one.wait_closed()
        for transport in (transport for taken in self.taken for transport in taken):
            transport.close()
        for each in (*clients, *self.sockets):
            each.close()
        await asyncio.sleep(0.01)  # transports end in the next turn


async def connect(listener: socket.socket, number: int) -> list[socket.socket]:
    """Connections that were taken: each has had its echo."""
    loop, found = asyncio.get_running_loop(), []
    for _ in range(number):
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        found.append(client)
    for client in found:
        await loop.sock_sendall(client, b"x")
    for client in found:
        assert await asyncio.wait_for(loop.sock_recv(client, 1), 5) == b"x"
    return found


def run(work: object) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work)  # type: ignore[arg-type]


def test_a_burst_is_shared(listening: socket.socket) -> None:
    async def work() -> None:
        counts = ConnectionCounts.create(3)  # the third is away
        takers = Takers(listening, counts, 2)
        clients = await connect(listening, 40)
        assert takers.numbers == [20, 20]
        assert [counts[index] for index in range(3)] == [20, 20, AWAY]
        assert takers.taken[0][0].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        takers.listeners[0].close()  # from now on, all are the other's
        clients += await connect(listening, 10)
        assert (takers.numbers, counts[0]) == ([20, 30], AWAY)
        await takers.close(clients)

    run(work())


def test_nobody_waits_long_for_one_that_hangs(listening: socket.socket) -> None:
    async def work() -> None:
        counts = ConnectionCounts.create(2)
        counts[1] = 0  # it has none, and takes none
        takers = Takers(listening, counts, 1)
        started = time.monotonic()
        clients = await connect(listening, 30)
        assert takers.numbers == [30]
        assert time.monotonic() - started < 2
        await takers.close(clients)

    run(work())


def test_the_numbers_are_one_memory() -> None:
    ours = ConnectionCounts.create(2)
    theirs = ConnectionCounts(os.dup(ours.descriptor), 2)
    theirs[1] = 7
    assert (ours[0], ours[1], ours.least()) == (AWAY, 7, 7)


def test_an_error_of_the_system_is_no_end(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors left, once: the connection is taken a moment later."""
    failures = [OSError(24, "Too many open files")]

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if failures:
                raise failures.pop()
            return super().accept()

    async def work() -> None:
        monkeypatch.setattr("engine.entrypoints.serve.fronts.listener.PAUSE_S", 0.05)
        with Full(fileno=os.dup(listening.fileno())) as full:
            takers = Takers(full, ConnectionCounts.create(1), 1)
            await takers.close(await connect(listening, 1))
        assert not failures

    run(work())
