"""``engine serve --api-server-count``: real API servers behind one port, which are stopped, killed and drained."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.server import COMMAND, ServerProcess, all_gone
from tests.support.checkpoints import make_qwen3

CALL: dict[str, Any] = {
    "query": "what is a panda?",
    "documents": [f"panda {i} eats " + "bamboo " * (20 + i % 7) for i in range(30)],
}
SLOW = {"ENGINE_FAULTS": "slow=0.2"}
"""Seconds a step: a call is still running when a busy machine has got round to the next line."""
STEPS = ("--max-num-batched-tokens", "256", "--enable-fault-injection")
TWO = ("--api-server-count", "2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("api_servers") / "Qwen3-Reranker")


def pids(server: ServerProcess) -> list[int]:
    """Of the API servers, as the log names them."""
    (line,) = [line for line in server.log if "API servers share" in line]
    return [int(pid) for pid in re.findall(r"\d+", line.partition("pids")[2])]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def connections(server: ServerProcess) -> list[requests.Session]:
    """One to each of two API servers: while the other is stopped, a process takes whatever comes."""
    found = []
    for other in reversed(pids(server)):
        session = requests.Session()
        with stopped(other):
            assert session.get(f"{server.url}/live", timeout=5).status_code == 200
        found.append(session)
    return found


def post(server: ServerProcess, session: requests.Session, body: dict[str, Any] = CALL) -> requests.Response:
    return session.post(f"{server.url}/v1/rerank", json=body, timeout=60)


def scores(answer: requests.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [entry["relevance_score"] for entry in sorted(answer.json()["results"], key=lambda entry: entry["index"])]


def eventually(condition: Any, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_two_processes_answer_as_one(checkpoint: Path, tmp_path: Path) -> None:
    """The same scores as with one, from both; limits, counts and probes are the server's, with two replicas behind."""
    keys = ("--api-key", "secret", "--served-model-name", "panda")
    with ServerProcess(checkpoint, "--executor", "uni") as alone:
        expected = scores(alone.post("/v1/rerank", CALL))
        assert alone.metric("engine_api_servers") == 1
        assert len(alone.family()) == 2
    with ServerProcess(checkpoint, *TWO, "-dp", "2", "--executor", "uni", *keys) as server:
        sessions = connections(server)
        for session in sessions:
            assert post(server, session).status_code == 401
            session.headers["Authorization"] = "Bearer secret"
            for _ in range(3):
                assert scores(post(server, session)) == pytest.approx(expected, abs=1e-6)
            streamed = post(server, session, {**CALL, "stream": True})
            assert streamed.text.count("event: score") == len(CALL["documents"])
            assert streamed.text.count("event: result") == 1
        seen = [
            (
                session.get(f"{server.url}/v1/models", timeout=5).json(),
                session.get(f"{server.url}/load", timeout=5).json(),
                [session.get(server.url + path, timeout=5).status_code for path in ("/live", "/ready", "/health")],
                re.findall(r"^engine_(?!core).*", session.get(f"{server.url}/metrics", timeout=5).text, re.MULTILINE),
            )
            for session in sessions
        ]
        assert seen[0] == seen[1]
        page = "\n".join(seen[0][3])
        assert 'engine_calls_total{dialect="rerank",route="/v1/rerank",status="200"} 8.0' in page
        assert f"engine_pairs_total {8.0 * len(CALL['documents'])}" in page
        assert "engine_call_seconds_count 8.0" in page
        assert "engine_api_servers 2.0" in page
        for number in (0, 1):
            assert f'engine_api_server_calls_total{{api_server="{number}"}} 4.0' in page
        core = sessions[0].get(f"{server.url}/metrics", timeout=5).text
        assert len(re.findall(r'engine_core_finished_calls_total\{replica="\d"\}', core)) == 2
    assert all(line.count("Traceback") == 0 for line in server.log)


def test_limits_hold_over_all_and_a_stopped_process_stops_no_other(checkpoint: Path) -> None:
    limits = ("--max-queued-pairs", "40")
    with (
        ServerProcess(checkpoint, *TWO, *STEPS, *limits, environment=SLOW) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        first, second = connections(server)
        inside = pool.submit(post, server, first)
        server.wait_for("engine_queued_pairs", 25)
        # 30 of 40 are taken at most, and the last eighth is for other callers: five fit, ten do not.
        refused = [post(server, second, {**CALL, "documents": ["d"] * 10 * n}) for n in (2, 4)]
        for answer in refused:
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "overloaded")
            assert int(answer.headers["Retry-After"]) >= 1
        assert second.get(f"{server.url}/load", timeout=5).json() == {"server_load": 1}
        inside.result()
        assert post(server, second).status_code == 200
        # A client that leaves takes its call along, wherever it was.
        with contextlib.suppress(requests.Timeout):
            second.post(f"{server.url}/v1/rerank", json=CALL, timeout=0.3)
        eventually(lambda: server.metric("engine_cancelled_total") == 1)
        assert server.metric("engine_core_aborted_pairs_total") > 0
        assert server.metric("engine_queued_pairs") == server.metric("engine_running_calls") == 0
        # While one is stopped, all others take what comes; metrics keep what it had counted.
        before = server.metric("engine_calls_total")
        with stopped(pids(server)[0]):
            for _ in range(5):
                assert server.post("/v1/rerank", {"query": "q", "documents": ["d"]}).status_code == 200
            started = time.monotonic()
            assert server.metric("engine_calls_total") == before + 5
            assert time.monotonic() - started < 2
            assert requests.get(f"{server.url}/ready", timeout=5).status_code == 200


def test_a_killed_process_loses_its_own_connections_only(checkpoint: Path) -> None:
    with ServerProcess(checkpoint, *TWO, *STEPS, environment=SLOW) as server, ThreadPoolExecutor(4) as pool:
        first, second = connections(server)
        expected = scores(post(server, second))
        scores(post(server, first))
        server.metric("engine_calls_total")  # both have said what they counted
        calls = [pool.submit(post, server, session) for session in (first, second)]
        server.wait_for("engine_running_calls", 2)
        victim, other = pids(server)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(requests.ConnectionError):
            calls[0].result()
        assert scores(calls[1].result()) == pytest.approx(expected, abs=1e-6)
        eventually(lambda: server.metric("engine_api_servers") == 2)
        assert server.metric("engine_api_server_restarts_total") == 1
        assert server.metric("engine_calls_total") == 3, "what the dead one had counted still counts"
        eventually(lambda: server.metric("engine_core_aborted_pairs_total") > 0)
        assert server.metric("engine_queued_pairs") == server.metric("engine_running_calls") == 0
        with stopped(other):  # the new one has the model and takes calls
            assert scores(server.post("/v1/rerank", CALL)) == pytest.approx(expected, abs=1e-6)
        # The core is replaced under relayed calls as under any others.
        calls = [pool.submit(server.post, "/v1/rerank", CALL) for _ in range(2)]
        server.wait_for("engine_running_calls", 2)
        (core,) = set(children(server.process.pid)) - {other, *replaced(server)}
        os.kill(core, signal.SIGKILL)
        for call in calls:
            assert scores(call.result()) == pytest.approx(expected, abs=1e-6)
        # When the coordinator is killed, nothing stays.
        family = server.family()
        server.signal(signal.SIGKILL)
        assert all_gone(family)


def children(pid: int) -> list[int]:
    return [int(p) for task in Path(f"/proc/{pid}/task").glob("*/children") for p in task.read_text().split()]


def replaced(server: ServerProcess) -> list[int]:
    """API servers among the children."""
    found = []
    for pid in children(server.process.pid):
        if "api_servers.process" in Path(f"/proc/{pid}/cmdline").read_text():
            found.append(pid)
    return found


def test_sigterm_drains_all_processes(checkpoint: Path) -> None:
    with (
        ServerProcess(checkpoint, *TWO, *STEPS, environment=SLOW) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        family = server.family()
        sessions = connections(server)
        late = connections(server)
        calls = [pool.submit(post, server, session) for session in sessions]
        server.wait_for("engine_running_calls", 2)
        os.kill(pids(server)[0], signal.SIGTERM)  # as to a whole group: the coordinator decides
        server.signal(signal.SIGTERM)
        for session in late:
            ready = session.get(f"{server.url}/ready", timeout=5)
            assert (ready.status_code, ready.json()["error"]["type"]) == (503, "shutting_down")
        refused = post(server, late[0])
        assert (refused.status_code, refused.headers["Connection"]) == (503, "close")
        for call in calls:
            assert len(scores(call.result())) == len(CALL["documents"])
        assert server.wait(20) == 0
    assert all_gone(family)
    assert "Traceback" not in "\n".join(server.log)


def test_a_second_signal_stops_at_once_and_a_failed_start_leaves_nothing(checkpoint: Path) -> None:
    endless = {**CALL, "documents": CALL["documents"] * 20}
    with ServerProcess(checkpoint, *TWO, *STEPS, environment=SLOW) as server, ThreadPoolExecutor(2) as pool:
        family = server.family()
        call = pool.submit(server.post, "/v1/rerank", endless)
        server.wait_for("engine_core_waiting_pairs", 1)
        server.signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        started = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait(10) == 0
        assert time.monotonic() - started < 3
        with contextlib.suppress(requests.ConnectionError):
            assert call.result().status_code == 503
    assert all_gone(family)
    refused = subprocess.run(
        [*COMMAND, "serve", str(checkpoint / "missing"), *TWO, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "There is no folder" in refused.stderr.splitlines()[-1]
