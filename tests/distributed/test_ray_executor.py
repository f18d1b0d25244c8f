"""The executor ``ray`` on two simulated nodes: the same scores over TCP, losses, refusals before loading."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from typing import Any

import pytest

from engine.config import DeviceConfig, EngineConfig
from engine.core.client import InprocClient
from engine.core.replicas import ReplicaClient
from engine.errors import ConfigError, DeviceError
from engine.executor import ray_cluster, ray_executor
from engine.executor.ray_actor import NodeFacts
from engine.executor.ray_cluster import reserve
from engine.executor.ray_executor import RayExecutor
from tests.processes.conftest import Setup
from tests.processes.test_replicas import DOCUMENTS, collect, reference

CPU = DeviceConfig(device="cpu", executor="ray", cpu_threads=1)


def on_ray(setup: Setup, **changes: Any) -> EngineConfig:
    return replace(setup.config, device=replace(setup.config.device, executor="ray", **changes))


def score(client: InprocClient, setup: Setup, call_id: str, query: str) -> dict[int, float]:
    client.submit(setup.request(call_id, query, DOCUMENTS))
    found: dict[int, float] = {}
    while len(found) < len(DOCUMENTS):
        for output in client.recv().outputs:
            assert not output.errors
            assert not set(found) & set(output.indices), "a pair was answered twice"
            found |= {i: float(v[0]) for i, v in zip(output.indices, output.values, strict=True)}
    return found


def test_scores_are_the_same_and_a_killed_worker_is_replaced(cluster: Any, setup: Setup) -> None:
    """Two threads are to be had on the second node only: the steps go over TCP."""
    expected = reference(setup, ["pandas?", "bamboo?"])
    client = InprocClient(on_ray(setup, cpu_threads=2), setup.spec, setup.inputs.constant_prefix)
    executor = client._core._executor
    assert isinstance(executor, RayExecutor)
    try:
        rank = executor._ranks[0]
        assert rank.channel.address.up.startswith("tcp://")
        assert score(client, setup, "first", "pandas?") == pytest.approx(expected[0], abs=1e-6)
        os.kill(rank.child.pid, signal.SIGKILL)
        assert score(client, setup, "second", "bamboo?") == pytest.approx(expected[1], abs=1e-6)
        assert executor.num_restarts == 1
        assert executor._ranks[0].child.pid != rank.child.pid
    finally:
        client.close()
    assert reserve(replace(CPU, cpu_threads=2), 1).release() is None, "what was reserved is free again"


def test_two_workers_share_a_model_on_one_node(cluster: Any, setup: Setup) -> None:
    expected = reference(setup, ["pandas?"])
    client = InprocClient(on_ray(setup, tensor_parallel_size=2), setup.spec, setup.inputs.constant_prefix)
    executor = client._core._executor
    assert isinstance(executor, RayExecutor)
    try:
        assert len(executor._ranks) == 2
        assert score(client, setup, "both", "pandas?") == pytest.approx(expected[0], abs=1e-5)
    finally:
        client.close()


async def test_replicas_are_spread_and_survive_one_another(cluster: Any, setup: Setup) -> None:
    import ray

    queries = [f"what does panda {i} eat?" for i in range(6)]
    expected = reference(setup, queries)
    client = await ReplicaClient.start(on_ray(setup, data_parallel_size=2), setup.spec, setup.inputs.constant_prefix)
    try:
        assert client._reserved is not None
        table = ray.util.placement_group_table(client._reserved.group)
        assert table["strategy"] == "SPREAD"
        assert len(set(table["bundles_to_node_id"].values())) == 2
        tasks = [
            asyncio.create_task(collect(client, setup.request(str(i), query, DOCUMENTS)))
            for i, query in enumerate(queries)
        ]
        await asyncio.sleep(0.05)
        os.kill(client._replicas[0].client._client.child.pid, signal.SIGKILL)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 90)
        for answer, wanted in zip(answers, expected, strict=True):
            assert answer == pytest.approx(wanted, abs=1e-6)
    finally:
        await client.shutdown(2.0)


def test_a_group_is_on_one_node(cluster: Any) -> None:
    import ray

    reserved = reserve(replace(CPU, tensor_parallel_size=2), 1)
    table = ray.util.placement_group_table(reserved.group)
    assert table["strategy"] == "STRICT_PACK"
    assert len(table["bundles"]) == 2
    assert len(set(table["bundles_to_node_id"].values())) == 1
    reserved.release()


@pytest.mark.parametrize(
    ("device", "replicas", "says"),
    [
        (replace(CPU, device="cuda"), 1, "none of its 2 nodes has the resource GPU"),
        (replace(CPU, device="npu"), 2, "need 2 NPU"),
        (replace(CPU, tensor_parallel_size=3), 1, "a replica of at most 2 workers fits on one node"),
        (CPU, 4, "4 replicas of 1 workers need 4 CPU"),
    ],
)
def test_a_cluster_without_the_devices(cluster: Any, device: DeviceConfig, replicas: int, says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        reserve(device, replicas)


def test_devices_that_others_hold(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = reserve(replace(CPU, cpu_threads=2), 1)
    monkeypatch.setattr(ray_cluster, "RESERVE_TIMEOUT_S", 0.5)
    with pytest.raises(DeviceError, match="were not free together within"):
        reserve(replace(CPU, cpu_threads=2), 1)
    held.release()


def test_pinning_is_refused(cluster: Any) -> None:
    with pytest.raises(ConfigError, match="--cpu-pin"):
        reserve(replace(CPU, cpu_pin=True), 1)


@pytest.mark.parametrize(("name", "version"), [("engine", "0.0.1"), ("python", "3.8.1"), ("ray", "1.0")])
def test_mixed_versions_stop_before_anything_is_loaded(
    name: str, version: str, cluster: Any, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is honest, and this process says that it is something else."""
    if name == "engine":
        monkeypatch.setattr(ray_executor, "__version__", version)
    elif name == "python":
        monkeypatch.setattr(ray_executor.platform, "python_version", lambda: version)
    else:
        monkeypatch.setattr(ray_cluster.ray_module(), "__version__", version)
    with pytest.raises(ConfigError, match=f"but this process has {name} {version}"):
        RayExecutor(on_ray(setup), setup.spec)


def test_facts_travel_as_bytes() -> None:
    from engine.executor.ray_actor import WorkerActor

    assert NodeFacts.__struct_fields__[:3] == ("engine", "python", "ray")
    assert WorkerActor().kill() == 0, "nothing to kill yet"
