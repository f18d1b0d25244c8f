"""One listening socket, several processes: each connection goes to a process that has few.

All API servers wait at the same socket, and the kernel gives a connection to whichever accepts first. Left to itself
that is often one process for a whole burst (measured: 36, 27, 1 and 0 of 64 connections at four processes on two
cores), and connections that are kept alive stay where they are. So the number of connections of each API server stands
in shared memory: a server that has more than another waits a millisecond before it accepts the next one, and accepts it
if it is still there then. A server that is busy, or hangs, therefore costs the others that millisecond at most.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import ssl
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp

from engine.config import ServerConfig
from engine.entrypoints.serve.http import HttpServer, http_settings

logger = logging.getLogger(__name__)
YIELD_S = 0.001
PAUSE_S = 1.0
"""After an error of the system, such as no descriptors left."""
NOT_LISTENING = 2**31 - 1
"""Instead of a number, for an API server that accepts no connections."""


class ConnectionCounts:
    """The number of connections of each API server, in shared memory. Each writes its own; the coordinator writes
    ``NOT_LISTENING`` for one that has died."""

    def __init__(self, descriptor: int, num_servers: int) -> None:
        self.descriptor = descriptor
        self._numbers = memoryview(mmap.mmap(descriptor, 4 * num_servers)).cast("i")

    @classmethod
    def create(cls, num_servers: int) -> ConnectionCounts:
        """New shared memory, in which no server listens yet."""
        descriptor = os.memfd_create("connections")
        os.truncate(descriptor, 4 * num_servers)
        counts = cls(descriptor, num_servers)
        for index in range(num_servers):
            counts[index] = NOT_LISTENING
        return counts

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]

    def __setitem__(self, index: int, number: int) -> None:
        self._numbers[index] = number

    def fewest(self) -> int:
        """The smallest number of connections that any API server has."""
        return min(self._numbers)


class FairListener:
    """Accepts connections of a socket that other processes share. Its methods are those of an asyncio server."""

    def __init__(
        self,
        listener: socket.socket,
        counts: ConnectionCounts,
        index: int,
        make_protocol: Callable[[], asyncio.Protocol],
        num_open: Callable[[], int],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._listener = listener
        self._counts = counts
        self._index = index
        self._make_protocol = make_protocol
        self._num_open = num_open
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.publish()
        self._loop.add_reader(listener.fileno(), self._on_connection)

    def publish(self) -> None:
        """Writes the number of this server's connections where the others see it."""
        self._counts[self._index] = NOT_LISTENING if self._is_closed else self._num_open() + len(self._opening)

    def close(self) -> None:
        """Accepts no more connections; open ones go on."""
        self._is_closed = True
        self._loop.remove_reader(self._listener.fileno())
        if self._waiting is not None:
            self._waiting.cancel()
        self.publish()

    async def wait_closed(self) -> None:
        """Waits until connections that were just accepted have their protocol."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _on_connection(self) -> None:
        self.publish()
        if self._counts[self._index] > self._counts.fewest():
            self._wait(YIELD_S, self._take_late)
        else:
            self._take()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._waiting = self._loop.call_later(seconds, then)

    def _take_late(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._listener.fileno(), self._on_connection)
        self._take()

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another API server has it, or its client is gone
        except OSError as error:
            logger.error("cannot take a connection, trying again in %.0f s: %s", PAUSE_S, error.strerror)
            self._wait(PAUSE_S, self._take_late)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opened)
        self.publish()

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening.discard(opening)
        self.publish()

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection, ssl=self._tls)
        except OSError:
            connection.close()  # its client is gone


class SharingHttpServer(HttpServer):
    """uvicorn, taking its connections from a ``FairListener``."""

    def __init__(self, app: ASGIApp, config: ServerConfig, counts: ConnectionCounts, index: int) -> None:
        super().__init__(http_settings(app, config), config)
        self._counts = counts
        self._index = index

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """uvicorn's own, but for who listens."""
        assert sockets is not None
        await self.lifespan.startup()
        self._listeners = [
            FairListener(
                one,
                self._counts,
                self._index,
                self._protocol,
                lambda: len(self.server_state.connections),
                self.config.ssl,
            )
            for one in sockets
        ]
        self.servers = self._listeners  # type: ignore[assignment]  # closed and waited for like its own
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: connections that ended count no longer."""
        for listener in self._listeners:
            listener.publish()
        return await super().on_tick(counter)
