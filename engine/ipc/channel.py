"""Sockets between our own processes: typed messages over ``ipc://`` in a private folder. Nothing listens on a port.

A ``Channel`` is one socket for each direction, since a ZeroMQ socket belongs to one thread: whoever sends and whoever
receives may then be two threads. The parent binds, the child connects.

Only a worker on another host (executor ``ray``) is reached over TCP: both sides prove who they are with keys that are
made for this one channel (CurveZMQ), everything is encrypted, and whoever has no key is not heard.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator

from engine import messages
from engine.ipc.private_folder import PrivateFolder

Incoming = TypeVar("Incoming")
SEND_TIMEOUT_MS = 1000
LAST_WORDS_MS = 200
HEARTBEAT_INTERVAL_MS = 2000
"""Over TCP a peer that vanished says nothing: after three of these the connection is given up."""


class ChannelClosedError(Exception):
    """The peer is gone, or this side was closed."""


class Address(msgspec.Struct):
    """The address of a TCP channel, and the keys without which nobody gets in. It is a secret."""

    down: str
    up: str
    server_key: bytes
    client_key: bytes
    client_secret: bytes


class Channel(Generic[Incoming]):
    """Sends any message struct, receives messages of the union ``incoming``. Queues are unbounded: admission is
    decided by the server, and what was accepted must not be dropped here."""

    def __init__(
        self,
        folder: Path | None,
        incoming: Any,
        *,
        bind: bool,
        keys: _Keys | None = None,
        owned: PrivateFolder | None = None,
        send_timeout_ms: int = SEND_TIMEOUT_MS,
    ) -> None:
        """``folder``: of the sockets, for a channel on this host, ``owned`` if it goes with the channel; otherwise
        ``keys`` are needed."""
        self._folder = folder
        self._owned = owned
        self._keys = keys
        self._send_timeout_ms = send_timeout_ms
        self._context = zmq.Context()
        self._guard = keys.guard(self._context) if keys is not None and bind else None
        self._out = self._open(zmq.PUSH, "down" if bind else "up", bind)
        self._in = self._open(zmq.PULL, "up" if bind else "down", bind)
        self._encoder = messages.encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = messages.decoder(incoming)

    @classmethod
    def listen(cls, incoming: Any, *, send_timeout_ms: int = SEND_TIMEOUT_MS) -> Self:
        """A channel in a new folder that only this user can enter (mode 0700).

        ``send_timeout_ms``: how long a send may wait for a peer that is not there; 0 for who must never wait, and has
        heard from its peer before it sends.
        """
        owned = PrivateFolder(for_sockets=True)
        return cls(owned.path, incoming, bind=True, owned=owned, send_timeout_ms=send_timeout_ms)

    @classmethod
    def connect(cls, folder: str, incoming: Any) -> Self:
        return cls(Path(folder), incoming, bind=False)

    @classmethod
    def listen_to_host(cls, host: str, incoming: Any) -> Self:
        """A channel on two free TCP ports of the address ``host``, for the one peer that is told ``address``."""
        return cls(None, incoming, bind=True, keys=_Keys.new(host))

    @classmethod
    def connect_to(cls, address: Address, incoming: Any) -> Self:
        return cls(None, incoming, bind=False, keys=_Keys(address, b""))

    @property
    def folder(self) -> str:
        return "" if self._folder is None else str(self._folder)

    @property
    def address(self) -> Address:
        assert self._keys is not None, "a channel in a folder has no address"
        return self._keys.address

    def _open(self, kind: int, name: str, bind: bool) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 1000)
        # Only a peer that is not there (yet, or any more) makes a send wait: queues are unbounded.
        socket.setsockopt(zmq.SNDTIMEO, self._send_timeout_ms)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        if self._keys is not None:
            self._keys.open(socket, name, bind=bind)
        elif bind:
            socket.bind(f"ipc://{self._folder}/{name}")
        else:
            socket.connect(f"ipc://{self._folder}/{name}")
        return socket

    def send(self, message: Any) -> None:
        """Queue a message; never blocks. Raises ``ChannelClosedError`` once the channel is closed."""
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

    def hide(self, timeout_s: float = 1.0) -> bool:
        """Removes the folder of the sockets once both are connected: whoever is killed later leaves nothing behind.

        For the thread that sends, after the first message has come. False while nobody receives what it sends.
        """
        if self._owned is not None and self._out.poll(int(timeout_s * 1000), zmq.POLLOUT):
            self._owned.remove()
            self._owned = None
        return self._owned is None

    def close(self) -> None:
        self._out.close()
        self._in.close()
        if self._guard is not None:
            self._guard.stop()
        self._context.term()
        if self._owned is not None:
            self._owned.remove()


class _Keys:
    """How the two sockets of a TCP channel are opened and guarded."""

    def __init__(self, address: Address, server_secret: bytes) -> None:
        self.address = address
        self._server_secret = server_secret

    @classmethod
    def new(cls, host: str) -> Self:
        server, server_secret = zmq.curve_keypair()
        client, client_secret = zmq.curve_keypair()
        endpoint = f"tcp://[{host}]:*" if ":" in host else f"tcp://{host}:*"
        return cls(Address(endpoint, endpoint, server, client, client_secret), server_secret)

    def guard(self, context: zmq.Context[zmq.Socket[bytes]]) -> ThreadAuthenticator:
        """Lets in the one client that has this channel's key; started before anything is bound."""
        guard = ThreadAuthenticator(context)
        guard.start()
        guard.configure_curve_callback(credentials_provider=self)
        return guard

    def callback(self, domain: str, key: bytes) -> bool:
        """Answers the guard of the socket whether a client may enter; ``key`` is the client's."""
        return key == self.address.client_key

    def open(self, socket: zmq.Socket[bytes], name: str, *, bind: bool) -> None:
        socket.setsockopt(zmq.IPV6, "[" in self.address.up)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_INTERVAL_MS)
        if not bind:
            socket.curve_serverkey = self.address.server_key
            socket.curve_publickey, socket.curve_secretkey = self.address.client_key, self.address.client_secret
            socket.connect(getattr(self.address, name))
            return
        socket.curve_server = True
        socket.curve_secretkey = self._server_secret
        socket.bind(getattr(self.address, name))
        bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        setattr(self.address, name, bound)


def process_handle(pid: int) -> int:
    """A file descriptor that becomes readable when the process ends."""
    return os.pidfd_open(pid)
