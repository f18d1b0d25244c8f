"""The four workloads, as token ids: what a template, a query and documents look like after tokenisation.

A pair is ``constant prefix | query | document``: the first is the constant beginning of the template, the document
includes the constant end. Lengths of documents vary by up to 30 % around their mean, with a fixed seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONSTANT_PREFIX = 58
SPREAD = 0.3


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    num_calls: int
    documents: int
    """A call."""
    query_len: int
    document_len: int
    """Mean."""

    def scaled(self, num_calls: int, divisor: int) -> Workload:
        """A small one of the same form."""
        return Workload(
            self.name,
            self.title,
            num_calls,
            max(1, self.documents // divisor),
            max(2, self.query_len // divisor),
            max(4, self.document_len // divisor),
        )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("seed", "pairs of about 108 tokens, distinct queries", 1024, 1, 14, 36),
        Workload("shared", "1 query x 100 documents, 90 shared + 180 each", 12, 100, 32, 180),
        Workload("long", "20 documents of 2,000 tokens", 4, 20, 32, 1910),
        Workload("single", "one pair at a time", 64, 1, 14, 36),
    )
}


@dataclass(frozen=True)
class CallTokens:
    """One call: whole prompts, one after the other."""

    prompts: list[np.ndarray]
    query_end: int
    """Tokens that depend on template and query only."""


def build_calls(
    workload: Workload, vocab_size: int, constant_prefix_len: int = CONSTANT_PREFIX
) -> tuple[np.ndarray, list[CallTokens]]:
    """The constant prefix, and the calls."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(4, vocab_size, count, dtype=np.int32)

    constant_prefix, calls = tokens(constant_prefix_len), []
    for _ in range(workload.num_calls):
        query = tokens(workload.query_len)
        low, high = (round(workload.document_len * (1 + sign * SPREAD)) for sign in (-1, 1))
        documents = [tokens(int(rng.integers(low, high + 1))) for _ in range(workload.documents)]
        calls.append(
            CallTokens(
                [np.concatenate([constant_prefix, query, d]) for d in documents],
                constant_prefix_len + workload.query_len,
            )
        )
    return constant_prefix, calls


def num_pairs(calls: list[CallTokens]) -> int:
    return sum(len(call.prompts) for call in calls)


def logical_tokens(calls: list[CallTokens]) -> int:
    return sum(len(prompt) for call in calls for prompt in call.prompts)
