"""Facts that belong to every result: processor, versions, commit, and how quiet the machine was."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "llama_cpp_python",
)
FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "sve")


def machine() -> dict[str, Any]:
    cpuinfo = _read("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", _field(cpuinfo, "flags") or _field(cpuinfo, "Features") or ""))
    return {
        "processor": _field(cpuinfo, "model name") or platform.processor(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(re.findall(r"MemTotal:\s+(\d+)", _read("/proc/meminfo"))[0]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load_average() -> list[float]:
    """Processes that wanted to run: 1, 5 and 15 minutes. Above the number of cores, others were measured too."""
    return [round(value, 2) for value in os.getloadavg()]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
