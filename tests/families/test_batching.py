"""A pair's score does not depend on what else is in its step, nor on how the call is cut into steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import LLM
from tests.families.cases import FAMILIES
from tests.support.texts import TEXTS

IN_A_BATCH = 1e-6
"""Bound on the probability in fp32."""
CASES = {
    "xlm-roberta": "three layers",
    "bert": "three layers",
    "modernbert": "as published",
    "deberta-v2": "as published",
    "gte": "three layers",
    "mpnet": "three layers",
    "eurobert": "late",
    "jina_bert": "six heads",
    "gemma": "one key head",
    "gemma3_text": "a window of 16, two rope bases",
    "qwen3_moe": "two of six experts, the first layer dense",
    "qwen2": "tied",
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scores(llm: LLM, texts: list[str]) -> list[float]:
    return [output.outputs.score for output in llm.score("What is it?", texts, use_tqdm=False)]


@pytest.mark.parametrize("name", CASES)
def test_alone_and_together(name: str, tmp_path: Path) -> None:
    folder = FAMILIES[name].make(tmp_path, CASES[name])
    settings = {
        "model": str(folder),
        "device": "cpu",
        "cpu_threads": 1,
        "max_model_len": 400,
        **FAMILIES[name].settings,
    }
    rng = random.Random(3)
    texts = [*rng.sample(TEXTS, 12), " ".join(rng.sample(TEXTS, 3)), ""]
    with LLM(**settings, max_num_batched_tokens=8192) as wide, LLM(**settings, max_num_batched_tokens=400) as narrow:
        alone = [scores(wide, [text])[0] for text in texts]
        for _ in range(2):
            order = [rng.randrange(len(texts)) for _ in range(24)]
            for llm in (wide, narrow):
                together = scores(llm, [texts[i] for i in order])
                assert together == pytest.approx([alone[i] for i in order], abs=IN_A_BATCH)
