"""Listwise and late-interaction models on the device: the scores of the CPU, several reads of a prompt included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine import LLM
from tests.support.late_interaction import make_stanford
from tests.support.listwise import make_listwise
from tests.support.texts import TEXTS

QUERY = "What is the capital of China?"
DOCUMENTS = [" ".join(text.split()[:10]) for text in TEXTS[:5]]


def difference(folder: Path, **settings: Any) -> float:
    found = []
    for device in ("npu", "cpu"):
        with LLM(str(folder), device=device, dtype="float32", **settings) as llm:
            outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
            assert all(output.error is None for output in outputs)
            found.append([output.outputs.logit for output in outputs])
    return float(np.abs(np.subtract(*found)).max())


def test_a_list_in_blocks(tmp_path: Path) -> None:
    assert difference(make_listwise(tmp_path), max_model_len=4096, max_docs_per_block=3) < 2e-5


def test_tokens_that_are_not_seen(tmp_path: Path) -> None:
    assert difference(make_stanford(tmp_path)) < 2e-5 * 32
