"""Every kernel compiles for the GPUs that are named in the documentation, which needs no GPU, and fits their memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that one program may have: Ampere (A100), Hopper."""
ROW_KERNELS = {
    "_add_rms_norm_kernel",
    "_expand_kernel",
    "_gated_activation_kernel",
    "_grouped_product_kernel",
    "_qk_norm_rope_kernel",
    "_quantize_kernel",
    "_score_kernel",
}


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype", "which"), [(90, "bfloat16", "one"), (80, "float16", "attention")])
def test_kernels_compile(capability: int, dtype: str, which: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.cuda.compile_kernels", str(capability), dtype, which]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    compiled = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _ in compiled} == {"_attention_kernel"} | (ROW_KERNELS if which == "one" else set())
    assert max(int(shared) for _, shared in compiled) <= SHARED_MEMORY[capability]
