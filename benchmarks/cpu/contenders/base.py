"""What a contender does, and the loop of its process.

The parent sends JSON lines: ``{"prepare": path of the workloads, "prompts": [[ids], ...]}`` once a workload, then
``{"run": workload, "batch_size": n}``; each is answered by one JSON line. Standard output belongs to this protocol, so
whatever a library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.workloads import Workload


class Contender(ABC):
    """Scores pairs; logits come back in the order of the pairs."""

    batch_sizes: tuple[int, ...] = (1, 2, 4, 16)
    """To try; one of them is the best for a workload."""

    def __init__(self, model: Path, num_threads: int) -> None:
        self.model, self.num_threads = model, num_threads

    def prepare(self, workload: Workload, prompts: Sequence[Sequence[int]]) -> None:  # noqa: B027 - most need nothing
        """Before the clock runs."""

    @abstractmethod
    def score(self, workload: Workload, prompts: Sequence[Sequence[int]], batch_size: int) -> list[float]: ...


def padded_batches(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Indices of pairs, those of similar length together: the least padding there can be."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def left_padded(prompts: Sequence[Sequence[int]], pad: int = 0) -> tuple[Any, Any]:
    """(ids, mask) as int64 arrays; the last column is every pair's last token."""
    import numpy as np

    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), pad, np.int64)
    mask = np.zeros((len(prompts), width), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def serve(make: Callable[[], Contender]) -> None:
    """Answer the parent until it goes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not part of the protocol
    contender = make()
    prepared: dict[str, tuple[Workload, list[list[int]]]] = {}

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    reply({"batch_sizes": contender.batch_sizes})
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            workload = Workload(**request["prepare"])
            prepared[workload.name] = workload, request["prompts"]
            contender.prepare(workload, request["prompts"])
            reply({"ok": True})
            continue
        workload, prompts = prepared[request["run"]]
        started, cpu_started = time.perf_counter(), time.process_time()
        logits = contender.score(workload, prompts, request["batch_size"])
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        reply({"wall_s": wall_s, "cpu_s": cpu_s, "logits": [float(x) for x in logits]})
