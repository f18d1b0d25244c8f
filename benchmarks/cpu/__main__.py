"""``python -m benchmarks.cpu``: ceilings and products, the race against peers, and growth, into one JSON file.

Peers are an extra (``pip install '.[peers]'``); one that is not installed is named in the result and left
out. The model has the shape of Qwen3-Reranker-0.6B with random weights and is made on the spot: ``--layers 8`` for a
cut that fits a coffee break, 28 for all of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cpu.machine import load_average, machine
from tests.support.checkpoints import dims_0_6b

RESULTS = Path(__file__).parents[1] / "results"
PIECES = ("products", "race", "growth", "shares", "socket", "start", "limits")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--pieces", default=",".join(PIECES), help=f"some of {', '.join(PIECES)}")
    parser.add_argument("--threads", type=int, help="default: the cores of this machine")
    parser.add_argument("--isa", help="of the products (default: the best); in the race avx2 alone, for all")
    parser.add_argument("--sweep-seconds", type=float, default=120.0, help="for a peer's batch sizes, a workload")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--contenders", default="", help="only those whose name contains one of these, comma-separated")
    parser.add_argument("--workloads", default="W1,W2,W3,W4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="16,128,1024", help="of the products")
    parser.add_argument("--work", type=Path, help="folder for the model and its conversions (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="result file (default: a new one in benchmarks/results)")
    return parser.parse_args(arguments)


def run_products(arguments: argparse.Namespace, num_threads: int) -> dict[str, Any]:
    from benchmarks.cpu.ceilings import products, render

    rows = [int(value) for value in arguments.rows.split(",")]
    result = products(num_threads, rows, arguments.rounds, arguments.isa)
    print(render(result), flush=True)
    return result


def run_race(arguments: argparse.Namespace, num_threads: int, model: Path, work: Path) -> dict[str, Any]:
    from benchmarks.cpu.contenders.__main__ import CONTENDERS
    from benchmarks.cpu.contenders.ours import Engine
    from benchmarks.cpu.race import race, start, summarise
    from benchmarks.cpu.report import render
    from benchmarks.cpu.workloads import build_workloads

    wanted = arguments.workloads.split(",")
    workloads = [workload for workload in build_workloads(model) if workload.name in wanted]
    sample_engine = Engine(model, num_threads)
    prompts = {workload.name: sample_engine.prompts(workload) for workload in workloads}
    sample_engine.llm.close()
    tokens = {name: sum(map(len, lists)) for name, lists in prompts.items()}
    words = [word for word in arguments.contenders.split(",") if word]
    names = [name for name in CONTENDERS if not words or any(word in name for word in words)]
    contenders, failed = start(names, model, num_threads, work, arguments.isa)
    result = race(contenders, workloads, prompts, arguments.rounds, arguments.sweep_seconds)
    for contender in contenders:
        contender.close()
    table = summarise(result, tokens, num_threads)
    print(render(result, table), *(f"{name} did not start: {why}" for name, why in failed.items()), sep="\n")
    return {"tokens": tokens, "failed": failed, "table": table, **result}


def run_growth(arguments: argparse.Namespace, num_threads: int, model: Path) -> dict[str, Any]:
    from benchmarks.cpu.growth import growth, render

    result = growth(model, num_threads, arguments.rounds)
    print(render(result), flush=True)
    return result


def run_shares(arguments: argparse.Namespace, num_threads: int, model: Path) -> dict[str, Any]:
    from benchmarks.cpu.shares import render, shares

    result = shares(model, num_threads, arguments.rounds)
    print(render(result), flush=True)
    return result


def run_socket(arguments: argparse.Namespace, num_threads: int, model: Path) -> dict[str, Any]:
    from benchmarks.cpu.over_socket import over_socket, render

    result = over_socket(model, num_threads, arguments.rounds)
    print(render(result), flush=True)
    return result


def run_start(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    from benchmarks.cpu.start import render, start

    model = work / f"published-{arguments.layers}"
    if not (model / "config.json").exists():
        dims_0_6b(model, layers=arguments.layers)  # with the vocabulary of the published model, which has to be read
    result = start(model, arguments.rounds)
    print(render(result), flush=True)
    return result


def run_piece(piece: str, arguments: argparse.Namespace, num_threads: int, work: Path) -> dict[str, Any]:
    if piece == "products":
        return run_products(arguments, num_threads)
    if piece == "limits":
        from benchmarks.cpu.limits import limits, render

        rows = [int(value) for value in arguments.rows.split(",")]
        found = limits(num_threads, rows, arguments.rounds, arguments.isa)
        print(render(found), flush=True)
        return {"sizes": found}
    if piece == "start":
        return run_start(arguments, work)
    model = work / f"model-{arguments.layers}"
    if not (model / "config.json").exists():
        dims_0_6b(model, layers=arguments.layers, vocab_size=None, std=0.02)
    if piece == "race":
        return run_race(arguments, num_threads, model, work / f"forms-{arguments.layers}")
    run = {"growth": run_growth, "shares": run_shares, "socket": run_socket}[piece]
    return run(arguments, num_threads, model)


def main() -> int:
    arguments = parse()
    from engine.kernels.cpu.threads import default_num_threads

    num_threads = arguments.threads or default_num_threads()
    report: dict[str, Any] = {
        "theme": "cpu",
        "started": datetime.now(UTC).isoformat(),
        "command": " ".join(sys.argv[1:]),
        "machine": machine(),
        "threads": num_threads,
        "layers": arguments.layers,
        "load_at_start": load_average(),
    }
    path = arguments.out or RESULTS / f"cpu-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for piece in arguments.pieces.split(","):
            if piece not in PIECES:
                sys.exit(f"--pieces {piece}: there is {', '.join(PIECES)}")
            report[piece] = run_piece(piece, arguments, num_threads, work)
            report["load_at_end"] = load_average()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1))
    print(f"load average {report['load_at_start']} at the start, {report['load_at_end']} at the end; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
