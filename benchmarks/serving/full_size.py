"""A full-sized Qwen3-Reranker-0.6B-shaped checkpoint, served: load time, peak memory, a call of 100 documents.

``python -m benchmarks.serving.full_size --folder FOLDER`` makes the checkpoint (596 M random parameters in bf16,
1.2 GB) if the folder does not hold it yet, starts ``engine serve`` on it, sends one warm-up call and then the same
100-document call ``--runs`` times over HTTP. It prints and saves seconds, logical and computed tokens (what the pairs
add up to, and what was really computed: the difference is the sharing), and each process's peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.checkpoints import dims_0_6b
from tests.support.texts import TEXTS

QUERY = "How do giant pandas survive on a diet of bamboo in the mountains of central China?"
NUM_DOCUMENTS = 100


def documents(words_each: int) -> list[str]:
    rng = random.Random(0)
    words = " ".join(TEXTS[:12]).split(" ")
    return [" ".join(rng.choice(words) for _ in range(rng.randrange(words_each, 3 * words_each))) for _ in range(100)]


def call(base: str, path: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        content: bytes = response.read()
        return content


def metric(text: str, name: str) -> float:
    match = re.search(rf"^{name}(?:_total)? ([0-9.e+]+)$", text, re.MULTILINE)
    assert match is not None, f"no metric {name}"
    return float(match[1])


def peak_mb(pid: int) -> float:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_ready(base: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            call(base, "/ready")
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server ended while loading")


def measure(base: str, server: subprocess.Popen[bytes], runs: int, words_each: int) -> dict[str, Any]:
    body = {"query": QUERY, "documents": documents(words_each), "return_documents": False}
    call(base, "/v1/rerank", {"query": "warm up", "documents": ["one", "two"]})
    seconds = []
    before = call(base, "/metrics").decode()
    for _ in range(runs):
        started = time.perf_counter()
        answer = json.loads(call(base, "/v1/rerank", body))
        seconds.append(time.perf_counter() - started)
        assert len(answer["results"]) == NUM_DOCUMENTS
    after = call(base, "/metrics").decode()
    logical, computed = (
        (metric(after, name) - metric(before, name)) / runs
        for name in ("engine_logical_tokens", "engine_computed_tokens")
    )
    core = children(server.pid)[0]
    median = statistics.median(seconds)
    return {
        "documents": NUM_DOCUMENTS,
        "logical_tokens": logical,
        "computed_tokens": computed,
        "sharing": logical / computed,
        "seconds": seconds,
        "median_s": median,
        "documents_per_s": NUM_DOCUMENTS / median,
        "logical_tokens_per_s": logical / median,
        "peak_mb": {"api": peak_mb(server.pid), "core": peak_mb(core), "worker": peak_mb(children(core)[0])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--words", type=int, default=20, help="shortest document, in words; the longest has three times as many"
    )
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--output", type=Path)
    parser.add_argument("serve_flags", nargs="*", help="after --: further flags of engine serve")
    args = parser.parse_args()
    if not (args.folder / "config.json").exists():
        dims_0_6b(args.folder)
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("engine")), "serve", str(args.folder), "--port", str(args.port)]
    server = subprocess.Popen([*command, *args.serve_flags])
    base = f"http://127.0.0.1:{args.port}"
    try:
        wait_ready(base, server)
        result = {"ready_s": time.perf_counter() - started, "load_average": os.getloadavg()}
        weights = sum(file.stat().st_size for file in args.folder.glob("*.safetensors"))
        result |= {"weights_mb": weights / 2**20, **measure(base, server, args.runs, args.words)}
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
