"""A worker of a group that dies or hangs costs time and no answers; and what the group opens, it opens on loopback."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checkpoint.resolve import resolve_model
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.core.async_client import AsyncMPClient
from engine.inputs.processor import InputProcessor
from tests.processes.conftest import Setup
from tests.processes.test_processes import children, gone, score, wait_until
from tests.support.checkpoints import make_qwen3, official_qwen3_scores

QUERY = "what is a giant panda?"
DOCUMENTS = [f"The giant panda number {i} is a bear species endemic to China. " * (1 + i % 7) for i in range(40)]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = make_qwen3(tmp_path_factory.mktemp("models") / "qwen3-reranker", kv_heads=1)
    config = EngineConfig(
        model=ModelConfig(model=str(folder), max_model_len=4096),
        scheduler=SchedulerConfig(max_num_batched_tokens=256),
        device=DeviceConfig(device="cpu", tensor_parallel_size=2, cpu_threads=1, step_timeout_s=4.0),
    )
    spec = resolve_model(config.model)
    return Setup(config, spec, InputProcessor(spec, config.model))


def listening_addresses(pid: int) -> list[str]:
    """IPv4 and IPv6 addresses on which a process takes connections."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = struct.unpack(f">{len(raw) // 4}I", raw)
                family = socket.AF_INET if table == "tcp" else socket.AF_INET6
                found.append(socket.inet_ntop(family, struct.pack(f"<{len(words)}I", *words)))
    return found


async def test_a_dead_and_a_hanging_worker_lose_nothing(setup: Setup) -> None:
    """Either worker may be the one, and both are replaced; a stopped one is found by the deadline of a step."""
    expected = dict(enumerate(official_qwen3_scores(setup.spec.path, QUERY, DOCUMENTS)))
    client = await AsyncMPClient.start(setup.config, setup.spec, setup.inputs.constant_prefix)
    try:
        assert client.info.device == "cpu + cpu"
        for index, number in ((1, signal.SIGKILL), (0, signal.SIGSTOP)):
            tasks = [
                asyncio.create_task(score(client, setup.request(f"{number}{i}", QUERY, DOCUMENTS))) for i in range(6)
            ]
            await asyncio.sleep(0.05)
            workers = children(client._client.child.pid)
            assert len(workers) == 2
            assert all(set(listening_addresses(pid)) <= {"127.0.0.1", "::1"} for pid in workers)
            os.kill(workers[index], number)
            for answer in await asyncio.wait_for(asyncio.gather(*tasks), 60):
                assert _probabilities(answer) == pytest.approx(expected, abs=1e-5)
            assert all(gone(pid) for pid in workers)
        assert client.stats.worker_restarts == 2
        workers = children(client._client.child.pid)
    finally:
        await client.shutdown(5.0)
    assert wait_until(lambda: all(gone(pid) for pid in workers), 5.0)


def _probabilities(logits: dict[int, float]) -> dict[int, float]:
    return {index: 1 / (1 + math.exp(-logit)) for index, logit in logits.items()}


async def test_a_step_without_memory_is_done_in_smaller_ones(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker cannot go on where the other did: the group starts again, and that is not held against it."""
    monkeypatch.setenv("ENGINE_FAULTS", "oom@over:200")
    device = replace(setup.config.device, enable_fault_injection=True, max_worker_restarts=0)
    client = await AsyncMPClient.start(replace(setup.config, device=device), setup.spec, setup.inputs.constant_prefix)
    try:
        answer = await asyncio.wait_for(score(client, setup.request("c", QUERY, DOCUMENTS[:10])), 60)
        expected = dict(enumerate(official_qwen3_scores(setup.spec.path, QUERY, DOCUMENTS[:10])))
        assert _probabilities(answer) == pytest.approx(expected, abs=1e-5)
    finally:
        await client.shutdown(5.0)
