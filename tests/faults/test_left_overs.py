"""Whatever ends a server, or one of its processes, nothing of it stays: no process, socket, shared memory or file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.e2e.server import COMMAND, ServerProcess
from tests.support.checkpoints import make_qwen3

CALL = {"query": "q", "documents": [f"panda {i}" for i in range(20)]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("left-overs") / "Qwen3-Reranker")


def processes_of(mark: str) -> list[int]:
    """Every process that has this text in its environment, wherever in the tree it stands."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes() and "Z" not in _state(process):
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found)


def _state(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def sockets_in(folder: Path) -> list[str]:
    return [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if str(folder) in line]


@contextmanager
def nothing_left(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a server that has its temporary files in ``folder``; at the end all traces must be gone."""
    before = shared_memory()
    # The library of threads that the test itself uses may have files of its own there: only new names count.
    yield {"TMPDIR": str(folder)}
    stop = time.monotonic() + 10
    while left := traces(folder, before):
        assert time.monotonic() < stop, left
        time.sleep(0.05)


def traces(folder: Path, before: set[str]) -> list[object]:
    return [
        *processes_of(f"TMPDIR={folder}"),
        *sockets_in(folder),
        *folder.rglob("*"),
        *(name for name in shared_memory() - before if name.startswith(("engine", "torch", "psm_", "sem."))),
    ]


@pytest.mark.parametrize(
    ("number", "arguments"),
    [(signal.SIGINT, ()), (signal.SIGHUP, ("--api-server-count", "2")), (signal.SIGKILL, ())],
    ids=["SIGINT", "SIGHUP", "SIGKILL"],
)
def test_after_a_signal_to_the_server(
    checkpoint: Path, tmp_path: Path, number: signal.Signals, arguments: tuple[str, ...]
) -> None:
    with (
        nothing_left(tmp_path) as environment,
        ServerProcess(checkpoint, *arguments, environment=environment) as server,
    ):
        assert server.post("/v1/rerank", CALL).status_code == 200
        assert len(processes_of(f"TMPDIR={tmp_path}")) >= 3
        server.signal(number)
        assert server.wait(20) == (-9 if number == signal.SIGKILL else 0)


def test_after_the_death_of_its_other_processes(checkpoint: Path, tmp_path: Path) -> None:
    """Core and worker are replaced; what the dead ones had goes with the server at the latest."""
    with nothing_left(tmp_path) as environment, ServerProcess(checkpoint, environment=environment) as server:
        for position in (2, 1):  # the worker, then the core
            family = server.family()
            os.kill(family[position], signal.SIGKILL)
            assert server.post("/v1/rerank", CALL).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait(20) == 0


def test_a_signal_while_the_model_loads_ends_the_server_at_once(checkpoint: Path, tmp_path: Path) -> None:
    with (
        nothing_left(tmp_path) as environment,
        ServerProcess(checkpoint, wait="listening", environment=environment) as server,
    ):
        while len(family := server.family()) < 2:  # the core has been started
            time.sleep(0.01)
        assert requests.get(f"{server.url}/ready", timeout=5).status_code == 503
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait(20) == 0
        waited_s = time.monotonic() - started
    assert len(family) >= 2
    assert waited_s < 4.5, "less than a core is given to end by itself, which one that loads does not do"


def test_after_a_failed_start(tmp_path: Path) -> None:
    checkpoint = make_qwen3(tmp_path / "Qwen3-Reranker")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    folder = tmp_path / "temporary"
    folder.mkdir()
    with nothing_left(folder) as environment:
        command = [*COMMAND, "serve", str(checkpoint), "--port", "0"]
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


def test_after_the_core_was_killed_while_several_workers_load(checkpoint: Path, tmp_path: Path) -> None:
    """Their rendezvous file lies in a folder of the core's: the process that had started it removes it."""
    with nothing_left(tmp_path) as environment:
        with ServerProcess(checkpoint, "-tp", "2", wait="listening", environment=environment) as server:
            stop = time.monotonic() + 60
            while not (workers := server.family()[2:]) or not any(tmp_path.iterdir()):
                assert time.monotonic() < stop
                time.sleep(0.05)
            os.kill(server.family()[1], signal.SIGKILL)
            assert server.wait(60) == 1
        assert workers
