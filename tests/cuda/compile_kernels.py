"""Compiles every kernel for a GPU that is not there: run by ``test_compile.py`` in a process without the interpreter.

The launchers run as always, but a launch is replaced by an ahead-of-time compilation for the compute capability given
on the command line, with the argument types and specialisations that the launch would have had. Prints one line a
kernel: its name and the bytes of shared memory. A last argument ``all`` adds every tile shape and activation.
"""

from __future__ import annotations

import sys
import warnings
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
from engine.kernels.triton.qk_norm_rope import qk_norm_rope
from engine.kernels.triton.quantize_fp8 import quantize_fp8
from engine.kernels.triton.score import score

POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float8_e4m3fn: "*fp8e4nv",
}
OPTIONS = ("num_warps", "num_stages")
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
    print(kernel.__name__, compiled.metadata.shared, flush=True)


def launch_everything(dtype: torch.dtype, *, fp8: bool, all_tiles: bool) -> None:
    """Shapes of the 4B model: they decide the block sizes."""
    tokens, hidden, heads, kv_heads, head_dim = 3, 2560, 32, 8, 128
    x, weight = torch.zeros(tokens, hidden, dtype=dtype), torch.ones(hidden, dtype=dtype)
    for quantize in (False, True) if fp8 else (False,):
        add_rms_norm(x, x.clone(), weight, 1e-6, quantize=quantize)
        gated_activation(torch.zeros(tokens, 2 * 9728, dtype=dtype), quantize=quantize)
    for gate in ("gelu", "gelu_tanh") if all_tiles else ():
        gated_activation(torch.zeros(tokens, 2 * 4096, dtype=dtype), gate)
    if fp8:
        quantize_fp8(torch.zeros(tokens, 9728, dtype=dtype))
    qkv = torch.zeros(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    angles, norm = torch.zeros(40, head_dim // 2), torch.ones(head_dim, dtype=dtype)
    positions = torch.zeros(tokens, dtype=torch.int64)
    q, k, v = qk_norm_rope(qkv, norm, norm, 1e-6, angles, angles, positions, heads, kv_heads, head_dim)
    score(None, x, weight, 1e-6, torch.zeros(1, hidden))
    one, zero = np.array([tokens]), np.array([0])
    for causal in (True, False):
        meta = AttentionMeta(zero, one, zero, one, zero, np.array([0, 1]), np.array([[0, 2]]), 64, 1.0, causal)
        pool = torch.zeros(64, kv_heads, head_dim, dtype=dtype)
        for config in candidate_configs(dtype, head_dim)[: None if all_tiles else 1]:
            arrays = plan_tables(meta, tokens_per_tile(config, heads // kv_heads))
            tables = AttentionTables(*map(torch.from_numpy, arrays))
            range_attention(
                q, k, v, pool, pool, tables, kv_capacity=64, scale=1.0, causal=meta.causal, config=config
            )  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore")
    capability, dtype_name = int(sys.argv[1]), sys.argv[2]
    target = GPUTarget("cuda", capability, 32)
    triton.JITFunction.run = lambda self, *args, **kwargs: compile_launch(target, self, *args, **kwargs)
    launch_everything(getattr(torch, dtype_name), fp8=capability >= 89, all_tiles="all" in sys.argv)


if __name__ == "__main__":
    main()
