"""The start of ``engine serve``: seconds, and seconds of CPU of all its processes, until it is ready.

The pages of the weights come from the operating system while they are filled. On a virtual machine that has never
used them, the host has to find them first, which is counted here as ``system`` time and can be most of a start.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from engine.entrypoints.demo.demo import free_port

POLL_S = 0.1


def start(model: Path, rounds: int) -> dict[str, Any]:
    """``rounds`` starts, one after the other; the files are in the page cache after the first."""
    runs = [_start_once(model) for _ in range(rounds)]
    medians = {key: statistics.median(run[key] for run in runs) for key in ("ready_s", "user_s", "system_s")}
    return {"model": model.name, "runs": runs, "medians": medians}


def render(result: dict[str, Any]) -> str:
    medians = result["medians"]
    return (
        f"engine serve {result['model']}: ready after {medians['ready_s']:.1f} s, {medians['user_s']:.2f} s of CPU in "
        f"programs and {medians['system_s']:.2f} s in the kernel (medians of {len(result['runs'])} starts)"
    )


def _start_once(model: Path) -> dict[str, Any]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("engine")), "serve", str(model), "--port", str(port)]
    started = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_ready(server, f"http://127.0.0.1:{port}/ready")
        ready_s = time.perf_counter() - started
        each = {_name(pid): _cpu_s(pid) for pid in _family(server.pid)}
    finally:
        server.terminate()
        server.wait()
    user_s, system_s = (sum(times[part] for times in each.values()) for part in (0, 1))
    return {"ready_s": ready_s, "user_s": user_s, "system_s": system_s, "processes": each}


def _wait_ready(server: subprocess.Popen[bytes], url: str) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            time.sleep(POLL_S)
    raise RuntimeError(f"the server ended with {server.returncode} while it started")


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in below for one in _family(int(child)))]


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[2] if words[1] == "-m" else "engine serve"


def _cpu_s(pid: int) -> tuple[float, float]:
    """User and system seconds, its ended children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    user, system, children_user, children_system = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:15])
    return user + children_user, system + children_system
