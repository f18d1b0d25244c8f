"""``python -m benchmarks.npu``: everything, piece by piece, into one JSON file that is written after each piece.

A later call with the same ``--into`` goes on with what is missing or failed. ``--models tiny`` tries the command itself
in seconds, on the simulated device for instance: ``PYTHONPATH=tests/npu/fake python -m benchmarks.npu --models tiny``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.npu.pieces import Piece, all_pieces
from benchmarks.npu.report import render

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "torch_npu", "numpy", "msgspec")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.npu", description=__doc__)
    parser.add_argument("--models", default="0.6B,4B,8B", help="of 0.6B, 4B, 8B, tiny (default: %(default)s)")
    parser.add_argument("--pieces", default="", help="only pieces whose name contains one of these, comma-separated")
    parser.add_argument("--into", type=Path, help="result file to continue (default: a new one in benchmarks/results)")
    parser.add_argument("--seconds", type=float, default=12.0, help="time box of one measurement")
    parser.add_argument("--timeout", type=float, default=900.0, help="longest a piece may take")
    parser.add_argument("--list", action="store_true", help="name the pieces and stop")
    return parser.parse_args(arguments)


def run_piece(piece: Piece, models: str, seconds: float, timeout: float) -> dict[str, Any]:
    """The piece's result, or why there is none: the last lines of its process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.npu.pieces", piece.name, "--models", models]
        command += ["--seconds", str(seconds), "--out", str(out)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(
                command, env=environment, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except subprocess.TimeoutExpired:
            return {"ok": False, "error": f"took longer than {timeout:.0f} s"}
        if done.returncode == 0 and out.exists():
            return {"ok": True, "result": json.loads(out.read_text())}
        return {"ok": False, "error": "\n".join(done.stdout.splitlines()[-25:]) or f"exit code {done.returncode}"}


def machine() -> dict[str, Any]:
    import torch_npu

    versions: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = getattr(sys.modules.get(name), "__version__", None)
    free, total = torch_npu.npu.mem_get_info()
    return {
        "npu": torch_npu.npu.get_device_name(),
        "memory_gib": round(total / 2**30, 1),
        "free_gib": round(free / 2**30, 1),
        "python": sys.version.split()[0],
        "versions": versions,
        "cann": os.environ.get("ASCEND_HOME_PATH"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    words = [word for word in options.pieces.split(",") if word]
    pieces = [p for p in all_pieces(options.models.split(",")) if not words or any(word in p.name for word in words)]
    if options.list:
        print("\n".join(piece.name for piece in pieces))
        return 0
    facts = machine()
    path = options.into or RESULTS / f"npu-{facts['npu'].lower()}-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    report: dict[str, Any] = {"theme": "npu", "started": datetime.now(UTC).isoformat(), "machines": [], "pieces": {}}
    if path.exists():
        report = json.loads(path.read_text())
    report["machines"].append(facts)
    for piece in pieces:
        if report["pieces"].get(piece.name, {}).get("ok"):
            continue
        outcome = run_piece(piece, options.models, options.seconds, options.timeout)
        report["pieces"][piece.name] = outcome
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1))
        print(f"{piece.name}: {'done' if outcome['ok'] else outcome['error']}", flush=True)
    print(f"\n{render(report['pieces'])}\n\nwritten to {path}", flush=True)
    return 0 if all(piece["ok"] for piece in report["pieces"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
