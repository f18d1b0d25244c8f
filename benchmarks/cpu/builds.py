"""``python -m benchmarks.cpu.builds A B --model FOLDER``: two installed checkouts of this project, in turn.

A and B are Python interpreters (``checkout/.venv/bin/python``), each with its own build of the package. Both keep a
model loaded; one waits while the other scores. The machine changes its speed by a third within minutes, so only ratios
of neighbouring calls say something about a change of a few per cent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cpu.machine import load_average, machine
from benchmarks.cpu.workloads import build_workloads, save

ROOT = Path(__file__).parents[2]


class Build:
    """One checkout's engine in a process of its own, in that checkout's environment."""

    def __init__(self, python: Path, model: Path, quantization: str, workloads: Path) -> None:
        checkout = python.absolute().parents[2]
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).absolute()), "--serve", str(model), quantization, str(workloads)],
            cwd=checkout, env={"PYTHONPATH": str(checkout)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            bufsize=1,
        )  # fmt: skip
        self.name = self._answer()

    def seconds(self, workload: str) -> float:
        assert self._process.stdin is not None
        print(workload, file=self._process.stdin)
        return float(self._answer())

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a build ended with exit status {self._process.wait()}; its message is above")
        return line.strip()


def serve(model: str, quantization: str, workloads: str) -> None:
    """Child: a line names a workload, the answer is the seconds that one call took."""
    from engine.entrypoints.offline.llm import LLM
    from engine.kernels.cpu import _C

    texts = {row["name"]: (row["queries"], row["documents"]) for row in json.loads(Path(workloads).read_text())}
    with LLM(model, quantization=None if quantization == "fp32" else quantization) as llm:
        for queries, documents in texts.values():
            llm.score(queries, documents, use_tqdm=False)
        print(_C.__file__, flush=True)
        for line in sys.stdin:
            started = time.perf_counter()
            llm.score(*texts[line.strip()], use_tqdm=False)
            print(time.perf_counter() - started, flush=True)


def compare(builds: list[Build], workloads: list[str], rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in workloads:
        walls: list[list[float]] = [[], []]
        for round_ in range(rounds):
            for index in (0, 1) if round_ % 2 else (1, 0):
                walls[index].append(builds[index].seconds(name))
        ratios = sorted(a / b for a, b in zip(*walls, strict=True))
        tenth = len(ratios) // 10
        result[name] = {
            "a_over_b": statistics.median(ratios),
            "a_over_b_80_percent": [ratios[tenth], ratios[-1 - tenth]],
            "a_s": statistics.median(walls[0]),
            "b_s": statistics.median(walls[1]),
            "best_a_over_best_b": min(walls[0]) / min(walls[1]),
            "samples_s": walls,
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.builds", description=__doc__)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--quantization", default="fp32,int16")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    workloads = build_workloads(arguments.model)
    texts = arguments.out.with_suffix(".workloads")
    save(workloads, texts)
    report: dict[str, Any] = {
        "theme": "cpu", "started": datetime.now(UTC).isoformat(), "machine": machine(), "load_at_start": load_average(),
        "command": f"A B --quantization {arguments.quantization} --rounds {arguments.rounds}",
    }  # fmt: skip
    for quantization in arguments.quantization.split(","):
        builds = [Build(python, arguments.model, quantization, texts) for python in (arguments.a, arguments.b)]
        report[quantization] = compare(builds, [workload.name for workload in workloads], arguments.rounds)
        for build in builds:
            build.close()
        for name, row in report[quantization].items():
            low, high = row["a_over_b_80_percent"]
            ratio = f"{row['a_over_b']:.3f} ({low:.2f}-{high:.2f})"
            print(f"{quantization} {name}: A/B {ratio}, of the best moments {row['best_a_over_best_b']:.3f}")
    texts.unlink()
    arguments.out.write_text(json.dumps(report | {"load_at_end": load_average()}, indent=1))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        sys.exit(main())
