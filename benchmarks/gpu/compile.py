"""Fills Triton's disk cache with every kernel that the other pieces launch, on the CPU cores, so that nothing timed
includes a compilation.

A driver that launches nothing stands in for CUDA, so the keys in the cache are those of the real launches.
``python -m benchmarks.gpu.compile 90 attention:16:8:0`` compiles one group for compute capability 9.0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import SHAPES

WARP = 32
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Bytes that one program may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""
NUM_TILES = 4
"""Attention tiles that may be tried for 16-bit tensors: ``candidate_configs``."""


def groups(models: Sequence[str]) -> list[str]:
    """What is compiled, each by a process of its own: ``kind:model[:tile]:dtype``. Equal heads share tiles."""
    heads = {(SHAPES[model].heads // SHAPES[model].kv_heads): model for model in reversed(models)}
    found = [f"attention:{model}:{tile}:bfloat16" for tile in range(NUM_TILES) for model in heads.values()]
    found += [f"rows:{model}:bfloat16" for model in models]
    small = models[0]
    return [*found, f"attention:{small}:0:float32", f"rows:{small}:float32"]


def compile_all(models: Sequence[str], capability: int, width: int, timeout: float) -> dict[str, Any]:
    """Compile ``groups(models)``, ``width`` processes at once; seconds in all, and the last lines of what failed."""
    started, todo = time.perf_counter(), groups(models)
    live: dict[str, subprocess.Popen[str]] = {}
    failed: dict[str, str] = {}
    num_groups = len(todo)
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    while todo or live:
        late = time.perf_counter() - started > timeout
        while todo and len(live) < width and not late:
            name = todo.pop(0)
            command = [sys.executable, "-m", "benchmarks.gpu.compile", str(capability), name]
            live[name] = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        for name, process in list(live.items()):
            if late:
                process.kill()
            if process.poll() is not None:
                _, said = process.communicate()
                if process.returncode:
                    failed[name] = "cut off" if late else "\n".join(said.splitlines()[-6:])
                del live[name]
        if late:
            failed |= dict.fromkeys(todo, "no time")
            todo = []
        time.sleep(0.05)
    return {"groups": num_groups, "failed": failed, "seconds": time.perf_counter() - started, "processes": width}


def stand_in_for_the_driver(capability: int) -> None:
    """Make Triton compile for a GPU that need not be there, and launch nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase
    from triton.runtime import driver

    class Utils:
        def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, ...]:
            return 0, 0, 32, 0, 1024

        def get_device_properties(self, device: int) -> dict[str, int]:
            return {"max_shared_mem": SHARED_MEMORY.get(capability, 101_376), "multiprocessor_count": 132}

    class NoLauncher:
        def __init__(self, source: object, metadata: object) -> None: ...

        def __call__(self, *arguments: object) -> None: ...

    class NoDriver(DriverBase):  # type: ignore[misc]
        def __init__(self) -> None:
            self.utils, self.launcher_cls = Utils(), NoLauncher
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda device: 0
            self.set_current_device = lambda device: None

        @staticmethod
        def is_active() -> bool:
            return True

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, WARP)

        def get_active_torch_device(self) -> None: ...

        def get_benchmarker(self) -> None: ...

        def map_python_to_cpp_type(self, name: str) -> str:
            return "void*"

        def get_device_interface(self) -> None: ...

        def get_empty_cache_for_benchmark(self) -> None: ...

        def clear_cache(self, cache: object) -> None: ...

    driver.set_active(NoDriver())


def launch_group(group: str) -> None:
    """The launches of one group, on tensors of a few rows: sizes that are only sizes are in no key."""
    kind, model, *rest = group.split(":")
    if kind == "attention":
        _launch_attention(model, int(rest[0]), rest[1])
    else:
        _launch_rows(model, rest[0])


def _launch_attention(model: str, tile: int, dtype_name: str) -> None:
    import torch

    from engine.backends.cuda.attention import RangeForm, sample_step
    from engine.kernels.triton.attention import candidate_configs

    shape, dtype = SHAPES[model], getattr(torch, dtype_name)
    heads, kv_heads, head_dim = shape.heads, shape.kv_heads, shape.head_dim
    configs = candidate_configs(dtype, head_dim)
    if tile >= len(configs):
        return
    form, meta = RangeForm(configs[tile]), sample_step(16, [16, 32], torch.device("cpu"), 1.0)
    tables = [torch.from_numpy(table) for table in form.tables(meta, heads // kv_heads)]
    q, k, v = torch.zeros(64, heads + 2 * kv_heads, head_dim, dtype=dtype).split([heads, kv_heads, kv_heads], dim=1)
    pool = torch.zeros(64, kv_heads, head_dim, dtype=dtype)
    form.attend(q, k, v, pool, pool, meta, tables)


def _launch_rows(model: str, dtype_name: str) -> None:
    import torch

    from engine.kernels.triton.add_rms_norm import add_rms_norm
    from engine.kernels.triton.gated_activation import gated_activation
    from engine.kernels.triton.qk_norm_rope import qk_norm_rope
    from engine.kernels.triton.quantize_fp8 import quantize_fp8
    from engine.kernels.triton.score import score

    shape, dtype, tokens = SHAPES[model], getattr(torch, dtype_name), 16
    hidden, heads, kv_heads, head_dim = shape.hidden, shape.heads, shape.kv_heads, shape.head_dim
    x, weight = torch.zeros(tokens, hidden, dtype=dtype), torch.ones(hidden, dtype=dtype)
    for quantize in (False, True) if dtype == torch.bfloat16 else (False,):
        add_rms_norm(x, x.clone(), weight, 1e-6, quantize=quantize)
        add_rms_norm(None, x.clone(), weight, 1e-6, quantize=quantize)
        gated_activation(torch.zeros(tokens, 2 * shape.intermediate, dtype=dtype), quantize=quantize)
    if dtype == torch.bfloat16:
        quantize_fp8(torch.zeros(tokens, heads * head_dim, dtype=dtype))
    for delta in (None, x):
        score(delta, x, weight, 1e-6, torch.zeros(1, hidden))
    norm, angles = torch.ones(head_dim, dtype=dtype), torch.zeros(40, head_dim // 2)
    positions = torch.zeros(tokens, dtype=torch.int64)
    for q_heads, k_heads in ((heads, kv_heads), (0, kv_heads), (heads, 0)):
        qkv = torch.zeros(tokens, (q_heads + 2 * k_heads) * head_dim, dtype=dtype)
        qk_norm_rope(qkv, norm, norm, 1e-6, angles, angles, positions, q_heads, k_heads, head_dim)


def main() -> None:
    stand_in_for_the_driver(int(sys.argv[1]))
    launch_group(sys.argv[2])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
