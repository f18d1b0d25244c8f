"""``python -m benchmarks.host``: what the host costs with a device that answers at once. One command, any machine.

Pieces: ``core`` (tree, plan, pack, update), ``tokenizer``, ``offline`` (``LLM.score``), ``server`` (over HTTP, beside
Infinity's server with a model that answers at once). Everything is processor time, so other programs on the machine
disturb it little; ``calibration`` is the time of a fixed loop, by which two machines, or two hours, can be compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cpu.machine import load_average, machine
from benchmarks.host import checkpoint, core_alone
from benchmarks.host.report import render

PIECES = ("core", "tokenizer", "offline", "server")


def calibration_ns() -> float:
    """Processor nanoseconds of one turn of a loop that only Python runs; the best of five."""

    def turns() -> float:
        started, total = time.process_time_ns(), 0
        for number in range(300_000):
            total += number & 7
        return (time.process_time_ns() - started) / 300_000

    return min(turns() for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(tempfile.gettempdir()) / "engine-host"
    parser.add_argument("--folder", type=Path, default=folder, help="working folder, kept")
    parser.add_argument("--pieces", default=",".join(PIECES))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the servers, in turn")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    pieces = args.pieces.split(",")
    if unknown := set(pieces) - set(PIECES):
        parser.error(f"unknown pieces: {', '.join(sorted(unknown))}; known are {', '.join(PIECES)}")
    result: dict[str, Any] = {
        "machine": machine(),
        "load_average": load_average(),
        "calibration_ns": [calibration_ns()],
    }
    if "core" in pieces:
        result["core"] = core_alone.run(args.seconds)
    if set(pieces) - {"core"}:
        args.folder.mkdir(parents=True, exist_ok=True)
        model, result["vocabulary"] = checkpoint.make(args.folder)
        _with_model(result, pieces, model, args)
    result["calibration_ns"].append(calibration_ns())
    print(render(result))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


def _with_model(result: dict[str, Any], pieces: list[str], model: Path, args: argparse.Namespace) -> None:
    from benchmarks.host import offline, serving

    if "tokenizer" in pieces:
        result["tokenizer"] = offline.measure_tokenizer(model, args.seconds)
    if "server" in pieces:
        result["server"] = serving.measure_servers(
            model, args.folder, args.seconds, args.rounds, with_peer=not args.no_peer
        )
    if "offline" in pieces:
        result["offline"] = offline.measure_offline(model, args.seconds)


if __name__ == "__main__":
    main()
