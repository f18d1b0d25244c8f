"""Compiles every kernel for a GPU that is not there: run by ``test_compile.py`` in a process without the interpreter.

The launchers run as always, but a launch is replaced by an ahead-of-time compilation for the compute capability given
on the command line, with the argument types and specialisations that the launch would have had. Prints one line a
kernel: its name and the bytes of shared memory. A last argument ``all`` adds every tile shape and activation,
``attention`` leaves the other kernels out, ``grouped`` all but those of 4 bits, and ``resources`` adds registers, stack
and local memory to each line.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels.ops import AttentionMeta
from engine.kernels.triton.add_rms_norm import add_rms_norm
from engine.kernels.triton.attention import (
    AttentionTables,
    candidate_configs,
    plan_tables,
    range_attention,
    tokens_per_tile,
)
from engine.kernels.triton.gated_activation import gated_activation
from engine.kernels.triton.grouped import CONFIGS, PackedGroups, expand_groups, grouped_product
from engine.kernels.triton.qk_norm_rope import qk_norm_rope
from engine.kernels.triton.quantize_fp8 import quantize_fp8
from engine.kernels.triton.score import score
from engine.kernels.weight_groups import INT4, UINT4, GroupLayout

POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.float8_e4m3fn: "*fp8e4nv",
}
TOKENS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 3, 2560, 32, 8, 128
OPTIONS = ("num_warps", "num_stages")
FORMS = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "CAUSAL", "QUANTIZE", "GATE", "GROUP")
"""What tells two variants of a kernel apart, where resources are asked for."""
ALIGNED = [["tt.divisibility", 16]]


def compile_launch(target: GPUTarget, kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    named = dict(zip(kernel.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k not in OPTIONS}
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        value = named[name]
        if isinstance(value, torch.Tensor):
            signature[name], attributes[(index,)] = POINTERS[value.dtype], ALIGNED
        elif name.isupper() or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(index,)] = ALIGNED
        else:
            signature[name] = "fp32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {name: kwargs[name] for name in OPTIONS if name in kwargs}
    compiled = triton.compile(source, target=target, options=options)
    more = resources(compiled.asm["cubin"]) if "resources" in sys.argv else []
    forms = [f"{name}={value}" for name, value in constants.items() if name in FORMS] if more else []
    print(kernel.__name__, compiled.metadata.shared, *more, *forms, *([str(options)] if more else []), flush=True)


def resources(cubin: bytes) -> list[str]:
    """Registers a thread, bytes of stack (spills are kept there) and of local memory, as the assembler decided."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        said = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(?:REG|STACK|LOCAL):\d+", said)


def launch_row_kernels(dtype: torch.dtype, *, fp8: bool, all_forms: bool) -> None:
    """Shapes of the 4B model: they decide the block sizes."""
    x, weight = torch.zeros(TOKENS, HIDDEN, dtype=dtype), torch.ones(HIDDEN, dtype=dtype)
    for quantize in (False, True) if fp8 else (False,):
        add_rms_norm(x, x.clone(), weight, 1e-6, quantize=quantize)
        gated_activation(torch.zeros(TOKENS, 2 * 9728, dtype=dtype), quantize=quantize)
    for gate in ("gelu", "gelu_tanh") if all_forms else ():
        gated_activation(torch.zeros(TOKENS, 2 * 4096, dtype=dtype), gate)
    if fp8:
        quantize_fp8(torch.zeros(TOKENS, 9728, dtype=dtype))
    qkv = torch.zeros(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM, dtype=dtype)
    angles, norm = torch.zeros(40, HEAD_DIM // 2), torch.ones(HEAD_DIM, dtype=dtype)
    positions = torch.zeros(TOKENS, dtype=torch.int64)
    qk_norm_rope(qkv, norm, norm, 1e-6, angles, angles, positions, HEADS, KV_HEADS, HEAD_DIM)
    score(None, x, weight, 1e-6, torch.zeros(1, HIDDEN))


def launch_attention(dtype: torch.dtype, *, all_forms: bool) -> None:
    one, zero = np.array([TOKENS]), np.array([0])
    q, pool = torch.zeros(TOKENS, HEADS, HEAD_DIM, dtype=dtype), torch.zeros(64, KV_HEADS, HEAD_DIM, dtype=dtype)
    k = torch.zeros(TOKENS, KV_HEADS, HEAD_DIM, dtype=dtype)
    for causal in (True, False):
        meta = AttentionMeta(zero, one, zero, one, zero, np.array([0, 1]), np.array([[0, 2]]), 64, 1.0, causal)
        for config in candidate_configs(dtype, HEAD_DIM)[: None if all_forms else 1]:
            arrays = plan_tables(meta, tokens_per_tile(config, HEADS // KV_HEADS))
            tables = AttentionTables(*map(torch.from_numpy, arrays))
            range_attention(q, k, k, pool, pool, tables, kv_capacity=64, scale=1.0, causal=causal, config=config)


def launch_grouped(dtype: torch.dtype, *, all_forms: bool) -> None:
    """Groups of 128 in the first tile shape; with ``all_forms`` every shape, nf4's table and groups within a tile."""
    x = torch.zeros(TOKENS, HIDDEN, dtype=dtype)
    layouts = [GroupLayout(128, INT4, has_offsets=False)]
    if all_forms:
        table = tuple(float(code * code) for code in range(16))
        layouts += [GroupLayout(32, UINT4, has_offsets=True), GroupLayout(16, table, has_offsets=False)]
    for layout in layouts:
        scales = torch.zeros(1024, HIDDEN // layout.group)
        codes, levels = torch.zeros(1024, HIDDEN // 2, dtype=torch.uint8), torch.zeros(16)
        weight = PackedGroups(codes, scales, scales if layout.has_offsets else None, levels, layout)
        expand_groups(weight, torch.zeros(1024, HIDDEN, dtype=dtype))
        for config in CONFIGS[: None if all_forms else 1]:
            grouped_product(x, weight, None, config)


def main() -> None:
    warnings.simplefilter("ignore")
    capability, dtype_name = int(sys.argv[1]), sys.argv[2]
    target = GPUTarget("cuda", capability, 32)
    triton.JITFunction.run = lambda self, *args, **kwargs: compile_launch(target, self, *args, **kwargs)
    dtype, all_forms = getattr(torch, dtype_name), "all" in sys.argv
    if "attention" not in sys.argv:
        launch_grouped(dtype, all_forms=all_forms)
    if "grouped" in sys.argv:
        return
    launch_attention(dtype, all_forms=all_forms)
    if "attention" not in sys.argv:
        launch_row_kernels(dtype, fp8=capability >= 89, all_forms=all_forms)


if __name__ == "__main__":
    main()
