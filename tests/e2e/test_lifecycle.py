"""How a server starts, refuses to start, and stops."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.e2e.server import COMMAND, ServerProcess, all_gone
from tests.support.checkpoints import make_qwen3

SLOW = {"query": "q", "documents": [f"document {i} " + "word " * 100 for i in range(60)]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("life") / "Qwen3-Reranker")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_signal_under_load_loses_no_accepted_call(checkpoint: Path, number: signal.Signals) -> None:
    slow = {"ENGINE_FAULTS": "slow=0.03"}  # so that all sixteen are inside at once, however busy the machine is
    with (
        ServerProcess(checkpoint, "--enable-fault-injection", "--max-queue-seconds", "0", environment=slow) as server,
        ThreadPoolExecutor(16) as pool,
    ):
        family = server.family()
        assert len(family) >= 2
        expected = [entry["relevance_score"] for entry in server.post("/v1/rerank", SLOW).json()["results"]]
        calls = [pool.submit(server.post, "/v1/rerank", SLOW) for _ in range(16)]
        server.wait_for("engine_running_calls", 16)
        server.signal(number)
        server.signal(signal.SIGHUP)  # the shell and the kernel may both say that the terminal is gone
        refused = _ready_status(server)
        answers = [call.result() for call in calls]
        assert server.wait(60) == 0
    assert refused in (503, None)  # None: the drain was over before the question
    assert [answer.status_code for answer in answers] == [200] * 16
    for answer in answers:
        assert [e["relevance_score"] for e in answer.json()["results"]] == pytest.approx(expected, abs=1e-6)
    assert all_gone(family)
    assert "Traceback" not in "\n".join(server.log)


def _ready_status(server: ServerProcess) -> int | None:
    try:
        return requests.get(f"{server.url}/ready", timeout=5).status_code
    except requests.ConnectionError:
        return None


def test_a_second_signal_stops_at_once_and_the_deadline_answers(checkpoint: Path) -> None:
    endless = {"query": "q", "documents": [f"document {i} " + "word " * 800 for i in range(400)]}
    with ServerProcess(checkpoint) as server, ThreadPoolExecutor(2) as pool:
        family = server.family()
        call = pool.submit(server.post, "/v1/rerank", endless)
        server.wait_for("engine_core_waiting_pairs", 1)
        server.signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        started = time.monotonic()
        server.signal(signal.SIGINT)
        server.wait(10)
        assert time.monotonic() - started < 3
        with contextlib.suppress(requests.ConnectionError):  # stopping at once does not wait for readers
            assert call.result().status_code == 503
    assert all_gone(family)


def test_live_before_ready(checkpoint: Path) -> None:
    with ServerProcess(checkpoint, wait="listening") as server:
        assert requests.get(f"{server.url}/live", timeout=5).status_code == 200
        answer = requests.get(f"{server.url}/ready", timeout=5)
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "not_ready")
        server.signal()
        assert server.wait(30) == 0
        assert all_gone([server.process.pid])


def _refused(*arguments: str | Path) -> tuple[int, str]:
    result = subprocess.run(
        [*COMMAND, "serve", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr


def test_a_port_in_use_is_named_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, error = _refused(make_qwen3(tmp_path / "model"), "--port", str(port))
    assert code == 1
    assert f"127.0.0.1:{port}" in error
    assert f"process {os.getpid()} " in error


def test_what_cannot_start_says_why(tmp_path: Path, checkpoint: Path) -> None:
    code, error = _refused(tmp_path / "missing", "--port", "0")
    assert code in (1, 2)
    assert "missing" in error.splitlines()[-1]
    code, error = _refused(checkpoint, "--port", "0", "--hf-overrides", '{"auto_map": {}}')
    assert code == 2
    assert "auto_map" in error
    shard = next(Path(checkpoint).glob("*.safetensors"))
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[: len(content) // 2])
        code, error = _refused(checkpoint, "--port", "0")
    finally:
        shard.write_bytes(content)
    assert code == 1
    assert shard.name in error


def test_the_next_start_removes_what_a_killed_server_left(checkpoint: Path, tmp_path: Path) -> None:
    long = tmp_path / ("long" * 20)  # sockets have no room below it
    long.mkdir()
    environment = {"TMPDIR": str(tmp_path)}
    # One worker's sockets lose their folder once they are connected; several still have a file to meet at in it.
    with ServerProcess(checkpoint, "--tensor-parallel-size", "2", environment=environment) as server:
        family = server.family()
        mine = [path for path in tmp_path.glob("engine-*/lock") if path.read_text().strip() in map(str, family)]
        assert mine
        server.signal(signal.SIGKILL)
        server.wait(10)
    assert all_gone(family)
    assert all(path.exists() for path in mine)
    with ServerProcess(checkpoint, environment=environment) as server:
        assert not any(path.exists() for path in mine)
    with ServerProcess(checkpoint, environment={"TMPDIR": str(long)}) as server:
        assert server.post("/v1/rerank", {"query": "q", "documents": ["a"]}).status_code == 200
