"""Jobs for ``rank.py``, and the processes that do them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine import messages
from engine.checkpoint.resolve import resolve_model
from engine.config import DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from engine.step import SchedulerOutput
from tests.support.texts import TEXTS
from tests.tensor_parallel.rank import JOBS, Job

QUERY = "What is the capital of China?"
DOCUMENTS = [text[:300] for text in TEXTS[:6]]
TIMEOUT_S = 150


def job(folder: Path, size: int, *, adapter: str | None = None, **model: Any) -> Job:
    """The pairs of ``QUERY`` and ``DOCUMENTS``, each whole, in one step."""
    settings = ModelConfig(model=str(folder), max_model_len=400, **model)
    spec = resolve_model(settings)
    config = EngineConfig(
        model=settings,
        scheduler=SchedulerConfig(max_num_batched_tokens=4096),
        device=DeviceConfig(device="cpu", tensor_parallel_size=size, cpu_threads=1),
    )
    pairs = InputProcessor(spec, settings).encode([QUERY], DOCUMENTS, PairOptions())
    types = [pair.token_type_ids for pair in pairs if pair.token_type_ids is not None]
    plan = SchedulerOutput(
        step_id=0,
        token_ids=np.concatenate([pair.token_ids for pair in pairs]),
        segment_lens=np.array([len(pair.token_ids) for pair in pairs], np.int32),
        context_ids=np.full(len(pairs), -1, np.int32),
        context_indptr=np.zeros(1, np.int32),
        context_ranges=np.zeros((0, 2), np.int32),
        keep_ranges=np.zeros((0, 3), np.int32),
        read_segments=np.arange(len(pairs), dtype=np.int32),
        token_type_ids=np.concatenate(types) if types else None,
        adapter=adapter,
    )
    return Job(config, spec, plan)


def run(folder: Path, jobs: Sequence[Job], size: int) -> list[np.ndarray]:
    """What ``size`` processes answer, job by job."""
    folder.mkdir()
    (folder / JOBS).write_bytes(messages.encoder().encode(list(jobs)))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.tensor_parallel.rank", str(folder), str(index), str(size)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(size)
    ]
    try:
        errors = [rank.communicate(timeout=TIMEOUT_S)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(errors)
    return [np.load(folder / f"values-{number}.npy") for number in range(len(jobs))]
