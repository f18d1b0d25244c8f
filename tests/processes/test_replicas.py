"""Two replicas behind one client: routing, and a replica that dies under load."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from engine.core.client import InprocClient
from engine.core.replicas import ReplicaClient, affinity_slack, choose_replica, replica_config, work_tokens
from engine.messages import EngineCoreRequest
from tests.processes.conftest import Setup

DOCUMENTS = [f"Panda number {i} lives in the mountains of central China. " * (1 + i % 4) for i in range(24)]


def test_the_least_loaded_replica_is_chosen() -> None:
    assert choose_replica([5, 3, 9], [True, True, True], None, 100) == 1
    assert choose_replica([5, 3, 9], [True, False, True], None, 100) == 0
    assert choose_replica([5, 3], [False, False], None, 100) == 1, "with none usable, one has to wait"


def test_equally_loaded_replicas_take_turns() -> None:
    assert [choose_replica([5, 5, 5], [True, True, True], None, 0, turn) for turn in range(4)] == [0, 1, 2, 0]
    assert [choose_replica([5, 5, 5], [True, False, True], None, 0, turn) for turn in range(3)] == [0, 2, 0]


def test_affinity_is_bounded_by_load() -> None:
    assert choose_replica([50, 0], [True, True], 4, 100) == 0
    assert choose_replica([150, 0], [True, True], 4, 100) == 1
    assert choose_replica([0, 50], [True, True], 3, 100) == 1
    assert choose_replica([0, 50], [True, False], 3, 100) == 0


def test_a_long_query_may_wait_longer_for_its_replica() -> None:
    assert affinity_slack(10, 1000) < affinity_slack(100, 1000) < affinity_slack(10**6, 1000) == 4 * 1000


def test_a_query_weighs_once() -> None:
    lens, queries = np.array([30, 40, 25], np.int32), np.array([20, 20, 15], np.int32)
    request = EngineCoreRequest("c", np.zeros(95, np.int32), lens, 0.0, query_lens=queries)
    assert work_tokens(request) == 20 + 10 + 20 + 15 + 10
    assert work_tokens(EngineCoreRequest("c", np.zeros(95, np.int32), lens, 0.0)) == 95


def test_replicas_have_devices_of_their_own(setup: Setup) -> None:
    config = replace(setup.config, device=replace(setup.config.device, tensor_parallel_size=2))
    assert [replica_config(config, i).device.first_rank for i in range(3)] == [0, 2, 4]


async def collect(client: ReplicaClient, request: EngineCoreRequest) -> dict[int, float]:
    found: dict[int, float] = {}
    async for output in client.run(request):
        assert not output.errors
        assert not set(found) & set(output.indices), "a pair was answered twice"
        found |= {i: float(v[0]) for i, v in zip(output.indices, output.values, strict=True)}
    return found


def reference(setup: Setup, queries: list[str]) -> list[dict[int, float]]:
    config = replace(setup.config, device=replace(setup.config.device, executor="uni"))
    client = InprocClient(config, setup.spec, setup.inputs.constant_prefix)
    answers: dict[str, dict[int, float]] = {str(i): {} for i in range(len(queries))}
    for i, query in enumerate(queries):
        client.submit(setup.request(str(i), query, DOCUMENTS))
    while any(len(found) < len(DOCUMENTS) for found in answers.values()):
        for output in client.recv().outputs:
            answers[output.call_id] |= {i: float(v[0]) for i, v in zip(output.indices, output.values, strict=True)}
    client.close()
    return list(answers.values())


async def test_a_dead_replica_loses_nothing(setup: Setup) -> None:
    queries = [f"what does panda {i} eat?" for i in range(12)]
    expected = reference(setup, queries)
    config = replace(setup.config, device=replace(setup.config.device, data_parallel_size=2))
    client = await ReplicaClient.start(config, setup.spec, setup.inputs.constant_prefix)
    try:
        tasks = [
            asyncio.create_task(collect(client, setup.request(str(i), query, DOCUMENTS)))
            for i, query in enumerate(queries)
        ]
        await asyncio.sleep(0.05)
        loads = [replica.outstanding_tokens for replica in client._replicas]
        assert min(loads) > 0.3 * max(loads), "both replicas have work"
        os.kill(client._replicas[0].client._client.child.pid, signal.SIGKILL)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 90)
        for answer, wanted in zip(answers, expected, strict=True):
            assert answer == pytest.approx(wanted, abs=1e-6)
        assert [replica.outstanding_tokens for replica in client._replicas] == [0, 0]
        assert client.healthy
    finally:
        await client.shutdown(2.0)
