"""What runs on the node where Ray has placed a worker: an actor that starts the worker's process and stands by it.

It is a plain class; ``ray_executor.py`` makes an actor of it. What crosses Ray's own border is bytes, numbers and short
texts. Steps never do: the worker's process has a channel of its own to the executor. The process dies with the actor,
since the actor holds its life line, and the actor dies with the executor that started it.
"""

from __future__ import annotations

import os
import platform
import socket

import msgspec

from engine import messages
from engine.devices import DEVICES
from engine.executor.ray_cluster import ray_module
from engine.executor.worker_process import WORKER_MODULE, WorkerSetup
from engine.ipc.child_process import Child
from engine.ipc.private_folder import PrivateFolder
from engine.version import __version__

REACH_TIMEOUT_S = 5.0
_VISIBLE = tuple(row.visible_devices for row in DEVICES if row.visible_devices)


class NodeFacts(msgspec.Struct):
    """The facts of a node before anything is loaded there."""

    engine: str
    python: str
    ray: str
    node: str
    host: str
    folder: str
    """A new folder of this actor's, which only this user can enter; empty if it was not asked for one."""
    devices: str
    """The devices of the node that Ray lets the actor see, by their environment variables."""


class WorkerActor:
    def __init__(self) -> None:
        self._child: Child | None = None
        self._folder: PrivateFolder | None = None

    def facts(self, with_folder: bool) -> bytes:
        """The facts of this node; ``with_folder`` makes a private folder for the rendezvous file of a group."""
        if with_folder:
            self._folder = PrivateFolder()
        ray = ray_module()
        context = ray.get_runtime_context()
        shown = [f"{name}={os.environ[name]}" for name in _VISIBLE if name in os.environ]
        return msgspec.msgpack.encode(
            NodeFacts(
                engine=__version__,
                python=platform.python_version(),
                ray=ray.__version__,
                node=context.get_node_id(),
                host=ray.util.get_node_ip_address(),
                folder="" if self._folder is None else str(self._folder.path),
                devices=", ".join(shown),
            )
        )

    def start(self, setup: bytes, endpoint: str) -> int:
        """Start the worker; its process id. ``endpoint``: ``host:port`` that it has to reach, or empty."""
        if endpoint:
            host, _, port = endpoint.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), REACH_TIMEOUT_S).close()
        self._child = Child(WORKER_MODULE, messages.decoder(WorkerSetup).decode(setup))
        return self._child.pid

    def wait(self) -> int:
        """Waits until the worker has ended; returns its exit code."""
        assert self._child is not None
        return self._child.wait()

    def clean(self) -> None:
        """The worker has ended: leave nothing behind."""
        if self._folder is not None:
            self._folder.remove()

    def kill(self) -> int:
        return self._child.kill() if self._child is not None else 0
