"""A worker that comes back to other files refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import LLM
from engine.backends.worker import Worker
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ModelLoadError
from tests.support.checkpoints import make_qwen3


def test_other_weights_are_refused(tmp_path: Path) -> None:
    folder = make_qwen3(tmp_path / "model", layers=1)
    spec = resolve_model(ModelConfig(model=str(folder)))
    assert resolve_model(ModelConfig(model=str(folder))).fingerprint == spec.fingerprint
    with LLM(model=str(folder), device="cpu", cpu_threads=1) as llm:
        config = llm.config
    make_qwen3(folder, layers=1, seed=1)
    with pytest.raises(ModelLoadError, match="no longer those that were served"):
        Worker(config, spec).load()
