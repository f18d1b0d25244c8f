"""Ray, which chooses the nodes: the cluster, the devices that it sets aside, and all that can be wrong with them.

``connect`` takes the cluster of ``RAY_ADDRESS``, else one that runs on this machine, else it starts one here.
``reserve`` sets devices aside before anything is loaded: for one replica a group of bundles on one node (STRICT_PACK),
for several a bundle each, spread over the nodes (SPREAD); a bundle never leaves a node, so the workers of a replica are
together either way. Ray frees them when the process that reserved them ends. No wait is without a deadline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.config import DeviceConfig, EngineConfig, Placement
from engine.devices import DEVICES, HOST, DeviceRow, device_row
from engine.errors import ConfigError, DeviceError
from engine.extras import pip_install
from engine.time_limit import within

logger = logging.getLogger(__name__)

NAMESPACE = "engine"
CONNECT_TIMEOUT_S = 60.0
RESERVE_TIMEOUT_S = 30.0


def ray_module() -> Any:
    """The module ``ray``. Raises ``ConfigError`` where it is not installed."""
    try:
        import ray
    except ImportError:
        raise ConfigError(
            f"--distributed-executor-backend ray needs Ray: {pip_install('ray')}.", param="executor"
        ) from None
    return ray


def connect(address: str | None = None) -> str:
    """Be a driver of the cluster; returns its address. Raises ``ConfigError`` with the reason where that fails."""
    ray = ray_module()
    if ray.is_initialized():
        return _address(ray)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    named = address or os.environ.get("RAY_ADDRESS")

    def start() -> Any:
        settings = {} if named else {"include_dashboard": False}
        return ray.init(address=address, namespace=NAMESPACE, logging_level=logging.WARNING, **settings)

    where = f"the Ray cluster at {named}" if named else "a Ray cluster on this machine"
    try:
        within(CONNECT_TIMEOUT_S, start, keep_thread=True)
        resources = within(CONNECT_TIMEOUT_S, ray.cluster_resources)
    except TimeoutError:
        raise ConfigError(f"{where} did not answer within {CONNECT_TIMEOUT_S:.0f} s.", param="executor") from None
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{where} cannot be used: {_first_line(error)}", param="executor") from error
    found = _address(ray)
    logger.info("Ray %s at %s: %s", ray.__version__, found, _told(resources))
    return found


def _address(ray: Any) -> str:
    return str(ray.get_runtime_context().gcs_address)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def cause_of(error: BaseException) -> str:
    """The last line says what happened; before it come pages of where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = next((line for line in lines if "No module named" in line), None)
    if missing:
        return f"{missing.rpartition(': ')[2]}; the engine must be installed on every node."
    return lines[-1] if lines else type(error).__name__


def _told(resources: dict[str, float]) -> str:
    names = sorted(row.ray_resource for row in DEVICES)
    kinds = [f"{resources[name]:g} {name}" for name in names if resources.get(name)]
    return ", ".join(kinds) or "no devices"


@dataclass(frozen=True)
class Reservation:
    """Devices set aside for all replicas of a server; ``release`` gives them back."""

    address: str
    name: str
    group: Any
    device: str
    """The name of its row in ``engine/devices.py``."""
    num_replicas: int

    def config(self, config: EngineConfig, index: int) -> EngineConfig:
        """The settings of replica ``index``, which name the device, so that no worker takes another one in silence."""
        placement = Placement(address=self.address, group=self.name, bundle=index if self.num_replicas > 1 else None)
        return replace(config, device=replace(config.device, placement=placement, device=self.device))

    def release(self) -> None:
        ray = ray_module()
        # The cluster may be gone already.
        with contextlib.suppress(ray.exceptions.RayError, RuntimeError, TimeoutError):
            within(RESERVE_TIMEOUT_S, lambda: ray.util.remove_placement_group(self.group))


def disconnect() -> None:
    """Be a driver no more, and end a cluster that ``connect`` started: at exit it is too late for an orderly end."""
    ray = ray_module()
    with contextlib.suppress(TimeoutError):
        within(RESERVE_TIMEOUT_S, ray.shutdown)


def reserve(device: DeviceConfig, num_replicas: int) -> Reservation:
    """Set the devices aside, or say what the cluster lacks.

    Raises ``DeviceError`` for what stays taken, and ``ConfigError`` for settings that Ray cannot keep.
    """
    if device.cpu_pin:
        raise ConfigError(
            "--cpu-pin counts the cores of one machine, and Ray may place several workers on any: leave it out with "
            "the executor ray.",
            param="cpu_pin",
        )
    address = connect()
    ray = ray_module()
    resources, nodes = within(RESERVE_TIMEOUT_S, lambda: (ray.cluster_resources(), ray.nodes()))
    row = row_in_cluster(device, resources)
    resource, each = row.ray_resource, amount_of(row, device)
    size = device.tensor_parallel_size
    check_nodes(nodes, resource, each, size, num_replicas)
    if num_replicas > 1:
        bundles, strategy = [_bundle(row, each * size)] * num_replicas, "SPREAD"
    else:
        bundles, strategy = [_bundle(row, each)] * size, "STRICT_PACK"
    name = f"engine-{uuid.uuid4().hex}"
    group = ray.util.placement_group(bundles, strategy=strategy, name=name)
    if not group.wait(RESERVE_TIMEOUT_S):
        ray.util.remove_placement_group(group)
        raise DeviceError(
            f"the Ray cluster at {address} has {num_replicas * size * each:g} {resource} for {num_replicas} replicas "
            f"of {size} workers, but they were not free together within {RESERVE_TIMEOUT_S:.0f} s; free now: "
            f"{_told(ray.available_resources())}"
        )
    return Reservation(address, name, group, row.name, num_replicas)


def _bundle(row: DeviceRow, amount: float) -> dict[str, float]:
    return {row.ray_resource: amount} | ({} if row.is_host else {HOST.ray_resource: amount})


def amount_of(row: DeviceRow, device: DeviceConfig) -> float:
    """The amount of ``row.ray_resource`` that a worker needs: one device, or the cores that it may use."""
    return float(device.cpu_threads or 1) if row.is_host else 1.0


def row_in_cluster(device: DeviceConfig, resources: Mapping[str, float]) -> DeviceRow:
    """The device that was asked for; for ``auto`` the first that the cluster has."""
    if device.device != "auto":
        return device_row(device.device)
    return next((row for row in DEVICES if resources.get(row.ray_resource)), HOST)


def actor_resources(row: DeviceRow, amount: float) -> dict[str, Any]:
    """How Ray is told that an actor needs ``amount`` of a device: the options of ``ray.remote``."""
    if row.is_host:
        return {"num_cpus": amount}
    if row.ray_resource == "GPU":  # Ray has a word of its own for these
        return {"num_cpus": 1, "num_gpus": amount}
    return {"num_cpus": 1, "resources": {row.ray_resource: amount}}


def check_nodes(nodes: list[dict[str, Any]], resource: str, each: float, size: int, num_replicas: int) -> None:
    """Raises ``DeviceError`` where no waiting helps: no node holds a whole replica, or devices are missing."""
    held = [node["Resources"].get(resource, 0.0) for node in nodes if node["Alive"]]
    group = each * size
    num_fitting = sum(int(amount // group) for amount in held)
    if num_fitting >= num_replicas:
        return
    largest = max(held, default=0.0)
    if not any(held):
        has = f"none of its {len(held)} nodes has the resource {resource}"
    else:
        has = f"its {len(held)} nodes have {', '.join(f'{amount:g}' for amount in held)} {resource}"
    raise DeviceError(
        f"{num_replicas} replicas of {size} workers need {num_replicas * group:g} {resource}, {group:g} of them on one "
        f"node for each replica, but in the Ray cluster {has}"
        + (f"; a replica of at most {int(largest // each)} workers fits on one node." if 0 < largest < group else ".")
    )
