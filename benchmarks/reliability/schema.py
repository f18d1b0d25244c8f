"""Schemathesis over every route that /openapi.json describes: valid bodies, invalid ones, all checks, many cases.

Runs in one process a core, against the real application and tokenizer (``tests/serve/described.py``). A failure is kept
and the run goes on; ``details`` has the first ones with the call that shows them. The figure for all routes is part of
``python -m benchmarks.reliability``; ``python -m benchmarks.reliability.schema 5000 /v1/rerank`` tries some of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import warnings
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup

from benchmarks.reliability.figures import Figure, save, table
from tests.serve.described import check, described

KEPT = 20


class Tally:
    """Cases by route, and what they showed."""

    def __init__(self) -> None:
        self.cases: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.examples: list[str] = []

    def try_one(self, case: Any) -> None:
        label = case.operation.label
        self.cases[label] += 1
        try:
            check(case)
        except (Exception, FailureGroup) as error:
            self.failures[label] += 1
            if len(self.examples) < KEPT:
                found = getattr(error, "exceptions", (error,))
                what = "; ".join(f"{type(one).__name__}: {one}"[:300] for one in found)
                self.examples.append(f"{label}: {what} for {str(case.body)[:1500]}")
                print(self.examples[-1], file=sys.stderr, flush=True)  # a long run: not only at its end

    def add(self, other: Tally) -> None:
        for label, count in other.cases.items():
            print(f"{label}: {other.failures[label]} failures in {count} cases", file=sys.stderr, flush=True)
        self.cases += other.cases
        self.failures += other.failures
        self.examples = [*self.examples, *other.examples][:KEPT]


def explore(operation: Any, mode: GenerationMode, cases: int, tally: Tally, start: int) -> None:
    """``cases`` bodies of one kind (positive: as described; negative: not) for one route."""

    @seed(zlib.crc32(f"{start} {operation.label}".encode()))
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        tally.try_one(case)

    run()


def try_operation(label: str, path: str, cases: int, start: int) -> Tally:
    """One operation, in a process of its own."""
    (operation,) = (found for found in operations_of(path) if found.label == label)
    tally = Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mode in GenerationMode if operation.body else (GenerationMode.POSITIVE,):
            explore(operation, mode, cases, tally, start)
    return tally


def operations_of(*paths: str) -> list[Any]:
    return [result.ok() for result in described(*paths).get_all_operations()]


def schema(cases: int, *paths: str, start: int = 0) -> Figure:
    """At least ``cases`` on the routes that take a body, shared equally; a few on those that do not."""
    operations = operations_of(*paths)
    share = -(-cases // (2 * max(1, sum(1 for operation in operations if operation.body))))
    total = Tally()
    started = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        work = [
            pool.submit(try_operation, operation.label, operation.path, share if operation.body else 20, start)
            for operation in operations
        ]
        for done in as_completed(work):
            total.add(done.result())
    num_cases, failures = total.cases.total(), total.failures.total()
    return Figure(
        f"Schemathesis over {len(operations)} operations",
        "0 failures",
        f"{failures} failures in {num_cases} cases",
        failures == 0 and num_cases >= cases,
        {
            "cases": dict(total.cases),
            "failures": dict(total.failures),
            "examples": total.examples,
            "seconds": time.monotonic() - started,
        },
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.reliability.schema", description=__doc__)
    parser.add_argument("cases", type=int)
    parser.add_argument("paths", nargs="*", help="none: all")
    parser.add_argument("--start", type=int, default=0, help="another number, other bodies")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    figure = schema(options.cases, *options.paths, start=options.start)
    command = " ".join(["python -m benchmarks.reliability.schema", *sys.argv[1:]])
    print(f"{table([figure])}\n\nsaved as {save(options.output, [figure], {'command': command})} and .json")
    return 0 if figure.reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
