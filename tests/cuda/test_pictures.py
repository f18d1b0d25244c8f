"""Pictures on the CUDA backend's ops: positions on three axes and rows of pictures, with kept keys, as on the CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.backends.worker import Worker
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig, SchedulerConfig
from engine.inputs.processor import InputProcessor
from engine.model_spec import ModelSpec
from engine.pictures.loader import PictureLoader
from engine.request import ImageSource, RerankCall
from engine.scheduling.scheduler import Scheduler
from engine.scoring.call_encoding import CallEncoding, core_request
from tests.backends.plans import config_of
from tests.cuda.stand_in import StandIn, needs_interpreter
from tests.support.pictures import data_url, make_qwen3_vl, picture

pytestmark = [needs_interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
BUDGET = 96


def scored(spec: ModelSpec, model: ModelConfig) -> np.ndarray:
    """Logits of a picture and two documents, one with a picture, in steps that cut them."""
    worker = Worker(config_of(kv_cache_tokens=400, budget=BUDGET, dtype="float32"), spec)
    info = worker.load()
    processor, loader = InputProcessor(spec, model), PictureLoader(spec.vision, ())
    small, wide = (ImageSource(data_url(picture(*size))) for size in ((24, 24), (40, 64)))
    call = RerankCall(queries=["x"], documents=["", "a cat"], query_images=[(small,)], document_images=[(wide,), ()])
    encoding = CallEncoding(call, processor, pictures=loader.load_all(call))
    assert list(encoding.slices(8))
    loader.close()
    scheduler = Scheduler(SchedulerConfig(), info, processor.constant_prefix, True, 400, time.monotonic)
    scheduler.add(core_request("call", encoding.pairs, arrival_s=0.0))
    logits = np.full(2, np.nan, np.float32)
    num_steps = 0
    while (step := scheduler.schedule()) is not None:
        num_steps += 1
        for output in scheduler.update(worker.execute(step)):
            logits[output.indices] = output.values[:, 0]
    assert num_steps > 1
    return logits


def test_scores_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(model=str(make_qwen3_vl(tmp_path / "model")), max_model_len=400)
    spec = resolve_model(model)
    expected = scored(spec, model)

    def stand_in(name: str) -> Any:
        return StandIn(), "stand-in"

    monkeypatch.setattr("engine.backends.worker.choose_backend", stand_in)
    np.testing.assert_allclose(scored(spec, model), expected, atol=2e-5)
