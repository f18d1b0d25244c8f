"""Real processes: killed workers and cores cost time and no answers; nobody outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.checkpoint.resolve import resolve_model
from engine.core.async_client import AsyncMPClient
from engine.core.client import InprocClient, MPClient
from engine.errors import EngineError, ModelLoadError, ShuttingDownError, StepFailedError
from engine.messages import EngineCoreRequest
from tests.processes.conftest import Setup
from tests.support.checkpoints import make_qwen3

QUERY = "what is a giant panda?"
DOCUMENTS = [f"The giant panda number {i} is a bear species endemic to China. " * (1 + i % 7) for i in range(60)]


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def wait_until(condition: object, timeout_s: float) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def reference(setup: Setup) -> dict[int, float]:
    """The logits of the same call in one process."""
    client = InprocClient(
        replace(setup.config, device=replace(setup.config.device, executor="uni")),
        setup.spec,
        setup.inputs.constant_prefix,
    )
    client.submit(setup.request("reference", QUERY, DOCUMENTS))
    found: dict[int, float] = {}
    while len(found) < len(DOCUMENTS):
        for output in client.recv().outputs:
            found |= {i: float(v[0]) for i, v in zip(output.indices, output.values, strict=True)}
    client.close()
    return found


async def score(client: AsyncMPClient, request: EngineCoreRequest) -> dict[int, float]:
    found: dict[int, float] = {}
    async for output in client.run(request):
        assert not output.errors
        assert not set(found) & set(output.indices), "a pair was answered twice"
        found |= {i: float(v[0]) for i, v in zip(output.indices, output.values, strict=True)}
    return found


async def test_a_killed_worker_and_a_killed_core_lose_nothing(setup: Setup, reference: dict[int, float]) -> None:
    client = await AsyncMPClient.start(setup.config, setup.spec, setup.inputs.constant_prefix)
    try:
        first = await score(client, setup.request("first", QUERY, DOCUMENTS))
        assert first == pytest.approx(reference, abs=1e-6)
        for victim in ("worker", "core"):
            tasks = [
                asyncio.create_task(score(client, setup.request(f"{victim}{i}", QUERY, DOCUMENTS))) for i in range(8)
            ]
            await asyncio.sleep(0.05)
            core = client._client.child.pid
            os.kill(children(core)[0] if victim == "worker" else core, signal.SIGKILL)
            for answer in await asyncio.wait_for(asyncio.gather(*tasks), 90):
                assert answer == pytest.approx(reference, abs=1e-6)
            assert client.alive
            assert client.healthy
    finally:
        await client.shutdown(5.0)


async def test_a_worker_that_comes_back_to_other_weights_refuses(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is killed, the files are others by then, and no call gets a score of the new ones."""
    folder = make_qwen3(tmp_path / "model", hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16)
    config = replace(setup.config, model=replace(setup.config.model, model=str(folder)))
    spec = resolve_model(config.model)
    client = await AsyncMPClient.start(config, spec, setup.inputs.constant_prefix)
    try:
        await score(client, setup.request("before", QUERY, DOCUMENTS[:4]))
        assert client.info.fingerprint == spec.fingerprint
        make_qwen3(folder, hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16, seed=1)
        os.kill(children(client._client.child.pid)[0], signal.SIGKILL)
        with pytest.raises(EngineError):
            await asyncio.wait_for(score(client, setup.request("after", QUERY, DOCUMENTS[:4])), 60)
        told = capfd.readouterr().err
        assert f"no longer those that were served (fingerprint {spec.fingerprint}, now " in told
    finally:
        await client.shutdown(1.0)


async def test_leaving_a_call_aborts_it(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_FAULTS", "slow=0.05")  # so that a call is under way whenever it shall be
    config = replace(setup.config, device=replace(setup.config.device, enable_fault_injection=True))
    client = await AsyncMPClient.start(config, setup.spec, setup.inputs.constant_prefix)
    try:
        answers = client.run(setup.request("left", QUERY, DOCUMENTS * 5))
        await anext(answers)
        await answers.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(1.0)
        assert client.stats.aborted_pairs > 0
        assert client.stats.num_waiting_pairs == 0
        late = asyncio.create_task(score(client, setup.request("late", QUERY, DOCUMENTS * 20)))
        await asyncio.sleep(0.1)
        shutdown = asyncio.create_task(client.shutdown(0.05))
        with pytest.raises(ShuttingDownError):
            await late
        await shutdown
    finally:
        await client.shutdown(1.0)


def test_children_die_with_their_parent(setup: Setup, checkpoint: Path) -> None:
    script = (
        "import sys, time, msgspec\n"
        "from engine.core.client import MPClient\n"
        "from engine.config import *\n"
        "from engine.checkpoint.resolve import resolve_model\n"
        "import numpy as np\n"
        f"model = ModelConfig(model={str(checkpoint)!r})\n"
        "config = EngineConfig(model=model, device=DeviceConfig(device='cpu', executor='mp'))\n"
        "client = MPClient(config, resolve_model(config.model), np.zeros(0, np.int32))\n"
        "client.wait_ready()\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    core = children(parent.pid)[0]
    worker = children(core)[0]
    os.kill(worker, signal.SIGSTOP)  # not even a stopped worker may stay
    parent.kill()
    parent.wait()
    assert wait_until(lambda: gone(core) and gone(worker), 5.0)
    parent.stdout.close()


def test_what_stops_the_start_is_told(setup: Setup, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((Path(setup.spec.path) / name).read_bytes())
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    spec = replace(setup.spec, path=str(folder), fingerprint="")  # else the changed files are what is told
    client = MPClient(setup.config, spec, np.zeros(0, np.int32))
    try:
        with pytest.raises(ModelLoadError, match=r"(?i)lfs"):
            client.wait_ready()
    finally:
        client.close()


async def test_a_call_that_ends_core_after_core_is_not_tried_for_ever(
    setup: Setup, reference: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets an error while the engine still may restart; the others that the cores had get their scores."""
    client = await AsyncMPClient.start(setup.config, setup.spec, setup.inputs.constant_prefix)
    submitted: list[str] = []
    submit = MPClient.submit

    def submit_or_kill(self: MPClient, request: EngineCoreRequest) -> None:
        submitted.append(request.call_id)
        if request.call_id == "bad":
            self.child.kill()
        else:
            submit(self, request)

    monkeypatch.setattr(MPClient, "submit", submit_or_kill)
    try:
        requests = [setup.request(name, QUERY, DOCUMENTS) for name in ("good0", "good1", "bad", "good2")]
        tasks = [asyncio.create_task(score(client, request)) for request in requests]
        bad = tasks.pop(2)
        with pytest.raises(StepFailedError, match="ended 3 times while it had this call"):
            await bad
        for task in tasks:
            assert await task == pytest.approx(reference, abs=1e-5)
        assert submitted.count("bad") == 3
        assert client.alive
    finally:
        await client.shutdown(1.0)
