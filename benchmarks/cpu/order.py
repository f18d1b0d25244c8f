"""``python -m benchmarks.cpu.order LISTS.jsonl [--model FOLDER]``: what quantisation does to a trained model's order.

LISTS has lines of ``query``, ``positive`` and ``negative`` texts, as ``engine eval --data`` takes them. Two documents
of a query are *swapped* when fp32 and the quantised model disagree on which is better; the largest difference of their
fp32 logits says how far from a tie that was.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.cpu.machine import machine
from engine.entrypoints.evaluation.examples import read_examples
from engine.entrypoints.offline.llm import LLM


def logits(model: str | None, lists: list[tuple[str, list[str]]], quantization: str | None) -> list[list[float]]:
    with LLM(model, quantization=quantization) as llm:
        pairs = [(query, document) for query, documents in lists for document in documents]
        outputs = iter(llm.score([query for query, _ in pairs], [text for _, text in pairs], use_tqdm=False))
        return [[next(outputs).outputs.logit for _ in documents] for _, documents in lists]


def compare(exact: list[list[float]], other: list[list[float]]) -> dict[str, Any]:
    swapped, gap, count = 0, 0.0, 0
    for a, b in zip(exact, other, strict=True):
        for i, j in combinations(range(len(a)), 2):
            count += 1
            if (a[i] - a[j]) * (b[i] - b[j]) < 0:
                swapped += 1
                gap = max(gap, abs(a[i] - a[j]))
    firsts = sum(a.index(max(a)) != b.index(max(b)) for a, b in zip(exact, other, strict=True))
    differences = [abs(x - y) for a, b in zip(exact, other, strict=True) for x, y in zip(a, b, strict=True)]
    return {
        "document_pairs": count,
        "swapped": swapped,
        "largest_fp32_gap_of_a_swap": gap,
        "queries_with_another_first": firsts,
        "largest_logit_difference": max(differences),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.order", description=__doc__)
    parser.add_argument("lists", type=Path)
    parser.add_argument("--model", help="default: the packaged one")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lists = read_examples(arguments.lists).lists()
    exact = logits(arguments.model, lists, None)
    report: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(),
        "lists": arguments.lists.name,
        "model": arguments.model and Path(arguments.model).name,
        "queries": len(lists),
        "logit_range": [min(map(min, exact)), max(map(max, exact))],
        "machine": machine(),
    }
    for quantization in ("int16", "int8"):
        report[quantization] = compare(exact, logits(arguments.model, lists, quantization))
        print(quantization, json.dumps(report[quantization]))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
