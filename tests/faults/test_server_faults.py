"""``engine serve`` with real processes that are killed, stopped, poisoned: each call that came in is answered once."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.inputs.processor import InputProcessor
from tests.e2e.server import ServerProcess, all_gone
from tests.support.checkpoints import make_qwen3

CALL: dict[str, Any] = {
    "query": "what is a panda?",
    "documents": [f"panda {i} eats " + "bamboo " * (20 + i % 7) for i in range(40)],
}
MP = ("--distributed-executor-backend", "mp")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("faults") / "Qwen3-Reranker")


def scores(answer: requests.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [entry["relevance_score"] for entry in sorted(answer.json()["results"], key=lambda entry: entry["index"])]


def status(server: ServerProcess, path: str) -> int:
    return requests.get(server.url + path, timeout=5).status_code


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], timeout_s: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - started


def test_a_killed_worker_costs_time_and_no_answers(checkpoint: Path) -> None:
    """The worker's death is seen at once, its calls are done by the next one; a stopped one is killed first."""
    arguments = (*MP, "--step-timeout-s", "2", "--max-num-batched-tokens", "512")
    with ServerProcess(checkpoint, *arguments) as server, ThreadPoolExecutor(12) as pool:
        expected = scores(server.post("/v1/rerank", CALL))
        for number, seen_s in ((signal.SIGKILL, 1.0), (signal.SIGSTOP, 4.0)):
            _, _, worker = server.family()
            calls = [pool.submit(server.post, "/v1/rerank", CALL) for _ in range(12)]
            server.wait_for("engine_running_calls", 6)
            os.kill(worker, number)
            assert wait_for(lambda: status(server, "/ready") == 503, seen_s + 1) < seen_s + 1
            assert status(server, "/live") == 200
            for call in calls:
                assert scores(call.result()) == pytest.approx(expected, abs=1e-6)
            wait_for(lambda: status(server, "/ready") == 200, 60)
            assert all_gone([worker])
        assert server.metric("engine_core_worker_restarts_total") == 2
        assert server.metric("engine_running_calls") == server.metric("engine_queued_pairs") == 0
        # When the API process is killed, nothing stays: not even a worker that is stopped, and not the port.
        family = server.family()
        assert len(family) == 3
        os.kill(family[2], signal.SIGSTOP)
        server.process.kill()
        assert all_gone(family, 5.0)
        wait_for(lambda: is_free(server.port), 5.0)  # threads of a killed process end a moment after it


def test_a_silent_core_is_not_ready_and_is_replaced(checkpoint: Path) -> None:
    with ServerProcess(checkpoint, "--step-timeout-s", "4") as server, ThreadPoolExecutor(1) as pool:
        expected = scores(server.post("/v1/rerank", CALL))
        api, core, *_ = server.family()
        os.kill(core, signal.SIGSTOP)
        call = pool.submit(server.post, "/v1/rerank", CALL)
        wait_for(lambda: status(server, "/ready") == 503, 4)
        assert status(server, "/live") == 200
        assert scores(call.result()) == pytest.approx(expected, abs=1e-6)
        assert status(server, "/ready") == 200
        assert all_gone([core])
        # A stopped core does not hold up the second signal either.
        family = server.family()
        os.kill(family[1], signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        time.sleep(0.2)
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait(10)
        assert time.monotonic() - started < 3
        assert api == family[0]
    assert all_gone(family)


def test_a_core_that_is_lost_for_good_ends_the_server(checkpoint: Path) -> None:
    with ServerProcess(checkpoint, "--max-worker-restarts", "0") as server, ThreadPoolExecutor(4) as pool:
        family = server.family()
        calls = [pool.submit(server.post, "/v1/rerank", CALL | {"documents": CALL["documents"] * 20}) for _ in range(4)]
        server.wait_for("engine_running_calls", 1)
        os.kill(family[1], signal.SIGKILL)
        answers = [call.result() for call in calls]
        assert server.wait(10) == 1
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.status_code == 503 for answer in answers)
    assert all_gone(family)


def test_a_pair_that_kills_its_process_fails_alone(checkpoint: Path) -> None:
    """First it takes the core along, whose successor has a worker of its own; there the pair is found by bisection.

    With four documents that is one core and three workers: more than ``--max-worker-restarts``, yet nobody gives up.
    """
    model = ModelConfig(model=str(checkpoint))
    (token,) = InputProcessor(resolve_model(model), model).tokenize("7", add_special_tokens=False)
    documents = [f"panda {'abcd'[i]} eats bamboo" for i in range(4)]
    documents[2] += " 7"
    with ServerProcess(
        checkpoint,
        *("--enable-fault-injection", "--max-worker-restarts", "1", "--distributed-executor-backend", "uni"),
        environment={"ENGINE_FAULTS": f"crash@token:{token}"},
    ) as server:
        healthy = scores(server.post("/v1/rerank", {"query": "q", "documents": [d for d in documents if "7" not in d]}))
        answer = server.post("/v1/rerank", {"query": "q", "documents": documents})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "step_failed"), answer.text
        assert answer.json()["failed"] == [2]
        found = {entry["index"]: entry["relevance_score"] for entry in answer.json()["results"]}
        assert found == pytest.approx(dict(zip((0, 1, 3), healthy, strict=True)), abs=1e-6)
        assert scores(server.post("/v1/rerank", {"query": "q", "documents": documents[:2]}))
        assert server.metric("engine_core_worker_restarts_total") >= 2
        assert any("worker runs in a process of its own" in line for line in server.log)


def test_a_worker_that_fails_every_step_is_replaced_while_ready_says_so(checkpoint: Path) -> None:
    """Each worker fails from its twelfth step on; nobody but its own restarts pays for that."""
    with (
        ServerProcess(
            checkpoint,
            *("--enable-fault-injection", "--max-worker-restarts", "6"),
            environment={"ENGINE_FAULTS": "fail@12+"},
        ) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        small = CALL | {"documents": CALL["documents"][:2]}
        expected = scores(server.post("/v1/rerank", small))
        calls = pool.submit(lambda: [server.post("/v1/rerank", small) for _ in range(12)])
        reasons: list[str] = []
        while not calls.done():
            answer = requests.get(f"{server.url}/ready", timeout=5)
            if answer.status_code == 503:
                reasons.append(answer.json()["error"]["message"])
            time.sleep(0.01)
        for call in calls.result():
            assert scores(call) == pytest.approx(expected, abs=1e-6)
        assert server.metric("engine_core_worker_restarts_total") >= 1
    assert any("the worker fails steps that it could do before" in reason for reason in reasons), reasons
