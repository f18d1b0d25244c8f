"""The client scripts of the two documents that define the minimum, as they are printed there but for host and port."""

from __future__ import annotations

import ast
import io
import json
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ServerProcess
from tests.support.checkpoints import QWEN3_OVERRIDES, make_qwen3, official_qwen3_scores

SCRIPTS = Path(__file__).with_name("scripts")
CHINA = "What is the capital of China?"
PASSAGES = [
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
    "responsible for the movement of planets around the sun.",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("seeds") / "Qwen3-Reranker-8B", tied=False)


@pytest.fixture(scope="module")
def sglang_server(checkpoint: Path) -> Iterator[ServerProcess]:
    flags = "--served-model-name Qwen3-Reranker-0.6B --trust-remote-code --disable-radix-cache --dialect sglang"
    with ServerProcess("--model-path", checkpoint, *flags.split()) as server:
        yield server


def run_script(name: str, *replacements: tuple[str, str]) -> str:
    source = (SCRIPTS / name).read_text()
    for old, new in replacements:
        assert old in source
        source = source.replace(old, new)
    output = io.StringIO()
    with redirect_stdout(output):
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    return output.getvalue()


def test_vllm_ascend_online(checkpoint: Path) -> None:
    flags = ("--host", "127.0.0.1", "--hf_overrides", json.dumps(QWEN3_OVERRIDES), "--task", "score")
    with ServerProcess(checkpoint, *flags) as server:
        printed = run_script("vllm_ascend_online.txt", ("http://127.0.0.1:8888", server.url))
        plain = server.post("/v1/rerank", {"query": CHINA, "documents": PASSAGES}).json()
    answer: dict[str, Any] = ast.literal_eval(printed)
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == str(checkpoint)
    scores = {entry["index"]: entry["relevance_score"] for entry in answer["results"]}
    assert [scores[0], scores[1]] == pytest.approx(official_qwen3_scores(checkpoint, CHINA, PASSAGES), abs=1e-5)
    assert scores == pytest.approx({e["index"]: e["relevance_score"] for e in plain["results"]}, abs=1e-6)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    for entry in answer["results"]:
        assert entry["document"]["text"].startswith(f"<Document>: {PASSAGES[entry['index']]}<|im_end|>")
        assert entry["document"]["multi_modal"] is None
    assert answer["usage"]["total_tokens"] == plain["usage"]["total_tokens"] > 2 * 58


def test_vllm_ascend_offline(checkpoint: Path) -> None:
    here = (("from vllm import LLM", "from engine import LLM"), ("Qwen/Qwen3-Reranker-8B", str(checkpoint)))
    printed = run_script("vllm_ascend_offline.txt", *here)
    assert ast.literal_eval(printed.splitlines()[-1]) == pytest.approx(
        official_qwen3_scores(checkpoint, CHINA, PASSAGES), abs=1e-5
    )


def test_sglang_guide_script(sglang_server: ServerProcess, checkpoint: Path) -> None:
    here = (("http://127.0.0.1:30000", sglang_server.url), ("BAAI/bge-reranker-v2-m3", "Qwen3-Reranker-0.6B"))
    printed = run_script("sglang_python.txt", *here)
    documents = [
        "hi",
        "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a bear species "
        "endemic to China.",
    ]
    expected = official_qwen3_scores(checkpoint, "what is panda?", documents)
    best = max(range(2), key=expected.__getitem__)
    assert printed == f"Score: {expected[best]:.2f} - Document: '{documents[best]}'\n"


def test_sglang_guide_curl(sglang_server: ServerProcess, checkpoint: Path) -> None:
    words = shlex.split((SCRIPTS / "sglang_curl.txt").read_text())
    assert words[:4] == ["curl", "-X", "POST", "http://127.0.0.1:8001/v1/rerank"]
    assert words[words.index("-H") + 1] == "Content-Type: application/json"
    body = json.loads(words[words.index("-d") + 1])
    documents = body["documents"]
    scores = official_qwen3_scores(checkpoint, body["query"], documents, instruction=body["instruct"])
    order = sorted(range(3), key=lambda i: -scores[i])
    answer = sglang_server.post("/v1/rerank", body).json()
    assert [entry["index"] for entry in answer] == order[:2]
    assert [entry["document"] for entry in answer] == [documents[i] for i in order[:2]]
    assert [entry["score"] for entry in answer] == pytest.approx([scores[i] for i in order[:2]], abs=1e-5)
    short = sglang_server.post("/v1/rerank", body | {"return_documents": False, "top_n": 9}).json()
    assert [set(entry) for entry in short] == [{"score", "index"}] * 3
