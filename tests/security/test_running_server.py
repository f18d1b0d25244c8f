"""What a server with real processes opens, unpickles and writes to its log while it is asked all kinds of things."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.server import ServerProcess
from tests.support.checkpoints import make_qwen3

SECRET_QUERY, SECRET_DOCUMENT = "zebrafinch-query-mark", "quokka-document-mark"
WATCHER = """
import os, sys
_out = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def _watch(event, args):
    if event == "pickle.find_class":
        os.write(_out, f"{event} {args[0]}.{args[1]}\\n".encode())
    elif event == "socket.bind" and isinstance(args[1], tuple):
        os.write(_out, f"{event} {args[1][0]}\\n".encode())
    elif event == "socket.connect" and isinstance(args[1], tuple):
        os.write(_out, f"{event} {args[1][0]}\\n".encode())
    elif event == "os.system":
        os.write(_out, f"{event}\\n".encode())
sys.addaudithook(_watch)
os.write(_out, b"watching\\n")
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    """A server with a worker process, each of its processes with an audit hook."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "sitecustomize.py").write_text(WATCHER)
    log = folder / "events"
    checkpoint = make_qwen3(folder / "Qwen3-Reranker")
    environment = {"PYTHONPATH": str(folder), "WATCH_LOG": str(log)}
    with ServerProcess(
        checkpoint, "--distributed-executor-backend", "mp", "--max-body-bytes", "100k", environment=environment
    ) as server:
        assert len(server.family()) == 3
        exercise(server)
        yield server, log


def exercise(server: ServerProcess) -> None:
    """Good calls, bad ones, streams, a departure: each with the marks in its texts."""
    good = {"query": SECRET_QUERY, "documents": [f"{SECRET_DOCUMENT} {i}" for i in range(30)]}
    assert server.post("/v1/rerank", good).status_code == 200
    assert server.post("/v1/rerank", good | {"stream": True}).status_code == 200
    assert server.post("/v1/score", {"text_1": SECRET_QUERY, "text_2": [SECRET_DOCUMENT]}).status_code == 200
    assert server.post("/tokenize", {"prompt": SECRET_DOCUMENT}).status_code == 200
    with requests.post(server.url + "/v1/rerank", json=good | {"stream": True}, stream=True, timeout=20):
        pass  # left at once
    for bad in (
        good | {"top_n": SECRET_DOCUMENT},
        good | {"documents": [SECRET_DOCUMENT, {"image": f"http://{SECRET_DOCUMENT}.invalid/"}]},
        good | {"query": {"content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}}]}},
        good | {"documents": [SECRET_DOCUMENT * 20_000]},
        good | {"model": SECRET_DOCUMENT},
        good | {"truncate": False, "documents": [SECRET_DOCUMENT * 4000]},
        good | {"chat_template": "{{ 1/0 }}", "chat_template_kwargs": {"chat_template": "{{ 1/0 }}"}},
        good | {"trust_remote_code": True, "hf_overrides": {"auto_map": {"AutoModel": "x.Y"}}},
    ):
        assert server.post("/v1/rerank", bad).status_code < 500
    broken = requests.post(server.url + "/v1/rerank", data=json.dumps(good).encode()[:-30], timeout=20)
    assert broken.status_code == 400


def test_only_the_api_port_listens(watched: tuple[ServerProcess, Path]) -> None:
    server, _ = watched
    inodes = {
        os.readlink(descriptor).removeprefix("socket:[").removesuffix("]")
        for pid in server.family()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir()
        if os.path.lexists(descriptor) and os.readlink(descriptor).startswith("socket:")
    }
    listening = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and columns[9] in inodes:
                listening.append((table, columns[1]))
    assert listening == [("tcp", f"0100007F:{server.port:04X}")]
    for table in ("udp", "udp6"):
        rows = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        assert not [row for row in rows if row.split()[9] in inodes]


@pytest.mark.usefixtures("watched")
def test_channels_are_private() -> None:
    sockets = [Path(line.split()[-1]) for line in Path("/proc/net/unix").read_text().splitlines() if "/engine-" in line]
    assert sockets, "core and worker talk over sockets"
    for folder in {path.parent for path in sockets if path.exists()}:
        # Of a server that is only starting: once both ends are connected, the folder is gone and nobody can join.
        assert folder.stat().st_mode & 0o777 == 0o700, folder


def test_nothing_is_unpickled_and_nothing_else_is_bound_or_called(watched: tuple[ServerProcess, Path]) -> None:
    _, log = watched
    events = log.read_text().splitlines()
    assert events.count("watching") >= 3, "every process was watched"
    unexpected = [event for event in events if event not in ("watching", "socket.bind 127.0.0.1")]
    assert not unexpected


def test_texts_are_not_logged(watched: tuple[ServerProcess, Path]) -> None:
    server, _ = watched
    log = "\n".join(server.log)
    assert "ready on" in log
    assert SECRET_QUERY not in log
    assert SECRET_DOCUMENT not in log
    assert "Traceback" not in log
