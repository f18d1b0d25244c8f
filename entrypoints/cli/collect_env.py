"""``engine collect-env``: what a bug report needs to say about the machine. Prints no secrets and asks no network."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.devices import DEVICES
from engine.version import __version__

PACKAGES = (
    "torch",
    *(name for row in DEVICES for name in row.packages),
    *("numpy", "tokenizers", "transformers", "huggingface_hub", "msgspec", "pyzmq"),
    *("fastapi", "uvicorn", "uvloop", "httptools", "cyclopts", "prometheus_client", "opentelemetry-sdk"),
)
VARIABLES = ("ENGINE_", "HF_", *(prefix for row in DEVICES for prefix in row.variables), "TORCH_", "LD_PRELOAD")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "HEADERS")
TOOL_TIMEOUT_S = 20.0

Section = dict[str, str]


def collect_env(
    *, json_: Annotated[bool, Parameter(name="--json", help="Print JSON instead of text.", negative=())] = False
) -> int:
    """Print what a bug report needs to say: versions, processor, memory, devices, settings. No secrets."""
    report = {
        "engine": _engine(),
        "machine": _machine(),
        "packages": _packages(),
        "devices": _devices(),
        "environment": _environment(),
    }
    if json_:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for title, section in report.items():
            print(f"{title}:")
            for name, value in section.items():
                print(f"  {name:<20} " + value.replace("\n", "\n" + " " * 23))
    return 0


def _engine() -> Section:
    return {"version": __version__, "python": sys.version.replace("\n", " "), "executable": sys.executable}


def _machine() -> Section:
    found = {"system": platform.platform(), "distribution": _distribution(), "cores": f"{os.cpu_count()} in all"}
    found["cores"] += f", {len(os.sched_getaffinity(0))} allowed"
    processor = _fields(Path("/proc/cpuinfo"))
    flags = processor.get("flags", processor.get("Features", "")).split()
    found["processor"] = processor.get("model name", platform.machine())
    wanted = ("avx2", "fma", "avx512", "amx", "asimd", "sve", "i8mm", "bf16")
    found["instructions"] = " ".join(flag for flag in flags if any(name in flag for name in wanted))
    memory = _fields(Path("/proc/meminfo"))
    found["memory"] = f"{memory.get('MemTotal', 'unknown')}, {memory.get('MemAvailable', 'unknown')} available"
    for name in ("cpu.max", "memory.max"):
        found[f"cgroup {name}"] = _text(Path("/sys/fs/cgroup") / name) or "none"
    return found


def _packages() -> Section:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _devices() -> Section:
    """What each backend says about itself, and the vendors' own tools."""
    from engine.backends.registry import choose_backend, load_backend
    from engine.errors import EngineError

    found = {}
    for row in DEVICES:
        try:
            found[row.name] = load_backend(row.name).why_unavailable() or "usable"
        except (EngineError, ImportError, OSError) as error:
            found[row.name] = f"broken: {error}"
    try:
        found["--device auto"] = choose_backend("auto")[0].name
    except EngineError as error:
        found["--device auto"] = str(error)
    for row in DEVICES:
        if row.status_command:
            found[row.status_command[0]] = _output(row.status_command)
    return found


def _environment() -> Section:
    """Settings that change what happens. What may be secret is only said to be there."""
    chosen = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    return {
        name: "(set, not shown)" if any(word in name for word in _SECRET) else value for name, value in chosen.items()
    }


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _fields(path: Path) -> dict[str, str]:
    """``name : value`` lines; of several processors, the first."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _output(command: tuple[str, ...]) -> str:
    program = shutil.which(command[0])
    if program is None:
        return "not installed"
    try:
        done = subprocess.run(
            (program, *command[1:]), capture_output=True, text=True, errors="replace", timeout=TOOL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    return done.stdout.strip() or done.stderr.strip() or f"ended with {done.returncode}"
