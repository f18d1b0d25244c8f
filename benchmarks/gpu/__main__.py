"""``python -m benchmarks.gpu``: everything, piece by piece, into one JSON file that is written after each piece.

The pieces run in the order of what they tell for their seconds, each for as long as it may; ``--budget`` is what the
whole call may take. A later call with the same ``--into`` goes on with what is missing or failed, so a machine that is
lent for minutes can be used in turns. An engine piece that fails runs once more without CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.pieces import Piece, all_pieces
from benchmarks.gpu.report import render
from benchmarks.gpu.settings import Settings, machine

RESULTS = Path(__file__).parents[1] / "results"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default="", help="0.6B,4B,8B (default: all; tiny on cpu)")
    parser.add_argument("--pieces", default="", help="only pieces whose name contains one of these, comma-separated")
    parser.add_argument("--into", type=Path, help="result file to continue (default: a new one in benchmarks/results)")
    parser.add_argument("--seconds", type=float, default=4.0, help="time box of one measurement")
    parser.add_argument("--budget", type=float, default=470.0, help="seconds that this call may take")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies what each piece may take")
    parser.add_argument("--enforce-eager", action="store_true", help="record no CUDA graphs")
    parser.add_argument("--list", action="store_true", help="name the pieces and stop")
    return parser.parse_args(arguments)


def run_piece(
    piece: Piece, device: str, seconds: float, timeout: float, *, enforce_eager: bool = False
) -> dict[str, Any]:
    """The piece's result, or why there is none: the last lines of its process, and what it had saved before."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.gpu.pieces", piece.name]
        command += ["--device", device, "--seconds", str(seconds), "--out", str(out)]
        command += ["--enforce-eager"] if enforce_eager else []
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        environment["TRITON_INTERPRET"] = "1" if device == "cpu" else "0"
        try:
            done = subprocess.run(
                command, env=environment, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            error = "\n".join(done.stdout.splitlines()[-25:]) or f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            done, error = None, f"took longer than {timeout:.0f} s"
        result = json.loads(out.read_text()) if out.exists() else None
        if done is not None and done.returncode == 0 and result is not None:
            return {"ok": True, "result": result}
        return {"ok": False, "error": error} | ({} if result is None else {"result": result})


def run_all(pieces: list[Piece], arguments: argparse.Namespace, report: dict[str, Any], path: Path) -> None:
    """Run what ``report`` does not hold yet, while there is time; the file is written after each piece."""
    started = time.perf_counter()

    def left() -> float:
        return float(arguments.budget) - (time.perf_counter() - started)

    def run(piece: Piece, *, enforce_eager: bool) -> bool:
        began, timeout = time.perf_counter(), min(piece.limit_s * arguments.patience, left())
        outcome = run_piece(piece, arguments.device, arguments.seconds, timeout, enforce_eager=enforce_eager)
        outcome |= {"took_s": round(time.perf_counter() - began, 1), "eager": enforce_eager}
        report["pieces"][piece.name] = outcome
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1))
        print(f"{piece.name}, {outcome['took_s']:.0f} s: {'done' if outcome['ok'] else outcome['error']}", flush=True)
        return bool(outcome["ok"])

    for piece in pieces:
        if report["pieces"].get(piece.name, {}).get("ok"):
            continue
        if left() < piece.needs_s:
            print(f"no time left for {piece.name}: call again with --into {path}", flush=True)
            continue
        eager = arguments.enforce_eager
        if run(piece, enforce_eager=eager) or piece.kind != "engine" or eager or left() < piece.needs_s:
            continue
        report["pieces"][f"{piece.name} with graphs"] = report["pieces"][piece.name]
        run(piece, enforce_eager=True)


def main() -> int:
    arguments = parse()
    models = (arguments.models or ("0.6B,4B,8B" if arguments.device == "cuda" else "tiny")).split(",")
    words = [word for word in arguments.pieces.split(",") if word]
    pieces = [p for p in all_pieces(models, arguments.device) if not words or any(word in p.name for word in words)]
    if arguments.list:
        print("\n".join(piece.name for piece in pieces))
        return 0
    facts = machine(Settings(arguments.device))
    path = arguments.into or RESULTS / f"gpu-{_slug(facts)}-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    report: dict[str, Any] = {"theme": "gpu", "started": datetime.now(UTC).isoformat(), "machines": [], "pieces": {}}
    if path.exists():
        report = json.loads(path.read_text())
    report["machines"].append(facts)
    run_all(pieces, arguments, report, path)
    print(f"\n{render(report['pieces'])}\n\nwritten to {path}", flush=True)
    return 0 if all(piece["ok"] for piece in report["pieces"].values()) else 1


def _slug(facts: dict[str, Any]) -> str:
    name = facts.get("gpu", {}).get("name", facts["device"])
    return "-".join(str(name).lower().split())


if __name__ == "__main__":
    sys.exit(main())
