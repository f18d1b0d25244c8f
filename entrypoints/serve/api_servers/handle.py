"""One front as main has it: the process, the channel to it, and what it said last."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from itertools import count

from engine.entrypoints.serve.api_servers.messages import (
    Connected,
    Count,
    FromFront,
    FrontSetup,
    Snapshot,
    SnapshotRequest,
    ToFront,
)
from engine.ipc.channel import Channel, ChannelClosedError
from engine.ipc.child_process import Child

SNAPSHOT_TIMEOUT_S = 0.5
SILENCE_S = 2.5
"""A front that has said nothing for so long is not waited for."""


class FrontHandle:
    """A thread reads what the front says; everything else belongs to the loop. Sending never waits."""

    def __init__(
        self,
        setup: Callable[[str], FrontSetup],
        on_message: Callable[[FrontHandle, FromFront], None],
        on_gone: Callable[[FrontHandle], None],
    ) -> None:
        """``setup`` of a front whose channel is in that folder. ``on_gone`` is called once, after the last message."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_gone = on_gone
        self._channel: Channel[FromFront] = Channel.listen(FromFront, send_timeout_ms=0)
        made = setup(self._channel.folder)
        self.index = made.index
        self.child = Child(
            "engine.entrypoints.serve.api_servers.process", made, pass_fds=(made.listener_fd, made.counts_fd)
        )
        self.pid = self.child.pid
        self.connected = False
        self.attached = False
        """It has the models."""
        self.gone = asyncio.Event()
        self.counts: list[Count] = []
        self.silent_s = 0.0
        """Since its last message, as far as main was awake itself: whoever stops both stops this clock too."""
        self._snapshots: dict[int, asyncio.Event] = {}
        self._numbers = count(1)
        threading.Thread(target=self._read, name=f"from-api-{self.index}", daemon=True).start()

    def send(self, message: ToFront) -> None:
        """A front that is not there is told nothing: it learns what it needs when it comes."""
        if self.connected:
            with contextlib.suppress(ChannelClosedError):  # it is ending; the reading thread will say so
                self._channel.send(message)

    def kill(self) -> None:
        """Elsewhere: the system may take its time with a large process."""
        self._loop.run_in_executor(None, self.child.kill)

    async def refresh(self) -> None:
        """Ask for its counts, and wait a moment unless it is silent anyway; then the last ones have to do."""
        if not self.connected or self.silent_s > SILENCE_S:
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

    def _dispatch(self, message: FromFront) -> None:
        self.silent_s = 0.0
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
        self._on_gone(self)
