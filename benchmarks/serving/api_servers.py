"""One API process against two, where reading and tokenising calls is the limit: speed, and processor time by process.

``python -m benchmarks.serving.api_servers --folder FOLDER`` makes a checkpoint that computes next to nothing (one
layer, 32 wide) if the folder does not hold it yet, starts ``engine serve`` on it once with ``--api-server-count 1`` and
once with 2, and loads them in turn, in alternating order: ``--callers`` connections that are kept alive, each sending
the same call again and again. Documents are long and cut to ``--tokens`` tokens, so that texts cost far more than the
model. Whoever calls takes part of the same machine; the processor times show what each process of the server needs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu.machine import machine
from benchmarks.serving.full_size import children, wait_ready
from tests.support.checkpoints import make_qwen3
from tests.support.texts import TEXTS

PORT = 8770
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    num_api_servers: int
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, num_api_servers: int) -> Server:
        port = PORT + num_api_servers
        command = [sys.executable, "-P", "-c", "from engine.entrypoints.cli import main; main()", "serve", str(folder)]
        flags = [
            "--port",
            str(port),
            "--api-server-count",
            str(num_api_servers),
            "--cpu-threads",
            "1",
            "--max-queue-seconds",
            "0",
        ]
        server = cls(num_api_servers, port, subprocess.Popen([*command, *flags, "--log-level", "error"]))
        wait_ready(f"http://127.0.0.1:{port}", server.process)
        return server

    def processor_s(self) -> dict[str, float]:
        """Seconds of processor time so far: API processes, main where it is another, core and worker."""
        spent: Counter[str] = Counter()
        spent["main" if self.num_api_servers > 1 else "api"] += processor_s(self.process.pid)
        for child in children(self.process.pid):
            is_api_server = b"api_servers.process" in Path(f"/proc/{child}/cmdline").read_bytes()
            spent["api" if is_api_server else "engine"] += processor_s(child)
            spent["engine"] += sum(processor_s(worker) for worker in children(child))
        return spent

    def memory_mb(self) -> list[int]:
        """Resident memory of the API processes (and main, first)."""
        pids = [self.process.pid, *children(self.process.pid)]
        named = [pid for pid in pids if b"core_process" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 // 1024 for pid in named]


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def texts(number: int, words: int) -> list[str]:
    rng = random.Random(0)
    known = " ".join(TEXTS[:12]).split()
    return [" ".join(rng.choices(known, k=words)) for _ in range(number)]


def load(server: Server, body: bytes, callers: int, seconds: float) -> dict[str, Any]:
    """Calls a second, their median and 99th percentile, and processor milliseconds a call."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        while (started := time.perf_counter()) < end:
            connection.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            times.append(time.perf_counter() - started)
        connection.close()

    before, began = server.processor_s(), time.perf_counter()
    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, after = time.perf_counter() - began, server.processor_s()
    times.sort()
    return {
        "calls_per_s": len(times) / took,
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[int(0.99 * len(times))] * 1000,
        "processor_ms_a_call": {name: 1000 * (after[name] - before[name]) / len(times) for name in after},
    }


def compare(servers: list[Server], body: bytes, args: argparse.Namespace) -> dict[str, Any]:
    rounds = []
    for server in servers:
        load(server, body, args.callers, 1.0)
    for number in range(args.rounds):
        order = servers if number % 2 == 0 else servers[::-1]
        found = {server.num_api_servers: load(server, body, args.callers, args.seconds) for server in order}
        rounds.append({str(count): found[count] for count in sorted(found)})
        print(json.dumps(rounds[-1]), flush=True)
    ratios = [one["2"]["calls_per_s"] / one["1"]["calls_per_s"] for one in rounds]
    medians = {count: _medians([one[count] for one in rounds]) for count in ("1", "2")}
    return {"medians": medians, "ratio": statistics.median(ratios), "ratios": ratios, "rounds": rounds}


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    found = {name: statistics.median(run[name] for run in runs) for name in ("calls_per_s", "p50_ms", "p99_ms")}
    for who in runs[0]["processor_ms_a_call"]:
        found[f"{who}_ms_a_call"] = statistics.median(run["processor_ms_a_call"][who] for run in runs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not (args.folder / "config.json").exists():
        make_qwen3(args.folder, hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16)
    call = {
        "query": "what is a panda?",
        "documents": texts(args.documents, args.words),
        "max_tokens_per_doc": args.tokens,
        "return_documents": False,
    }
    servers = [Server.start(args.folder, count) for count in (1, 2)]
    try:
        result = compare(servers, json.dumps(call).encode(), args)
        result["memory_mb"] = {str(server.num_api_servers): server.memory_mb() for server in servers}
    finally:
        for server in servers:
            server.process.terminate()
        for server in servers:
            server.process.wait()
    settings = {name: getattr(args, name) for name in ("rounds", "seconds", "callers", "documents", "words", "tokens")}
    result = {"machine": machine(), "settings": settings, **result}
    print(json.dumps(result["medians"], indent=2), f"ratio {result['ratio']:.2f}", result["memory_mb"])
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
