"""``--profile``: what is counted is what the shapes say, and every computed token is in the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import LLM
from engine.backends.measure.profiler import attention_gflop
from engine.errors import ConfigError
from engine.kernels.ops import AttentionMeta
from tests.support.checkpoints import make_qwen3

DOCUMENTS = ["Beijing is the capital.", "x " * 90, ""]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("profiler") / "Qwen3-Reranker", layers=3)


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
def test_table_and_trace(checkpoint: Path, tmp_path: Path, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_CPU_KERNELS", kernels)
    folder = tmp_path / "new" / "profile"
    with LLM(str(checkpoint), cpu_threads=1) as llm:
        expected = [output.outputs.score for output in llm.score("capital?", DOCUMENTS)]
    with LLM(str(checkpoint), cpu_threads=1, profile=str(folder)) as llm:
        assert [output.outputs.score for output in llm.score("capital?", DOCUMENTS)] == expected

    report = json.loads((folder / "ops-0.json").read_text())
    assert report["steps"] >= 1
    # Of the last layer only the keys and values of all tokens are computed; gate and up only of those that are read.
    full_layers, hidden, intermediate, rows = 2, 64, 160, report["tokens"]
    reads = len(DOCUMENTS) + 3  # those of the self-test at the start, which is a call like others
    per_token = 2e-9 * 2 * hidden * intermediate
    assert report["ops"]["linear_swiglu"]["gflop"] == pytest.approx(per_token * (full_layers * rows + reads))
    assert report["ops"]["linear_swiglu"]["calls"] == 3 * report["steps"]
    assert report["seconds"] >= sum(total["seconds"] for total in report["ops"].values()) > 0
    assert set(report["ceilings"]) == ({"linear", "attention"} if kernels == "compiled" else set())

    table = (folder / "ops-0.md").read_text()
    assert "| attention |" in table
    assert ("%" in table.splitlines()[-1].rpartition(" | ")[2]) == (kernels == "compiled")
    events = json.loads((folder / "trace-0.json").read_text())["traceEvents"]
    assert sum(event["name"].startswith("step") for event in events) == report["steps"]
    assert sum(event["name"] == "attention" for event in events) == report["ops"]["attention"]["calls"]


def test_attention_counts_the_pairs_that_meet() -> None:
    """Segment 0: 5 tokens alone. Segment 1: 3 tokens after a context of 4 and 2. Segment 2: the last token of 6."""
    meta = AttentionMeta(
        q_starts=np.array([0, 5, 8]),
        q_lens=np.array([5, 3, 1]),
        own_starts=np.array([0, 5, 8]),
        own_lens=np.array([5, 3, 6]),
        context_ids=np.array([-1, 0, -1]),
        context_indptr=np.array([0, 2]),
        context_ranges=np.array([[0, 4], [9, 2]]),
        kv_capacity=16,
        scale=1.0,
        causal=True,
    )
    pairs = (1 + 2 + 3 + 4 + 5) + (3 * 6 + 1 + 2 + 3) + 6
    assert attention_gflop(torch.zeros(9, 4, 8), meta) == pytest.approx(4e-9 * 4 * 8 * pairs)


def test_a_folder_that_cannot_be(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--profile .*file.*: Not a directory; name a folder"):
        LLM(str(checkpoint), profile=str(tmp_path / "file" / "below"))
