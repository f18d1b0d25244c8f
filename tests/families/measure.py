"""One checkpoint of a family, scored by ``LLM.score`` and by transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import LLM
from tests.families.family import Family
from tests.support.texts import TEXTS

QUERY = "Which animal is native to the bamboo forests of central China?"
DOCUMENTS = [*TEXTS[:24], " ".join(TEXTS[:6]), "", "yes"]


@dataclass(frozen=True)
class Measured:
    logits: np.ndarray
    expected: np.ndarray
    ids: list[list[int]]
    expected_ids: list[list[int]]

    @property
    def difference(self) -> float:
        """Largest of a probability."""
        return float(np.abs(_sigmoid(self.logits) - _sigmoid(self.expected)).max())


def measure(family: Family, shape: str, folder: Path) -> Measured:
    folder = family.make(folder, shape)
    expected = np.array(family.expected(folder, QUERY, DOCUMENTS))
    with LLM(model=str(folder), device="cpu", cpu_threads=1, **family.settings) as llm:
        outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    logits = np.array([output.outputs.logit for output in outputs])
    ids = [output.prompt_token_ids for output in outputs]
    return Measured(logits, expected, ids, family.ids(folder, QUERY, DOCUMENTS))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
