"""``LLM.score`` of every family equals transformers in fp32, on random checkpoints of several shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.backends.models import supported_families
from engine.checkpoint.families import FAMILIES as RESOLVED
from tests.families import kinds
from tests.families.cases import FAMILIES
from tests.families.family import Family
from tests.families.measure import measure
from tests.families.table import DOCUMENT, MEASURED, render, stored

PROBABILITY, LOGIT = 1e-5, 1e-4
"""Bounds: absolute on the probability, relative on the logit."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        pytest.param(family, shape, id=f"{name}: {shape}")
        for name, family in FAMILIES.items()
        for shape in family.shapes
    ],
)
def test_scores_are_those_of_transformers(family: Family, shape: str, tmp_path: Path) -> None:
    found = measure(family, shape, tmp_path)
    assert np.ptp(found.expected) > 0.01, "the checkpoint does not tell pairs apart"
    assert found.ids == found.expected_ids
    np.testing.assert_allclose(found.logits, found.expected, rtol=LOGIT, atol=LOGIT)
    assert found.difference <= PROBABILITY


def test_no_family_is_left_out() -> None:
    assert set(FAMILIES) == set(RESOLVED)
    assert {name.replace("-", "_") for name in FAMILIES} == set(supported_families())


def test_the_table_of_families_is_up_to_date() -> None:
    """``python -m tests.families.table`` writes it."""

    def cells(text: str) -> list[list[str]]:
        return [line.split("|") for line in text.splitlines()]

    written, rendered = cells(stored()), cells(render(lambda family: ""))
    for row, expected in zip(written, rendered, strict=True):
        assert row[:MEASURED] == expected[:MEASURED]
    for row in written[2:]:
        assert float(row[MEASURED]) <= PROBABILITY


def test_the_table_of_kinds_is_up_to_date() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.split(kinds.BEGIN)[1].split(kinds.END)[0] == kinds.render_kinds()
