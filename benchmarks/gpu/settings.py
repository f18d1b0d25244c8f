"""What a run is told, the clock of its device, and the facts about the machine that belong to every result."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import torch

PACKAGES = ("torch", "triton", "transformers", "numpy", "msgspec")


@dataclass(frozen=True)
class Settings:
    """One piece of a run."""

    device: Literal["cuda", "cpu"]
    """``cuda``, or ``cpu`` to try the command itself on small shapes."""
    model: str = "0.6B"
    dtype_name: Literal["float32", "bfloat16"] = "bfloat16"
    quantization: Literal["fp8"] | None = None
    seconds: float = 12.0
    """Time box of one measurement."""

    enforce_eager: bool = False
    """Record no graphs."""

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype_name == "bfloat16" else torch.float32

    def synchronize(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()


def time_op(settings: Settings, run: Callable[[], Any], *, warm_up: int = 3, repeats: int = 10) -> float:
    """Seconds of one ``run`` on the device: the best of three replays of a graph of ``repeats`` runs.

    The host's launches take longer than a small kernel does; in a graph there are none. What cannot be recorded is
    timed with its launches.
    """
    for _ in range(warm_up):
        run()
    settings.synchronize()

    def several() -> None:
        for _ in range(repeats):
            run()

    if not settings.is_gpu:
        started = time.perf_counter()
        several()
        return (time.perf_counter() - started) / repeats
    replay = _recorded(several)
    return min(_device_seconds(replay) for _ in range(3)) / repeats


def _recorded(run: Callable[[], None]) -> Callable[[], None]:
    from engine.backends.cuda.graphs import GraphRecorder

    try:
        replay = GraphRecorder()(run)
        replay()
    except torch.AcceleratorError:
        raise
    except RuntimeError:
        torch.cuda.synchronize()
        return run
    return replay


def _device_seconds(run: Callable[[], None]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def launch_seconds(settings: Settings, run: Callable[[], Any], repeats: int = 200) -> float:
    """Seconds for which one ``run`` holds the calling thread; nothing waits for the device."""
    run()
    settings.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    seconds = time.perf_counter() - started
    settings.synchronize()
    return seconds / repeats


def machine(settings: Settings) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    facts: dict[str, Any] = {
        "device": settings.device,
        "python": platform.python_version(),
        "versions": versions,
        "cuda": torch.version.cuda,
        "cpu": platform.processor() or platform.machine(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }
    if settings.is_gpu:
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "state": _nvidia_smi(),
        }
    return facts


def _nvidia_smi() -> str | None:
    """Clock and its limit, power and its limit, temperature: what a burst does not show."""
    query = "clocks.sm,clocks.max.sm,power.draw,power.limit,temperature.gpu,clocks_throttle_reasons.active"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
