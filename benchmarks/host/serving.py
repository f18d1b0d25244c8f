"""The servers of the benchmark: this engine with an instant device, and Infinity with an instant model, in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.host.engine_serve import BEGIN, SAMPLES
from benchmarks.host.server import LOADS, Load, Server

ROOT = Path(__file__).parents[2]
PEER = ("infinity-emb[server]==0.0.78", "transformers<5")
PEER_QUIET = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}


def peer_python(folder: Path) -> Path | None:
    """Python of the peer's own environment, made once; None where its packages cannot be had."""
    python = folder / "infinity" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "infinity")], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER]
        if subprocess.run(install, check=False).returncode:
            return None
    return python if subprocess.run([str(python), "-c", "import infinity_emb"], check=False).returncode == 0 else None


def start_ours(model: Path, port: int, folder: Path, samples: Path | None = None) -> Server:
    command = [sys.executable, "-m", "benchmarks.host.engine_serve", "serve", str(model), "--port", str(port),
               "--load-format", "dummy", "--log-level", "warning", "--max-queue-seconds", "0"]  # fmt: skip
    environment = {"PYTHONPATH": str(ROOT)} | ({SAMPLES: str(samples)} if samples else {})
    extra = {"return_documents": False}
    return Server.start("engine", command, port, "/v1/rerank", "/ready", extra, environment, folder / "engine.log")


def start_peer(python: Path, model: Path, port: int, folder: Path) -> Server:
    command = [str(python), str(Path(__file__).with_name("infinity.py")), str(model), str(port)]
    extra = {"model": "instant", "return_documents": False}
    return Server.start("infinity", command, port, "/rerank", "/health", extra, PEER_QUIET, folder / "infinity.log")


def measure_servers(model: Path, folder: Path, seconds: float, rounds: int, *, with_peer: bool) -> dict[str, Any]:
    """Both servers run at the same time and are loaded in turn, so that they see the same machine."""
    python = peer_python(folder) if with_peer else None
    servers = [start_ours(model, 8790, folder)]
    try:
        if python is not None:
            servers.append(start_peer(python, model, 8791, folder))
        found = {load.name: _in_turn(load, servers, seconds, rounds) for load in LOADS}
    finally:
        for server in servers:
            server.stop()
    try:
        found["where"] = where(model, folder, seconds)
    except RuntimeError as error:  # what was measured before stays
        found["where_failed"] = str(error)
    if with_peer and python is None:
        found["peer"] = "missing: pip could not install it"
    return found


def _in_turn(load: Load, servers: list[Server], seconds: float, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
    for number in range(rounds):
        for server in servers if number % 2 == 0 else servers[::-1]:
            runs[server.name].append(server.load(load, seconds))
    middle = {name: _middle(several) for name, several in runs.items()}
    if "infinity" in runs:
        pairs = zip(runs["infinity"], runs["engine"], strict=True)
        middle["times_the_peer"] = median(a["processor_ms_a_call"] / b["processor_ms_a_call"] for a, b in pairs)
    return middle


def _middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run whose processor time is the median, and the range of all."""
    spent = sorted(runs, key=lambda run: run["processor_ms_a_call"])
    middle = dict(spent[len(spent) // 2])
    middle["processor_ms_a_call_range"] = [spent[0]["processor_ms_a_call"], spent[-1]["processor_ms_a_call"]]
    return middle


def where(model: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Where the processor time of each process goes, by sampling it, in runs of their own."""
    found: dict[str, Any] = {}
    for load in (LOADS[1], LOADS[3]):
        with tempfile.TemporaryDirectory() as samples:
            server = start_ours(model, 8792, folder, Path(samples))
            try:
                (Path(samples) / BEGIN).touch()
                server.load(load, seconds)
                (Path(samples) / BEGIN).unlink()
            finally:
                server.stop()
            tables = {file.stem: json.loads(file.read_text()) for file in sorted(Path(samples).glob("*.json"))}
        found[load.name] = tables
    return found
