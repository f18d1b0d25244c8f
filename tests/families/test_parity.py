"""``LLM.score`` of every family equals transformers in fp32, on random checkpoints of several shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import LLM
from tests.families.cases import FAMILIES, Family
from tests.support.texts import TEXTS

QUERY = "Which animal is native to the bamboo forests of central China?"
DOCUMENTS = [*TEXTS[:24], " ".join(TEXTS[:6]), "", "yes"]
PROBABILITY, LOGIT = 1e-5, 1e-4
"""Bounds: absolute on the probability, relative on the logit."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(logits: list[float], expected: list[float]) -> None:
    got, wanted = np.array(logits), np.array(expected)
    np.testing.assert_allclose(got, wanted, rtol=LOGIT, atol=LOGIT)
    np.testing.assert_allclose(1 / (1 + np.exp(-got)), 1 / (1 + np.exp(-wanted)), rtol=0, atol=PROBABILITY)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        pytest.param(family, shape, id=f"{name}: {shape}")
        for name, family in FAMILIES.items()
        for shape in family.shapes
    ],
)
def test_scores_are_those_of_transformers(family: Family, shape: str, tmp_path: Path) -> None:
    folder = family.make(tmp_path, shape)
    expected = family.expected(folder, QUERY, DOCUMENTS)
    assert np.ptp(expected) > 0.01, "the checkpoint does not tell pairs apart"
    with LLM(model=str(folder), device="cpu", cpu_threads=1, **family.settings) as llm:
        outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == family.ids(folder, QUERY, DOCUMENTS)
    check([output.outputs.logit for output in outputs], expected)
