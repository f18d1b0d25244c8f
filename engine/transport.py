"""Sockets between our own processes: typed messages over ``ipc://`` in a private folder. Nothing listens on a port.

A ``Channel`` is one socket for each direction, since a ZeroMQ socket belongs to one thread: whoever sends and whoever
receives may then be two threads. The parent binds, the child connects.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import msgspec
import zmq

from engine import messages

Incoming = TypeVar("Incoming")
SEND_TIMEOUT_MS = 1000
LAST_WORDS_MS = 200


class ChannelClosedError(Exception):
    """The peer is gone, or this side was closed."""


class Channel(Generic[Incoming]):
    """Sends any message struct, receives messages of the union ``incoming``. Queues are unbounded: admission is
    decided at the door, and what was accepted must not be dropped here."""

    def __init__(self, folder: Path, incoming: Any, *, bind: bool) -> None:
        self._folder = folder
        self._owns_folder = bind
        self._context = zmq.Context()
        self._out = self._open(zmq.PUSH, "down" if bind else "up", bind)
        self._in = self._open(zmq.PULL, "up" if bind else "down", bind)
        self._encoder = messages.encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = messages.decoder(incoming)

    @classmethod
    def listen(cls, incoming: Any) -> Self:
        """A channel in a new folder that only this user can enter (mode 0700)."""
        return cls(Path(tempfile.mkdtemp(prefix="engine-")), incoming, bind=True)

    @classmethod
    def connect(cls, folder: str, incoming: Any) -> Self:
        return cls(Path(folder), incoming, bind=False)

    @property
    def folder(self) -> str:
        return str(self._folder)

    def _open(self, kind: int, name: str, bind: bool) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 1000)
        # Only a peer that is not there (yet, or any more) makes a send wait: queues are unbounded.
        socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        address = f"ipc://{self._folder}/{name}"
        if bind:
            socket.bind(address)
        else:
            socket.connect(address)
        return socket

    def send(self, message: Any) -> None:
        try:
            self._out.send(self._encoder.encode(message), copy=False)
        except zmq.ZMQError as error:
            raise ChannelClosedError(str(error)) from error

    def recv(self, timeout_s: float | None = None, watch_fd: int | None = None) -> Incoming | None:
        """The next message; None after ``timeout_s``. Raises ``ChannelClosedError`` when ``watch_fd`` becomes readable
        (a process handle: its process ended) and nothing is left to read."""
        poller = zmq.Poller()
        poller.register(self._in, zmq.POLLIN)
        if watch_fd is not None:
            poller.register(watch_fd, zmq.POLLIN)
        try:
            ready = dict(poller.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))))
            # Last words may still be on their way from the socket's own thread when the process is already gone.
            if self._in in ready or (ready and self._in.poll(LAST_WORDS_MS)):
                return self._decoder.decode(self._in.recv())
        except zmq.ZMQError as error:
            raise ChannelClosedError(str(error)) from error
        if watch_fd is not None and watch_fd in ready:
            raise ChannelClosedError("the peer process ended")
        return None

    def close(self) -> None:
        self._out.close()
        self._in.close()
        self._context.term()
        if self._owns_folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def process_handle(pid: int) -> int:
    """A file descriptor that becomes readable when the process ends."""
    return os.pidfd_open(pid)
