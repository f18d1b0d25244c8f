"""Run by path with an installation's own Python, which may be of another commit: imports nothing but ``engine``.

``python scored_calls.py MODEL TEXTS.json CALLS DOCUMENTS`` prints pairs a second and milliseconds of processor time a
pair, of calls that stand after one another, by ``LLM.score``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from engine import LLM


def main() -> None:
    model, texts, num_calls, num_documents = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    words: list[str] = json.loads(Path(texts).read_text())
    llm = LLM(model=model, device="cpu")
    for _ in range(2):
        llm.score("a first query", words[:50])
    started, used = time.perf_counter(), time.process_time()
    for call in range(num_calls):
        first = call * (num_documents // 2) % max(1, len(words) - num_documents)
        llm.score(f"query number {call}", words[first : first + num_documents])
    pairs = num_calls * num_documents
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - used
    print(json.dumps({"pairs_per_s": pairs / seconds, "cpu_ms_per_pair": cpu_s / pairs * 1e3}))


if __name__ == "__main__":
    main()
