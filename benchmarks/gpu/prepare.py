"""Before anything is timed: kernels compiled on all CPU cores, and meanwhile the repository's tests on the GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.compile import compile_all
from benchmarks.gpu.settings import Settings

ROOT = Path(__file__).parents[2]
MODELS = ("0.6B", "4B", "8B")
PYTEST = (
    "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "--noconftest", "-p", "tests.cuda.conftest",
    "-p", "no:cacheprovider", "--import-mode=importlib", "-q", "--maxfail=12", "--tb=short", "-W", "ignore",
)  # fmt: skip
"""Runs on a machine whose pytest has no plugins, and does not read the project's options for them."""
GPU_TESTS = ("test_kernels", "test_attention", "test_forms", "test_ops", "test_on_gpu")
ENDS_BEFORE_S = 6.0


def prepare(settings: Settings, limit_s: float) -> dict[str, Any]:
    """What was compiled, and the tests' summary with the last lines of what failed. Both end before ``limit_s``."""
    major, minor = torch.cuda.get_device_capability() if settings.is_gpu else (9, 0)
    timeout, cores = limit_s - ENDS_BEFORE_S, os.cpu_count() or 2
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.submit(compile_all, MODELS, 10 * major + minor, max(1, cores * 2 // 3), timeout)
        tested = pool.submit(run_tests, timeout)
        return {"compiled": compiled.result(), "tests": tested.result()}


def run_tests(timeout: float, names: tuple[str, ...] = GPU_TESTS) -> dict[str, Any]:
    """The tests of the CUDA backend, with nothing but pytest."""
    paths = [str(ROOT / "tests" / "cuda" / f"{name}.py") for name in names]
    try:
        done = subprocess.run(
            [sys.executable, *PYTEST, *paths], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout,
        )  # fmt: skip
    except FileNotFoundError as error:
        return {"ok": False, "summary": repr(error)}
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return {"ok": False, "summary": f"cut off after {timeout:.0f} s", "tail": said[-3000:]}
    lines = done.stdout.strip().splitlines() or [""]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1])}
    tail = "" if done.returncode == 0 else done.stdout[-6000:]
    return {"ok": done.returncode == 0, "summary": lines[-1].strip("= "), "counts": counts, "tail": tail}
