"""``python -m benchmarks.host.compare BEFORE AFTER``: the throughput of two installations, offline and over a socket.

``BEFORE`` and ``AFTER`` are the Pythons of two virtual environments with the engine of two commits. Both score the same
calls with the same checkpoint, each in its own process, in random order, for some rounds; medians of wall time, which
others on the machine disturb, and of processor time, which they disturb little.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.cpu.machine import load_average, machine
from benchmarks.host import checkpoint
from engine.entrypoints.demo.demo import free_port

CALLS, DOCUMENTS = 12, 100
SCRIPT = Path(__file__).with_name("scored_calls.py")
WORDS = ("panda", "bear", "lives", "in", "bamboo", "forests", "of", "central", "China", "and", "eats", "leaves")
MODES = ("offline", "socket")


def offline(python: str, model: Path, texts: Path) -> dict[str, float]:
    command = [python, str(SCRIPT), str(model), str(texts), str(CALLS), str(DOCUMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, cwd=texts.parent)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def over_a_socket(python: str, model: Path, texts: Path) -> dict[str, float]:
    port, words = free_port(), json.loads(texts.read_text())
    command = [str(Path(python).with_name("engine")), "serve", str(model), "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=texts.parent)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _wait_ready(client, server)

            def call(query: str, documents: list[str]) -> None:
                client.post("/v1/rerank", json={"query": query, "documents": documents}).raise_for_status()

            for _ in range(2):
                call("a first query", words[:50])
            started, used = time.perf_counter(), _cpu_s(server.pid)
            for number in range(CALLS):
                first = number * (DOCUMENTS // 2) % (len(words) - DOCUMENTS)
                call(f"query number {number}", words[first : first + DOCUMENTS])
            seconds, cpu_s = time.perf_counter() - started, _cpu_s(server.pid) - used
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    pairs = CALLS * DOCUMENTS
    return {"pairs_per_s": pairs / seconds, "cpu_ms_per_pair": cpu_s / pairs * 1e3}


def _wait_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the server did not become ready")


def _cpu_s(pid: int) -> float:
    """Of a process and all its children."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rng = random.Random(0)
    values: dict[str, dict[str, list[dict[str, float]]]] = {mode: {"before": [], "after": []} for mode in MODES}
    loads = []
    with tempfile.TemporaryDirectory() as folder:
        model, _ = checkpoint.make(Path(folder))
        texts = Path(folder) / "texts.json"
        documents = [" ".join(rng.choices(WORDS, k=rng.randint(30, 60))) for _ in range(700)]
        texts.write_text(json.dumps(documents))
        for _ in range(args.rounds):
            for mode, measure in zip(MODES, (offline, over_a_socket), strict=True):
                for which in rng.sample(("before", "after"), 2):
                    values[mode][which].append(measure(getattr(args, which), model, texts))
                    loads.append(load_average())
    result: dict[str, Any] = {"machine": machine(), "load_average": loads, **values}
    for mode in MODES:
        for measure_name in ("pairs_per_s", "cpu_ms_per_pair"):
            medians = [statistics.median(row[measure_name] for row in values[mode][w]) for w in ("before", "after")]
            print(f"{mode} {measure_name}: {medians[0]:.3g} before, {medians[1]:.3g} after", flush=True)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
