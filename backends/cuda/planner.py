"""How long a step takes, as ``a + b * tokens + c * sum(len^2)``, fitted to a few measured steps; and the token budget.

``a`` is what every step costs (launches, reading the weights), ``b`` the matrix products, ``c`` attention. The budget
is the smallest size whose rate is within a few percent of the best: larger steps only make callers wait. Pure
arithmetic, so it is tested without a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

TOLERANCE = 0.03


@dataclass(frozen=True)
class StepSample:
    """One measured step."""

    num_tokens: int
    sum_squares: int
    """Sum over segments of length times the keys that a token of it sees on average."""
    seconds: float


@dataclass(frozen=True)
class StepTime:
    """The time of a step as a function of its tokens, fitted to measurements."""

    fixed_s: float
    token_s: float
    square_s: float

    def seconds(self, num_tokens: int, sum_squares: int) -> float:
        return self.fixed_s + self.token_s * num_tokens + self.square_s * sum_squares

    def __str__(self) -> str:
        fixed, token, square = self.fixed_s * 1e3, self.token_s * 1e6, self.square_s * 1e9
        return f"{fixed:.2f} ms + {token:.3f} us a token + {square:.4f} ns a squared length"


def fit_step_time(samples: Sequence[StepSample]) -> StepTime:
    """Least squares in relative error with coefficients >= 0: the best of the fits on every subset of the terms."""
    terms = np.array([[1.0, sample.num_tokens, sample.sum_squares] for sample in samples])
    seconds = np.array([sample.seconds for sample in samples])
    weighted = terms / seconds[:, None]
    best, best_error = np.zeros(3), np.inf
    for size in (1, 2, 3):
        for columns in combinations(range(3), size):
            used = weighted[:, columns]
            norms = np.maximum(np.linalg.norm(used, axis=0), 1e-300)
            solution = np.linalg.lstsq(used / norms, np.ones(len(seconds)), rcond=None)[0] / norms
            error = float(np.square(used @ solution - 1.0).sum())
            if (solution >= 0).all() and error < best_error * (1 - 1e-9):
                best, best_error = np.zeros(3), error
                best[list(columns)] = solution
    return StepTime(*best.tolist())


def choose_token_budget(
    step_time: StepTime, sizes: Sequence[int], segment_len: int, tolerance: float = TOLERANCE
) -> int:
    """Smallest of ``sizes`` whose rate is within ``tolerance`` of the best, for segments of ``segment_len`` tokens."""

    def rate(size: int) -> float:
        return size / step_time.seconds(size, size * min(segment_len, size) // 2)

    best = max(map(rate, sizes))
    return min(size for size in sizes if rate(size) >= (1.0 - tolerance) * best)
