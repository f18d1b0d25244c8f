"""All figures of reliability in one command, printed as a table and saved as JSON.

``python -m benchmarks.reliability`` runs the full forms (two hours on two cores), ``--short`` the same code with small
numbers (minutes); ``--only NAME`` one of them. Load goes to loopback only and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from benchmarks.reliability import overload, scenarios
from benchmarks.reliability.figures import Figure, save, table
from benchmarks.reliability.fuzz import fuzz
from benchmarks.reliability.schema import schema
from benchmarks.reliability.soak import soak
from tests.support.checkpoints import make_qwen3

TABLES = {
    "bad input": ("tests/serve/test_bad_input.py", "tests/inputs/test_bad_input.py", "tests/inputs/test_injection.py"),
    "fault": ("tests/faults", "tests/processes", "tests/e2e/test_lifecycle.py"),
    "security": ("tests/security", "tests/architecture/test_forbidden.py"),
}
Made = Figure | Awaitable[Figure] | AsyncIterator[Figure]


def tests_passed(name: str) -> Figure:
    """The tests that stand for a table of the specification, each row as one case or more."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *TABLES[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
    return Figure(f"{name} table", "all as specified", last.strip("= "), done.returncode == 0, counts)


def plan(checkpoint: Path, short: bool) -> dict[str, Callable[[], Made]]:
    """Scenario by name; each call does the work."""
    several = 2 if short else 50
    return {
        "bad-input": lambda: tests_passed("bad input"),
        "faults": lambda: tests_passed("fault"),
        "security": lambda: tests_passed("security"),
        "fuzz": lambda: fuzz(20_000 if short else 1_000_000),
        "schema": lambda: asyncio.to_thread(schema, 500 if short else 50_000),
        "worker-kills": lambda: scenarios.worker_kills(checkpoint, several),
        "api-kills": lambda: scenarios.api_kills(checkpoint, several),
        "overload": lambda: overload.overload(checkpoint, 8.0 if short else 30.0),
        "large-call": lambda: overload.large_call(checkpoint, 1000 if short else 10_000),
        "long-text": lambda: overload.long_text(checkpoint, 3 * 10**6 if short else 28 * 10**6),
        "broken-workers": lambda: scenarios.broken_workers(checkpoint, 60 if short else 300),
        "stop-while-loading": lambda: scenarios.stop_while_loading(checkpoint, 4 if short else 20),
        "large-bodies": lambda: scenarios.large_bodies(checkpoint, 1 if short else 10),
        "slow-clients": lambda: scenarios.slow_clients(checkpoint, 100 if short else 1000, 3.0 if short else 6.0),
        "cancel": lambda: scenarios.cancel(checkpoint, 2 if short else 20),
        "soak": lambda: soak(checkpoint, 1.0 if short else 60.0),
    }


async def measure(names: list[str], short: bool) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_qwen3(Path(folder) / "Qwen3-Reranker")
        for name, scenario in plan(checkpoint, short).items():
            if names and name not in names:
                continue
            async for figure in figures_of(scenario()):
                figures.append(figure)
                print(table([figure]).splitlines()[-1], flush=True)
    return figures


async def figures_of(made: Made) -> AsyncIterator[Figure]:
    """Each figure as soon as it is made."""
    if isinstance(made, AsyncIterator):
        async for figure in made:
            yield figure
    else:
        yield made if isinstance(made, Figure) else await made


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.reliability", description=__doc__)
    parser.add_argument("--short", action="store_true", help="small numbers: the same code in minutes")
    parser.add_argument("--only", nargs="*", default=[], help=f"some of: {', '.join(plan(Path(), True))}")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    figures = asyncio.run(measure(options.only, options.short))
    command = " ".join(["python -m benchmarks.reliability", *sys.argv[1:]])
    saved = save(options.output, figures, {"command": command, "short": options.short})
    print(f"\n{table(figures)}\n\nsaved as {saved} and .json")
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
