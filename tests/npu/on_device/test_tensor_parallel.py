"""Two workers share a model, each on a card of its own, with ``hccl`` between them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import LLM
from engine.backends import worker as worker_module
from engine.backends.tensor_parallel import TPGroup
from engine.backends.worker import Worker
from engine.config import DeviceConfig, EngineConfig, SchedulerConfig
from engine.errors import DeviceError
from engine.step import TPRank
from tests.backends.plans import spec_of
from tests.e2e.server import ServerProcess
from tests.npu.on_device import workers
from tests.npu.on_device.recording import recording
from tests.npu.on_device.test_parity import DECLARED
from tests.support.checkpoints import make_qwen3, official_qwen3_scores
from tests.support.texts import TEXTS

QUERY = "Which animal is native to the bamboo forests of central China?"
DOCUMENTS = [text[:200] for text in TEXTS[:8]]
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
SMALL_STEPS: dict[str, Any] = {"max_model_len": 1024, "max_num_batched_tokens": 512}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 128 as published, and one key head for both workers."""
    folder = tmp_path_factory.mktemp("cards") / "Qwen3-Reranker-8B"
    return make_qwen3(folder, head_dim=128, heads=4, kv_heads=1, tied=False, dtype="bfloat16", shards=2, layers=3)


def test_two_cards_score_like_transformers(checkpoint: Path) -> None:
    settings = SMALL_STEPS | {"device": "npu", "dtype": "float32", "tensor_parallel_size": 2}
    with LLM(model=str(checkpoint), **settings) as model:
        info = model.info
        got = [output.outputs.score for output in model.score(QUERY, DOCUMENTS, use_tqdm=False)]
    assert info.device == "npu:0 + npu:1"
    assert any(re.search("one of 2 workers that share the model, over hccl", note) for note in info.notes)
    assert got == pytest.approx(official_qwen3_scores(checkpoint, QUERY, DOCUMENTS), abs=TOLERANCE["float32"])


def test_w8a8_on_two_cards(checkpoint: Path) -> None:
    settings = SMALL_STEPS | {"device": "npu", "quantization": "w8a8", "tensor_parallel_size": 2}
    with LLM(model=str(checkpoint), **settings) as model:
        got = [output.outputs.score for output in model.score(QUERY, DOCUMENTS, use_tqdm=False)]
    assert got == pytest.approx(official_qwen3_scores(checkpoint, QUERY, DOCUMENTS), abs=5e-2)


def test_the_tutorials_flag(checkpoint: Path) -> None:
    """``--tensor-parallel-size`` as the vllm-ascend tutorial writes it, served over HTTP."""
    flags = ("--tensor-parallel-size", "2", "--device", "npu", "--max-model-len", "1024")
    with ServerProcess(checkpoint, *flags, "--max-num-batched-tokens", "512") as server:
        answer = server.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}).json()["results"]
        assert any("on npu:0 + npu:1 in bfloat16" in line for line in server.log), server.log
    scores = [entry["relevance_score"] for entry in sorted(answer, key=lambda entry: entry["index"])]
    assert scores == pytest.approx(official_qwen3_scores(checkpoint, QUERY, DOCUMENTS), abs=TOLERANCE["bfloat16"])


def test_more_workers_than_cards(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setenv("NPU_SIMULATOR_DEVICES", "1")
    with pytest.raises(DeviceError, match="worker 1 needs an NPU of its own, but 1 are visible; lower --tensor-paral"):
        LLM(model=str(checkpoint), device="npu", tensor_parallel_size=2, **SMALL_STEPS)


class Unheard(TPGroup):
    """One of two who takes its own terms for the sums."""

    sums = 0

    def all_reduce_sum(self, x: torch.Tensor) -> torch.Tensor:
        self.sums += 1
        return x


WORDS_OF_ONE_WORKER = {"aten::sub", "aten::lt", "aten::ge", "aten::bitwise_or", "aten::masked_fill"}
"""Which of the step's words are in this worker's run of the embedding: a few thousand integers a step."""


def test_two_sums_a_layer_and_nothing_else_reaches_the_device(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Unheard(0, 2)
    monkeypatch.setattr(worker_module, "join_tp_group", lambda tp_rank, backend, timeout_s: group)
    config = EngineConfig(
        scheduler=SchedulerConfig(kv_cache_tokens=workers.CAPACITY, max_num_batched_tokens=workers.BUDGET),
        device=DeviceConfig(device="npu", tensor_parallel_size=2),
    )
    worker = Worker(config, spec_of(checkpoint, max_model_len=workers.CAPACITY), 0, TPRank(0, 2))
    worker.load()
    plan = workers.shared_prefix(*workers.random_texts())
    group.sums = 0
    with recording() as log:
        worker.execute(plan)
    assert group.sums == 1 + 2 * 3, "the words, and two for each of three layers"
    assert set(log) <= DECLARED | WORDS_OF_ONE_WORKER, sorted(set(log) - DECLARED - WORDS_OF_ONE_WORKER)
    assert set(log) >= WORDS_OF_ONE_WORKER
