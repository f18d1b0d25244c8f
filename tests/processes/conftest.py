"""A small real checkpoint, its spec and its input processor, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.checkpoint.resolve import resolve_model
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.inputs.processor import InputProcessor
from engine.messages import EngineCoreRequest
from engine.model_spec import ModelSpec
from engine.request import PairOptions
from tests.support.checkpoints import QWEN3_OVERRIDES, make_qwen3


@dataclass
class Setup:
    config: EngineConfig
    spec: ModelSpec
    inputs: InputProcessor

    def request(self, call_id: str, query: str, documents: list[str]) -> EngineCoreRequest:
        pairs = self.inputs.encode([query], documents, PairOptions())
        ids = np.concatenate([pair.token_ids for pair in pairs])
        return EngineCoreRequest(call_id, ids, np.array([len(pair.token_ids) for pair in pairs], np.int32), 0.0)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "qwen3-reranker"
    make_qwen3(path, hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16)
    return path


@pytest.fixture(scope="session")
def setup(checkpoint: Path) -> Setup:
    config = EngineConfig(
        model=ModelConfig(model=str(checkpoint), hf_overrides=QWEN3_OVERRIDES, max_model_len=4096),
        scheduler=SchedulerConfig(max_num_batched_tokens=256),
        device=DeviceConfig(device="cpu", executor="mp", cpu_threads=1),
    )
    spec = resolve_model(config.model)
    return Setup(config, spec, InputProcessor(spec, config.model))
