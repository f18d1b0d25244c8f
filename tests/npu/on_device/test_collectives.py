"""``hccl`` between two processes, each on a simulated device of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from engine.backends.npu.backend import NpuBackend


def test_two_ranks(tmp_path: Path) -> None:
    assert NpuBackend.dist_backend == "hccl"
    script = Path(__file__).with_name("collective_process.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, script, tmp_path / "store", str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for process in ranks:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert out.strip() == "ok"
