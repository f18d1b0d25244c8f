"""A limit on open files (``ulimit -n``) bounds the connections, says so at the start, and costs no call."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.entrypoints.serve import ports
from engine.errors import StartupError
from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3


@pytest.mark.parametrize(
    ("limits", "asked", "fitting", "raised_to"),
    [
        ((1024, 100_000), 8192, 8192, 8448),
        ((1024, resource.RLIM_INFINITY), 8192, 8192, 8448),
        ((1024, 4096), 8192, 3840, 4096),
        ((20_000, 20_000), 8192, 8192, None),
        ((64, 64), 8192, 16, None),
        ((32, 32), 8192, None, None),
    ],
)
def test_how_many_connections_fit(
    limits: tuple[int, int], asked: int, fitting: int | None, raised_to: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: raised.append(values))
    if fitting is None:
        with pytest.raises(StartupError, match="ulimit -n"):
            ports.allow_open_files(asked)
        return
    assert ports.allow_open_files(asked) == fitting
    assert raised == ([] if raised_to is None else [(raised_to, limits[1])])


def test_a_flood_of_connections_under_a_low_limit(tmp_path: Path) -> None:
    folder = make_qwen3(tmp_path / "m", hidden=16, layers=1, head_dim=8, intermediate=16)
    limited = ("bash", "-c", 'ulimit -n 64; exec "$@"', "bash")
    with ServerProcess(folder, "--device", "cpu", before=limited) as server, ExitStack() as stack:
        assert any("may open 64 files only: 16 connections" in line for line in server.log)
        for _ in range(150):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        for _ in range(5):
            assert server.post("/v1/rerank", {"query": "q", "documents": ["a", "b"]}).status_code == 200
        assert server.process.poll() is None
    assert not any("Traceback" in line for line in server.log)
