"""Adapters that come and go, sleep and waking up, in a real server with several API servers and replicas."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.server import ServerProcess
from tests.support.adapters import make_adapter, merge
from tests.support.checkpoints import make_qwen3, official_qwen3_scores
from tests.support.texts import TEXTS

QUERY, DOCUMENTS = "what is panda?", list(TEXTS[:4])


def scores(server: ServerProcess, model: str) -> dict[int, float]:
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": model})
    assert answer.status_code == 200, answer.text
    return {one["index"]: one["relevance_score"] for one in answer.json()["results"]}


def expected(checkpoint: Path) -> Any:
    return pytest.approx(dict(enumerate(official_qwen3_scores(checkpoint, QUERY, DOCUMENTS))), abs=1e-5)


def workers(server: ServerProcess) -> list[int]:
    return [pid for pid in server.family() if b"worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_adapters_and_sleep(tmp_path: Path) -> None:
    """Both replicas know a new adapter, and so do both API servers; workers that replace killed ones get it again."""
    base = make_qwen3(tmp_path / "Qwen3-Reranker")
    first = make_adapter(tmp_path / "adapters" / "first", base, ["q_proj", "v_proj"])
    second = make_adapter(tmp_path / "adapters" / "second", base, ["o_proj"], seed=3)
    merged = [expected(merge(tmp_path / f"{one.name} Qwen3-Reranker", base, one)) for one in (first, second)]
    flags = ["--runtime-lora-folders", str(tmp_path / "adapters"), "--enable-sleep-mode", "--served-model-name", "qwen"]
    with ServerProcess(base, *flags, "--api-server-count", "2", "--data-parallel-size", "2") as server:
        plain = scores(server, "qwen")
        assert plain == expected(base)
        loaded = server.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": str(first)})
        assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'mine' added successfully.")
        for _ in range(6):  # each on a connection of its own, of either API server
            assert scores(server, "mine") == merged[0]
        cards = requests.get(f"{server.url}/v1/models", timeout=10).json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("qwen", None), ("mine", "qwen")]

        os.kill(workers(server)[0], signal.SIGKILL)
        for _ in range(2):  # replicas take turns
            assert scores(server, "mine") == merged[0]
        server.wait_for("engine_core_worker_restarts_total", 1, timeout_s=60)
        for _ in range(2):
            assert scores(server, "mine") == merged[0]
        body = {"lora_name": "mine", "lora_path": "second", "load_inplace": True}
        assert server.post("/v1/load_lora_adapter", body).status_code == 200
        assert scores(server, "mine") == merged[1]

        assert server.post("/sleep?level=1", None).status_code == 200
        assert not workers(server)
        refused = server.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "wake_up (POST)" in refused.json()["error"]["message"]
        assert requests.get(f"{server.url}/is_sleeping", timeout=10).json() == {"is_sleeping": True}
        assert requests.get(f"{server.url}/ready", timeout=10).status_code == 503
        assert requests.get(f"{server.url}/live", timeout=10).status_code == 200
        assert server.post("/wake_up", None).status_code == 200
        assert scores(server, "qwen") == plain
        assert scores(server, "mine") == merged[1]

        gone = server.post("/v1/unload_lora_adapter", {"lora_name": "mine"})
        assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'mine' removed successfully.")
        for _ in range(4):
            assert server.post("/v1/rerank", {"query": "q", "documents": ["d"], "model": "mine"}).status_code == 404
        assert scores(server, "qwen") == plain
