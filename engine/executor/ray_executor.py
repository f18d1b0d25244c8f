"""Workers that a Ray cluster places and supervises, on any of its nodes.

Ray decides where (``ray_cluster.py``), an actor a worker starts the process there (``ray_actor.py``) and tells when it
ends, also when that is because its node is gone. Plans and results travel as everywhere else: over unix sockets to a
worker on this node, over TCP with keys to one on another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from engine import messages
from engine.config import EngineConfig, Placement
from engine.devices import device_row
from engine.errors import ConfigError, DeviceError, ModelLoadError
from engine.executor.multiproc import MultiprocExecutor
from engine.executor.rank_process import WorkerChild
from engine.executor.ray_actor import NodeFacts, WorkerActor
from engine.executor.ray_cluster import (
    NAMESPACE,
    Reservation,
    actor_resources,
    amount_of,
    cause_of,
    connect,
    ray_module,
    reserve,
)
from engine.ipc.channel import Channel
from engine.messages import FromWorker
from engine.model_spec import ModelSpec
from engine.step import TPRank
from engine.version import __version__

logger = logging.getLogger(__name__)
START_TIMEOUT_S = 60.0
"""For an actor to be there: Ray starts a Python process on the node."""
KILL_TIMEOUT_S = 5.0
LOST = -1
"""Exit code of a worker whose node or actor is gone."""


class RayExecutor(MultiprocExecutor):
    def __init__(self, config: EngineConfig, spec: ModelSpec) -> None:
        self._reservation: Reservation | None = None
        if config.device.placement is None:
            self._reservation = reserve(config.device, 1)
            config = self._reservation.config(config, 0)
        else:
            connect(config.device.placement.address)
        try:
            super().__init__(config, spec)
        except BaseException:
            self._release()
            raise

    def _start_workers(self) -> Iterator[tuple[WorkerChild, Channel[FromWorker]]]:
        """All actors are asked at once, and all must agree with this process before the first worker is started."""
        ray, placement = ray_module(), self._config.device.placement
        assert placement is not None
        group = ray.util.get_placement_group(placement.group)
        actors = [self._actor(ray, group, placement, index) for index in range(self._size)]
        try:
            asked = [actor.facts.remote(self._size > 1 and actor is actors[0]) for actor in actors]
            answers = ray.get(asked, timeout=START_TIMEOUT_S)
            nodes = [msgspec.msgpack.decode(answer, type=NodeFacts) for answer in answers]
            for node in nodes:
                _check_versions(node, ray.__version__)
            here = ray.get_runtime_context().get_node_id()
            rendezvous_file = f"{nodes[0].folder}/rendezvous" if self._size > 1 else ""
            started = []
            for index, (actor, node) in enumerate(zip(actors, nodes, strict=True)):
                tp_rank = TPRank(index, self._size, rendezvous_file)
                started.append(self._start_one(ray, actor, node, tp_rank, is_here=node.node == here))
        except ray.exceptions.GetTimeoutError:
            _end(ray, actors)
            raise DeviceError(f"the Ray cluster did not start a worker within {START_TIMEOUT_S:.0f} s.") from None
        except ray.exceptions.RayError as error:
            _end(ray, actors)
            raise ModelLoadError(f"Ray could not start a worker: {cause_of(error)}") from error
        except BaseException:
            _end(ray, actors)
            raise
        yield from started

    def _actor(self, ray: Any, group: Any, placement: Placement, index: int) -> Any:
        device = self._config.device
        row = device_row(device.device)
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=index if placement.bundle is None else placement.bundle
        )
        asked = {"num_gpus": 0, "resources": {}, **actor_resources(row, amount_of(row, device))}
        kind = ray.remote(WorkerActor)
        return kind.options(
            scheduling_strategy=strategy, namespace=NAMESPACE, max_restarts=0, max_concurrency=4, **asked
        ).remote()

    def _start_one(
        self, ray: Any, actor: Any, node: NodeFacts, tp_rank: TPRank, *, is_here: bool
    ) -> tuple[WorkerChild, Channel[FromWorker]]:
        channel: Channel[FromWorker] = (
            Channel.listen(FromWorker)
            if is_here
            else Channel.listen_to_host(ray.util.get_node_ip_address(), FromWorker)
        )
        # Ray shows the actor its own device only, which is therefore the first; on a CPU there is nothing to choose.
        setup = self._setup(0, tp_rank, channel.folder, None if is_here else channel.address)
        endpoint = "" if is_here else channel.address.up.removeprefix("tcp://")
        try:
            encoded = messages.encoder().encode(setup)
            pid = ray.get(actor.start.remote(encoded, endpoint), timeout=START_TIMEOUT_S)
        except BaseException as error:
            channel.close()
            if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, OSError):
                raise DeviceError(
                    f"the node {node.host} cannot reach this one at {endpoint} ({error.cause}): steps and results go "
                    "over TCP between them, so a firewall must let that pass."
                ) from error
            raise
        where = "this node" if is_here else f"the node {node.host}"
        logger.info(
            "worker %d runs on %s (pid %d%s)", tp_rank.index, where, pid, f", {node.devices}" * bool(node.devices)
        )
        return RayChild(ray, actor, pid), channel

    def close(self) -> None:
        super().close()
        self._release()

    def _release(self) -> None:
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None


def _check_versions(node: NodeFacts, ray_version: str) -> None:
    """Plans and messages have no version of their own: both ends must be of the same make."""
    ours = {"engine": __version__, "python": platform.python_version(), "ray": ray_version}
    for name, version in ours.items():
        found = getattr(node, name)
        same = found.split(".")[:2] == version.split(".")[:2] if name == "python" else found == version
        if not same:
            raise ConfigError(
                f"the Ray node {node.host} has {name} {found}, but this process has {name} {version}: install the same "
                "version on every node.",
                param="executor",
            )


def _end(ray: Any, actors: list[Any]) -> None:
    for actor in actors:
        ray.kill(actor, no_restart=True)


class RayChild:
    """A worker's process behind its actor. A thread waits for its end, and makes ``handle`` readable."""

    def __init__(self, ray: Any, actor: Any, pid: int) -> None:
        self._ray, self._actor, self.pid = ray, actor, pid
        self._code: int | None = None
        self._ended = threading.Event()
        self.handle, self._write_end = os.pipe()
        self._watcher = threading.Thread(target=self._watch, name=f"ray-worker-{pid}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        try:
            self._code = int(self._ray.get(self._actor.wait.remote()))
        except Exception as error:
            # Whatever Ray says (the actor was killed, its node is gone), the worker can no longer be trusted.
            logger.info("worker (pid %d): %s", self.pid, cause_of(error))
            self._code = LOST
        self._ended.set()
        os.write(self._write_end, b"x")

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    @property
    def exit_code(self) -> int | None:
        return self._code

    def stop(self, timeout_s: float) -> int:
        return self._code or 0 if self._ended.wait(timeout_s) else self.kill()

    def kill(self) -> int:
        """The process by its actor; where that does not answer, the actor, with which the process dies."""
        if self.alive:
            try:
                self._ray.get(self._actor.kill.remote(), timeout=KILL_TIMEOUT_S)
            except (self._ray.exceptions.RayError, self._ray.exceptions.GetTimeoutError):
                self._ray.kill(self._actor, no_restart=True)
            self._ended.wait(KILL_TIMEOUT_S)
        return LOST if self._code is None else self._code

    def release(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # also where its node is gone
            self._ray.get(self._actor.clean.remote(), timeout=KILL_TIMEOUT_S)
        self._ray.kill(self._actor, no_restart=True)
        self._watcher.join(KILL_TIMEOUT_S)
        if self.handle >= 0 and not self._watcher.is_alive():
            os.close(self.handle)
            os.close(self._write_end)
            self.handle = -1
