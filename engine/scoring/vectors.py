"""Vectors of texts as a bi-encoder's core gives them, step by step."""

from __future__ import annotations

import numpy as np

from engine.errors import EngineError
from engine.messages import EngineCoreOutput


class Vectors:
    """Takes the outputs of the core in any order."""

    def __init__(self, num_texts: int) -> None:
        self.vectors: list[np.ndarray | None] = [None] * num_texts
        self.errors: dict[int, EngineError] = {}
        self.complete = not num_texts

    def add(self, output: EngineCoreOutput) -> None:
        """Enter an output's vectors and errors."""
        for index, (vector,) in zip(output.indices.tolist(), output.rows(), strict=True):
            self.vectors[index] = vector
        self.errors |= {index: error.rebuilt() for index, error in output.errors.items()}
        self.complete = self.complete or output.stats is not None
