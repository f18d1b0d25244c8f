"""Scores on the simulated device at each torch_npu and CANN equal those of transformers, with graphs and without.

Each version is a process of its own: the schemas are registered once. The torch is the one of this environment;
docs/ascend.md says how the same was run with the torch of each version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.npu import compare_schemas
from tests.support.checkpoints import make_qwen3, official_qwen3_scores
from tests.support.texts import TEXTS

FAKE = Path(__file__).parent / "fake"
QUERY = "Which animal is native to the bamboo forests of central China?"
DOCUMENTS = [text[:120] for text in TEXTS[:6]]
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2}
SCORE = """
import json, sys
from engine import LLM
settings = json.loads(sys.argv[1])
found = {}
for dtype, graphs in settings.pop("runs"):
    with LLM(device="npu", dtype=dtype, enforce_eager=not graphs, **settings) as model:
        for _ in range(3):  # the third time a graph is replayed, if there is one
            scores = [output.outputs.score for output in model.score(sys.argv[2], sys.argv[3:], use_tqdm=False)]
        found[f"{dtype} {graphs}"] = {"scores": scores, "notes": model.info.notes}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("versions"), head_dim=128, heads=4, kv_heads=2, tied=False, layers=2)


@cache
def expected(checkpoint: Path) -> tuple[float, ...]:
    return tuple(official_qwen3_scores(checkpoint, QUERY, DOCUMENTS))


def run(checkpoint: Path, runs: list[tuple[str, bool]], **simulator: str) -> dict[str, Any]:
    """Scores and notes of each (dtype, graphs)."""
    settings = {"model": str(checkpoint), "max_model_len": 512, "max_num_batched_tokens": 512, "runs": runs}
    environment = {f"NPU_SIMULATOR_{name}": value for name, value in simulator.items()}
    finished = subprocess.run(
        [sys.executable, "-c", SCORE, json.dumps(settings), QUERY, *DOCUMENTS],
        env={**os.environ, "PYTHONPATH": str(FAKE), "PYTHONSAFEPATH": "1", **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    for name, result in found.items():
        tolerance = TOLERANCE[name.split()[0]]
        np.testing.assert_allclose(result["scores"], expected(checkpoint), atol=tolerance, rtol=0, err_msg=name)
    return found


@pytest.mark.parametrize("version", compare_schemas.versions())
def test_each_torch_npu(version: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = run(checkpoint, [("bfloat16", False), ("bfloat16", True)], VERSION=version)
    assert any(note.startswith("ACL graphs for steps") for note in found["bfloat16 True"]["notes"])
    assert any(f"torch_npu {version}" in note for note in found["bfloat16 False"]["notes"])


def test_a_cann_that_takes_less(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9.0: attention of inference in bfloat16 only. float16 takes the operator of training, and the log says why."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = run(checkpoint, [("float16", True), ("bfloat16", True)], CANN="9.0.0")
    half, brain = (found[f"{dtype} True"]["notes"] for dtype in ("float16", "bfloat16"))
    assert any(
        "attention" in note and "npu_fusion_attention" in note and "inputDataType should be bf16" in note
        for note in half
    ), half
    assert any(note.startswith("no ACL graphs") for note in half)
    assert any("attention" in note and "block table" in note and "not" not in note for note in brain), brain
    assert any("CANN 9.0.0 takes fewer dtypes" in note for note in brain)
