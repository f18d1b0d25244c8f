"""The commands and client scripts of the two documents that define the minimum, word for word.

``vllm`` and ``python3 -m sglang.launch_server`` are ``engine`` and ``engine serve`` here, the port is a free one, the
models lie in a cache of the hub, as after a download, and the folder in which the commands run is empty. SGLang's
scripts read a list, and its commands listen everywhere without a key: both are said in the environment
(``ENGINE_DIALECT``, ``ENGINE_INSECURE_NO_AUTH``), so that the commands stay what they are.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.e2e.server import COMMAND, PYTHON, ServerProcess
from tests.families.oracles import pair_logits
from tests.support.checkpoints import (
    PREFIX,
    make_qwen3,
    make_xlm_roberta,
    official_qwen3_scores,
    official_scores_of_ids,
    plain_ids,
)

SCRIPTS = Path(__file__).with_name("scripts")
CHINA = "What is the capital of China?"
PASSAGES = [
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
    "responsible for the movement of planets around the sun.",
]
# The form of SGLang's own file: messages by number, a default with a full stop, no thinking, a written last newline.
SGLANG_BODY = "<Instruct>: {}\n<Query>: {}\n<Document>: {}<|im_end|>\n<|im_start|>assistant"
SGLANG_TEMPLATE = (
    PREFIX
    + SGLANG_BODY.format(
        '{{ instruct | default("Given a web search query, retrieve relevant passages that answer the query.") }}',
        '{{ messages[0]["content"] }}',
        '{{ messages[1]["content"] }}',
    )
    + "{{ '\\n' }}"
)


@dataclass(frozen=True)
class Home:
    """Somebody's home folder."""

    folder: Path

    def cached(self, name: str) -> Path:
        """Where the hub's cache has a model."""
        repository = self.folder / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("a" * 40)
        return repository / "snapshots" / ("a" * 40)

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.folder), "HF_HOME": str(self.folder), "HF_HUB_OFFLINE": "1"}

    def run(self, command: list[str]) -> str:
        environment = os.environ | self.environment | {"PYTHONSAFEPATH": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_script(self, name: str, *replacements: tuple[str, str]) -> str:
        source = (SCRIPTS / name).read_text()
        for old, new in replacements:
            assert old in source
            source = source.replace(old, new)
        return self.run([PYTHON, "-c", source])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are typed: nothing lies there."""
    monkeypatch.chdir(tmp_path)
    assert not list(tmp_path.iterdir())
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(home: Home) -> Path:
    made = make_qwen3(home.cached("Qwen/Qwen3-Reranker-8B"), tied=False)
    (home.folder / ".cache").mkdir()
    (home.folder / ".cache" / "Qwen3-Reranker-8B").symlink_to(made)
    return made


def words_of(name: str, port: int = 0) -> list[str]:
    words = shlex.split((SCRIPTS / name).read_text().replace("\\\n", ""))  # a shell joins such lines
    words[words.index("--port") + 1] = str(port)
    return words


@pytest.fixture(scope="module")
def vllm_server(home: Home, checkpoint: Path) -> Iterator[ServerProcess]:
    program, subcommand, *words = words_of("vllm_ascend_serve.txt")
    assert (program, subcommand) == ("vllm", "serve")
    # The benchmark sends its thousand calls at once; on a slow machine they wait longer than the default allows.
    patient = {"ENGINE_MAX_QUEUE_SECONDS": "0"}
    with ServerProcess(*words, environment=home.environment | patient) as server:
        yield server


def sglang_server(home: Home, script: str) -> ServerProcess:
    words = words_of(script)
    assert words[:3] == ["python3", "-m", "sglang.launch_server"]
    said = {"ENGINE_INSECURE_NO_AUTH": "true", "ENGINE_DIALECT": "sglang"}
    return ServerProcess(*words[3:], environment=home.environment | said)


def test_vllm_ascend_online(vllm_server: ServerProcess, home: Home, checkpoint: Path) -> None:
    printed = home.run_script("vllm_ascend_online.txt", ("http://127.0.0.1:8888", vllm_server.url))
    plain = vllm_server.post("/v1/rerank", {"query": CHINA, "documents": PASSAGES}).json()
    answer: dict[str, Any] = ast.literal_eval(printed)
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == "Qwen/Qwen3-Reranker-8B"
    scores = {entry["index"]: entry["relevance_score"] for entry in answer["results"]}
    assert [scores[0], scores[1]] == pytest.approx(official_qwen3_scores(checkpoint, CHINA, PASSAGES), abs=1e-5)
    assert scores == pytest.approx({e["index"]: e["relevance_score"] for e in plain["results"]}, abs=1e-6)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    for entry in answer["results"]:
        assert entry["document"]["text"].startswith(f"<Document>: {PASSAGES[entry['index']]}<|im_end|>")
        assert entry["document"]["multi_modal"] is None
    assert answer["usage"]["total_tokens"] == plain["usage"]["total_tokens"] > 2 * 58


def test_vllm_ascend_bench(vllm_server: ServerProcess, home: Home, empty_folder: Path) -> None:
    program, *words = words_of("vllm_ascend_bench.txt", vllm_server.port)
    assert program == "vllm"
    printed = home.run([*COMMAND, *words]).splitlines()
    for label in (
        "============ Serving Benchmark Result ============",
        "Successful requests:                     1000",
        "Failed requests:                         0",
        "----------------End-to-end Latency----------------",
    ):
        assert label in printed
    (saved,) = empty_folder.glob("vllm-rerank-infqps-Qwen3-Reranker-8B-*.json")
    result = json.loads(saved.read_text())
    assert (result["completed"], result["failed"], result["request_rate"]) == (1000, 0, "inf")
    assert result["total_input_tokens"] == result["server_metrics"]["engine_logical_tokens_total"]


def test_vllm_ascend_offline(home: Home, checkpoint: Path) -> None:
    printed = home.run_script("vllm_ascend_offline.txt", ("from vllm import LLM", "from engine import LLM"))
    assert ast.literal_eval(printed.splitlines()[-1]) == pytest.approx(
        official_qwen3_scores(checkpoint, CHINA, PASSAGES), abs=1e-5
    )


def test_sglang_cross_encoder(home: Home) -> None:
    checkpoint = make_xlm_roberta(home.cached("BAAI/bge-reranker-v2-m3"))
    with sglang_server(home, "sglang_serve_cross_encoder.txt") as server:
        printed = home.run_script("sglang_python.txt", ("http://127.0.0.1:30000", server.url))
    documents = [
        "hi",
        "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a bear species "
        "endemic to China.",
    ]
    expected = 1 / (1 + np.exp(-np.array(pair_logits(checkpoint, "what is panda?", documents))))
    best = int(expected.argmax())
    assert printed == f"Score: {expected[best]:.2f} - Document: '{documents[best]}'\n"


@pytest.fixture(scope="module")
def sglang_checkpoint(home: Home) -> Path:
    return make_qwen3(home.cached("Qwen/Qwen3-Reranker-0.6B"))


def sglang_body() -> dict[str, Any]:
    words = shlex.split((SCRIPTS / "sglang_curl.txt").read_text())
    assert words[:4] == ["curl", "-X", "POST", "http://127.0.0.1:8001/v1/rerank"]
    assert words[words.index("-H") + 1] == "Content-Type: application/json"
    body: dict[str, Any] = json.loads(words[words.index("-d") + 1])
    return body


def test_sglang_qwen3_in_an_empty_folder(home: Home, sglang_checkpoint: Path, empty_folder: Path) -> None:
    """The file that the command names is SGLang's own: where it is not there, its name means the published prompt."""
    body = sglang_body()
    documents = body["documents"]
    with sglang_server(home, "sglang_serve_qwen3.txt") as server:
        answer = server.post("/v1/rerank", body).json()
        short = server.post("/v1/rerank", body | {"return_documents": False, "top_n": 9}).json()
        models = requests.get(f"{server.url}/v1/models", timeout=60).json()
    assert any("there is no such file here; the built-in prompt qwen3-reranker is used" in line for line in server.log)
    scores = official_qwen3_scores(sglang_checkpoint, body["query"], documents, body["instruct"])
    order = sorted(range(3), key=lambda i: -scores[i])
    assert [entry["index"] for entry in answer] == order[:2]
    assert [entry["document"] for entry in answer] == [documents[i] for i in order[:2]]
    assert [entry["score"] for entry in answer] == pytest.approx([scores[i] for i in order[:2]], abs=1e-5)
    assert [set(entry) for entry in short] == [{"score", "index"}] * 3
    assert models["data"][0]["id"] == body["model"]
    assert not list(empty_folder.iterdir())


def test_sglang_qwen3_in_sglangs_own_folder(home: Home, sglang_checkpoint: Path, empty_folder: Path) -> None:
    """Where the file is there, it is what counts."""
    template = empty_folder / "examples" / "chat_template" / "qwen3_reranker.jinja"
    template.parent.mkdir(parents=True)
    template.write_text(SGLANG_TEMPLATE)
    body = sglang_body()
    with sglang_server(home, "sglang_serve_qwen3.txt") as server:
        answer = server.post("/v1/rerank", body).json()
    bodies = [SGLANG_BODY.format(body["instruct"], body["query"], text) for text in body["documents"]]
    prompts = [plain_ids(sglang_checkpoint, PREFIX + text + "\n") for text in bodies]
    scores = official_scores_of_ids(sglang_checkpoint, prompts)
    assert [entry["score"] for entry in answer] == pytest.approx(sorted(scores, reverse=True)[:2], abs=1e-5)
