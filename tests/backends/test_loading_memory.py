"""Loading needs less than 1.2 times the weights in the dtype they run in, measured in a fresh process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from engine.backends.loading.safetensors_file import find_tensors
from tests.support.checkpoints import make_qwen3

MEASURE = """
import json, re, sys
from pathlib import Path
import torch
from engine.backends.worker import Worker
from tests.backends.plans import config_of, spec_of

def status(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

config, spec = config_of(), spec_of(Path(sys.argv[1]))
warm = torch.randn(64, 64) @ torch.randn(64, 64)  # libraries load on first use
before = status("VmRSS")
info = Worker(config, spec).load()
print(json.dumps({"grown": status("VmHWM") - before, "weights": info.weight_bytes}))
"""


@pytest.mark.parametrize("kernels", ["torch", "compiled"])
def test_peak_memory_of_loading(tmp_path: Path, kernels: str, monkeypatch) -> None:
    shape = {"hidden": 768, "heads": 12, "kv_heads": 4, "head_dim": 64, "intermediate": 3072, "layers": 6}
    make_qwen3(tmp_path, **shape, dtype="bfloat16", shards=3)
    monkeypatch.setenv("ENGINE_CPU_KERNELS", kernels)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    if "compiled CPU kernels" in done.stderr:
        pytest.skip("the compiled kernels are not built")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    num_weights = sum(math.prod(info.shape) for info in find_tensors(tmp_path).values())
    assert num_weights > 50e6
    assert measured["grown"] < 1.2 * 4 * num_weights, measured
    # Stricter, as some kernels keep 16-bit weights in 16 bits: beside them only a few buffers of a fixed size.
    assert measured["grown"] < measured["weights"] + 40e6, measured
