"""One API server as the coordinator has it: the process, the channel to it, and its latest counters."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from itertools import count

from engine.entrypoints.serve.api_servers.messages import (
    ApiServerSetup,
    Connected,
    Count,
    FromApiServer,
    Snapshot,
    SnapshotRequest,
    ToApiServer,
)
from engine.ipc.channel import Channel, ChannelClosedError
from engine.ipc.child_process import Child

SNAPSHOT_TIMEOUT_S = 0.5
HEARTBEAT_TIMEOUT_S = 2.5
"""An API server that has sent nothing for so long is not waited for."""


class ApiServerHandle:
    """A thread reads the messages of the API server; all else runs on the event loop. Sending never waits."""

    def __init__(
        self,
        setup: Callable[[str], ApiServerSetup],
        on_message: Callable[[ApiServerHandle, FromApiServer], None],
        on_exit: Callable[[ApiServerHandle], None],
    ) -> None:
        """``setup`` makes the set-up from the channel's folder. ``on_exit`` is called once, after the last message."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_exit = on_exit
        self._channel: Channel[FromApiServer] = Channel.listen(FromApiServer, send_timeout_ms=0)
        made = setup(self._channel.folder)
        self.index = made.index
        self.child = Child(
            "engine.entrypoints.serve.api_servers.process",
            made,
            pass_fds=(made.listener_fd, made.counts_fd),
            environment={},
        )
        self.pid = self.child.pid
        self.connected = self._hidden = False
        self.attached = False
        """It has the models, and takes calls for them."""
        self.gone = asyncio.Event()
        self.counts: list[Count] = []
        self.since_heartbeat_s = 0.0
        """Seconds since its last message, counted while the coordinator runs: stopping both stops this clock too."""
        self._snapshots: dict[int, asyncio.Event] = {}
        self._numbers = count(1)
        threading.Thread(target=self._read, name=f"from-api-{self.index}", daemon=True).start()

    def send(self, message: ToApiServer) -> None:
        """Sends unless the API server is not connected: it learns what it needs when it connects."""
        if self.connected:
            with contextlib.suppress(ChannelClosedError):  # it is ending; the reading thread will say so
                self._channel.send(message)

    def kill(self) -> None:
        """Kills the process, in a thread: the system may take its time with a large one."""
        self._loop.run_in_executor(None, self.child.kill)

    async def refresh(self) -> None:
        """Asks for its counters, and waits up to ``SNAPSHOT_TIMEOUT_S``; a silent server's last ones have to do."""
        if not self.connected or self.since_heartbeat_s > HEARTBEAT_TIMEOUT_S:
            return
        number = next(self._numbers)
        self._snapshots[number] = here = asyncio.Event()
        self.send(SnapshotRequest(number))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(here.wait(), SNAPSHOT_TIMEOUT_S)
        del self._snapshots[number]

    def _read(self) -> None:
        while True:
            try:
                message = self._channel.recv(watch_fd=self.child.handle)
            except ChannelClosedError:
                self._loop.call_soon_threadsafe(self._end)
                return
            if message is not None:
                self._loop.call_soon_threadsafe(self._dispatch, message)

    def _dispatch(self, message: FromApiServer) -> None:
        self.since_heartbeat_s = 0.0
        self._hidden = self._hidden or self._channel.hide(0)
        if isinstance(message, Snapshot):
            self.counts = message.counts
            if message.number in self._snapshots:
                self._snapshots[message.number].set()
            return
        if isinstance(message, Connected):
            self.connected = True
        self._on_message(self, message)

    def _end(self) -> None:
        self.connected = self.attached = False
        self.child.wait()
        self.child.release()
        # Nobody uses the channel any more; closing it may wait for messages that nobody will read.
        self._loop.run_in_executor(None, self._channel.close)
        self.gone.set()
        self._on_exit(self)
