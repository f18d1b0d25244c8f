"""The whole engine on the simulated device: offline, served, over processes, and after a worker has died.

Child processes find the simulator as this one did, through ``PYTHONPATH``.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import LLM
from tests.e2e.server import ServerProcess
from tests.e2e.test_seed_scripts import CHINA, PASSAGES, Home
from tests.quantized.test_modelslim import make as make_modelslim
from tests.support.checkpoints import QWEN3_OVERRIDES, make_qwen3, official_qwen3_scores
from tests.support.texts import TEXTS

QUERY = "Which animal is native to the bamboo forests of central China?"
BFLOAT16, FLOAT32 = 2e-2, 1e-5
SMALL_STEPS = ("--max-model-len", "1024", "--max-num-batched-tokens", "512")  # nothing to measure at start


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: heads of 128, bfloat16."""
    folder = tmp_path_factory.mktemp("seeds") / "Qwen3-Reranker-8B"
    return make_qwen3(folder, head_dim=128, heads=2, kv_heads=1, tied=False, dtype="bfloat16")


@pytest.fixture(scope="module")
def fault_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """When a test makes it, the simulated device of the server fails."""
    return tmp_path_factory.mktemp("faults") / "fault"


@pytest.fixture(scope="module")
def server(checkpoint: Path, fault_file: Path) -> Iterator[ServerProcess]:
    """The command of the vllm-ascend tutorial, and ``--device npu``."""
    flags = ("--host", "127.0.0.1", "--hf_overrides", json.dumps(QWEN3_OVERRIDES), "--device", "npu")
    environment = {"NPU_SIMULATOR_FAULT_FILE": str(fault_file)}
    with ServerProcess(checkpoint, *flags, *SMALL_STEPS, "--executor", "mp", environment=environment) as running:
        yield running


def test_the_tutorials_server_and_client(server: ServerProcess, checkpoint: Path, tmp_path: Path) -> None:
    printed = Home(tmp_path).run_script("vllm_ascend_online.txt", ("http://127.0.0.1:8888", server.url))
    answer: dict[str, Any] = ast.literal_eval(printed)
    scores = {entry["index"]: entry["relevance_score"] for entry in answer["results"]}
    expected = official_qwen3_scores(checkpoint, CHINA, PASSAGES)
    assert [scores[0], scores[1]] == pytest.approx(expected, abs=BFLOAT16)
    assert any("on npu:0 in bfloat16" in line for line in server.log), server.log


def test_a_dead_worker_costs_no_answer(server: ServerProcess, checkpoint: Path) -> None:
    body = {"query": QUERY, "documents": TEXTS[:6]}
    before = server.post("/v1/rerank", body).json()["results"]
    workers = [pid for pid in server.family() if "worker_process" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    after = server.post("/v1/rerank", body).json()["results"]
    assert [entry["index"] for entry in after] == [entry["index"] for entry in before]
    assert [entry["relevance_score"] for entry in after] == pytest.approx(
        [entry["relevance_score"] for entry in before], abs=BFLOAT16
    )


def test_a_fault_of_the_device_costs_no_answer(server: ServerProcess, fault_file: Path) -> None:
    """The worker ends, since its device fails for ever, and another one computes the call again."""
    body = {"query": QUERY, "documents": TEXTS[:6]}
    before = server.post("/v1/rerank", body).json()["results"]
    fault_file.write_text("507018")
    after = server.post("/v1/rerank", body).json()["results"]
    assert not fault_file.exists()
    assert [entry["index"] for entry in after] == [entry["index"] for entry in before]
    assert any("restarting the worker" in line for line in server.log), server.log


def test_a_form_that_takes_the_device_along_costs_one_start(checkpoint: Path, tmp_path: Path) -> None:
    """The worker ends over it while it loads; the one in its place leaves it out, and serves."""
    flags = ("--device", "npu", *SMALL_STEPS, "--executor", "mp", "--enforce-eager")
    environment = {"NPU_SIMULATOR_BROKEN": "npu_swiglu=lost", "XDG_CACHE_HOME": str(tmp_path)}
    with ServerProcess(checkpoint, *flags, environment=environment) as running:
        said = "not npu_swiglu: the process that tried it last ended"
        deadline = time.monotonic() + 20
        while not any(said in line for line in running.log) and time.monotonic() < deadline:
            time.sleep(0.05)  # what was found at the start is said after the line that the fixture waits for
        lines = "\n".join(running.log)
        assert "a worker lost its device while it loaded the model: starting it again" in lines
        assert said in lines
        answer = running.post("/v1/rerank", {"query": CHINA, "documents": PASSAGES}).json()["results"]
    scores = [entry["relevance_score"] for entry in sorted(answer, key=lambda entry: entry["index"])]
    assert len(scores) == len(PASSAGES)


def test_the_tutorials_offline_script(checkpoint: Path, tmp_path: Path) -> None:
    here = (("from vllm import LLM", "from engine import LLM"), ("Qwen/Qwen3-Reranker-8B", str(checkpoint)))
    device = ('task="score",', 'task="score", device="npu", max_model_len=1024, max_num_batched_tokens=512,')
    printed = Home(tmp_path).run_script("vllm_ascend_offline.txt", *here, device)
    assert ast.literal_eval(printed.splitlines()[-1]) == pytest.approx(
        official_qwen3_scores(checkpoint, CHINA, PASSAGES), abs=BFLOAT16
    )


@pytest.mark.parametrize(
    "settings", [{"max_num_batched_tokens": 800}, {"max_num_batched_tokens": 96, "max_num_seqs": 5}]
)
def test_text_in_probability_out(checkpoint: Path, settings: dict[str, Any]) -> None:
    texts = [text[:200] for text in TEXTS[:12]]
    with LLM(model=str(checkpoint), device="npu", dtype="float32", max_model_len=1024, **settings) as model:
        outputs = model.score(QUERY, texts, use_tqdm=False)
    got = [output.outputs.score for output in outputs]
    assert got == pytest.approx(official_qwen3_scores(checkpoint, QUERY, texts), abs=FLOAT32)


def test_auto_finds_the_device(checkpoint: Path) -> None:
    with LLM(model=str(checkpoint), max_model_len=512, max_num_batched_tokens=512, enforce_eager=True) as model:
        info = model._client.info
    assert info.device == "npu:0"
    assert any(re.match("device npu, chosen automatically", note) for note in info.notes)


@pytest.mark.parametrize("kind", ["W8A8_DYNAMIC", "W8A8"])
def test_checkpoints_of_msmodelslim_run_in_8_bits(tmp_path: Path, kind: str) -> None:
    twin = make_modelslim(tmp_path / "m", kind, head_dim=128, heads=2, kv_heads=1, dtype="bfloat16")
    with LLM(str(tmp_path / "m"), device="npu", max_model_len=1024, max_num_batched_tokens=512) as model:
        assert any("int8 weights in FRACTAL_NZ" in note for note in model.info.notes), model.info.notes
        got = [output.outputs.score for output in model.score(CHINA, PASSAGES)]
    assert got == pytest.approx(official_qwen3_scores(twin, CHINA, PASSAGES), abs=5e-2)
