"""Pictures on the device: the scores of the CPU, positions on three axes and steps that cut pictures included."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine import LLM
from tests.support.pictures import data_url, make_qwen3_vl, picture


def test_scores_are_those_of_the_cpu(tmp_path: Path) -> None:
    folder, found = make_qwen3_vl(tmp_path / "model"), []
    query = {"text": "is it this?", "image": data_url(picture(24, 24))}
    documents = ["a cat", {"image": data_url(picture(40, 64))}]
    for device in ("npu", "cpu"):
        with LLM(str(folder), device=device, dtype="float32", max_model_len=400, max_num_batched_tokens=128) as llm:
            outputs = llm.score(query, documents, use_tqdm=False)
            assert all(output.error is None for output in outputs)
            found.append([output.outputs.logit for output in outputs])
    np.testing.assert_allclose(*found, atol=2e-5)
