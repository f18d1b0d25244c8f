"""From a name to a folder, and how it fails: at once, and with something to do about it."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.checkpoint import hub
from engine.checkpoint.hub import resolve_folder
from engine.errors import ConfigError, ModelLoadError

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **env: str) -> tuple[str, float]:
    """The error that ``code`` ends with, and the seconds it took, in a process with an environment of its own."""
    script = f"from engine.errors import EngineError\nimport time\nt = time.monotonic()\ntry:\n {code}\n"
    script += "except EngineError as e:\n print(type(e).__name__, e, sep=': ')\nprint(time.monotonic() - t)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *lines, seconds = done.stdout.splitlines()
    return "\n".join(lines), float(seconds)


def fake_cache(cache: Path, name: str) -> Path:
    """A model in the layout of the hub's cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    return snapshot


ASK = "from engine.checkpoint.hub import resolve_folder; print(resolve_folder('nobody/no-such-reranker'))"


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_folder(str(tmp_path)) == tmp_path
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("owner/model") == tmp_path / "owner" / "model"


@pytest.mark.parametrize(
    "name", ["/nowhere/model", "./model", "~nobody-here", "a/b/c", "has space", "-x", "a/b:c", "https://x/y"]
)
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no folder"):
        resolve_folder(name)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"is a file\. Name the folder"):
        resolve_folder(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("missing", hub.PACKAGED_FILES)
def test_a_packaged_model_that_is_not_whole(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence that says what is missing and how to get it; never another model."""
    monkeypatch.setattr(hub, "PACKAGED_MODEL", tmp_path)
    for name in hub.PACKAGED_FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name != missing:
            (tmp_path / name).write_text("{}")
    with pytest.raises(ModelLoadError, match="the small reranker of this installation is not whole") as told:
        resolve_folder("")
    for said in (str(tmp_path / missing), "Install rerank-engine again", "git checkout -- engine/assets", "hub id"):
        assert said in str(told.value)


def test_the_packaged_model(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert resolve_folder("") == hub.PACKAGED_MODEL
    assert len(caplog.records) == 1


def test_offline_and_not_cached(tmp_path: Path) -> None:
    message, seconds = run(ASK, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert message.startswith("ModelLoadError: nobody/no-such-reranker is not in the local cache, and HF_HUB_OFFLINE")
    assert "Name a local folder" in message
    assert seconds < 10


def test_no_network_and_not_cached(tmp_path: Path) -> None:
    message, seconds = run(ASK, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert "is not in the local cache, and the hub cannot be reached" in message
    assert "Name a local folder" in message
    assert seconds < 10


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}])
def test_cached(tmp_path: Path, env: dict[str, str]) -> None:
    snapshot = fake_cache(tmp_path / "hub", "nobody/no-such-reranker")
    message, seconds = run(ASK, HF_HOME=str(tmp_path), **env)
    assert message == str(snapshot)
    assert seconds < 10


def test_a_hub_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ask = "import engine.checkpoint.hub; engine.checkpoint.hub.PROBE_TIMEOUT_S = 1.5; " + ASK
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        message, seconds = run(ask, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert "the hub cannot be reached" in message
    assert seconds < 8  # importing the hub's library included
    assert hub.PROBE_TIMEOUT_S < 10


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "The hub has no model 'nobody/no-such-reranker'"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision"),
        (403, {"X-Error-Code": "GatedRepo"}, "asks for accepted terms"),
        (500, {}, "the hub cannot be reached"),
    ],
)
def test_what_the_hub_says(tmp_path: Path, status: int, headers: dict[str, str], expected: str) -> None:
    with Hub(status, headers) as endpoint:
        message, seconds = run(ASK, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert expected in message
    assert message.startswith("ModelLoadError")
    assert seconds < 10


class Hub:
    """Answers every request with one status."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{k}: {v}" for k, v in headers.items())]
        self._answer = "\r\n".join([*lines, "Content-Length: 2", "Connection: close", "", "{}"]).encode()
        self._server = socket.create_server(("127.0.0.1", 0))

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(self._answer)

    def __enter__(self) -> str:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


def test_modelscope_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_USE_MODELSCOPE", "1")
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'modelscope"):
        resolve_folder("owner/model")


def test_modelscope_is_asked_for_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modelscope.py").write_text(
        "def snapshot_download(model, revision, allow_patterns, ignore_patterns):\n"
        "    assert not [p for p in allow_patterns if p.endswith(('.py', '.bin', '.pt'))]\n"
        f"    return {str(tmp_path)!r} if model == 'owner/model' and revision == 'v1' else 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ENGINE_USE_MODELSCOPE", "1")
    try:
        assert resolve_folder("owner/model", "v1") == tmp_path
    finally:
        sys.modules.pop("modelscope", None)


def test_only_data_is_fetched() -> None:
    assert not [pattern for pattern in hub.DATA_FILES if pattern.rsplit(".", 1)[-1] in ("py", "bin", "pt", "pkl", "*")]
