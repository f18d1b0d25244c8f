"""On a real GPU: a worker as it is loaded for serving, its graphs, its limits. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.backends.base import OutOfMemory
from engine.backends.cuda.backend import CudaBackend
from engine.backends.worker import Worker
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.model_spec import HeadSpec
from tests.backends.plans import PlanBuilder, spec_of
from tests.cuda.test_model import NO_YES, expected_logits, shared_plan
from tests.support.checkpoints import make_qwen3

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device"),
]
GIB = 2**30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("gpu"), hidden=256, heads=8, kv_heads=2, head_dim=64, intermediate=512)


def load(folder: Path, **device: int | bool) -> Worker:
    spec = spec_of(folder, head=HeadSpec(kind="from_2_way_softmax", token_ids=NO_YES), max_model_len=2048)
    config = EngineConfig(
        model=ModelConfig(dtype="bfloat16"),
        scheduler=SchedulerConfig(kv_cache_tokens=80),
        device=DeviceConfig(device="cuda", **device),  # type: ignore[arg-type]
    )
    worker = Worker(config, spec)
    worker.load()
    return worker


def test_scores_are_those_of_transformers(checkpoint: Path) -> None:
    for eager in (False, True):
        worker = load(checkpoint, enforce_eager=eager)
        values = worker.execute(shared_plan(80)).values[:, 0]
        exact = expected_logits(checkpoint)
        assert np.abs(values - exact).max() < 0.05 * np.abs(exact).max() + 0.05
        assert worker.runner is not None
        assert isinstance(worker.runner.backend, CudaBackend)
        graphed = worker.runner.backend.graphed
        assert graphed is not None
        assert (graphed.num_replays > 0) == (not eager)
        worker.close()


def test_a_step_that_does_not_fit_leaves_the_device_as_it_was(checkpoint: Path) -> None:
    worker = load(checkpoint, gpu_memory_bytes=GIB // 2)
    before = worker.execute(shared_plan(80)).values
    large = PlanBuilder(80)
    for _ in range(1000):
        large.add([1] * 2000, read=True)
    with pytest.raises(OutOfMemory):
        worker.execute(large.build())
    np.testing.assert_array_equal(worker.execute(shared_plan(80)).values, before)
    worker.close()
