"""The chip's own limits in the shapes of the models, and what the operators and the engine reach of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch_npu

from benchmarks.gpu.shapes import SHAPES, Shape
from engine.kernels.npu import attention
from engine.kernels.npu.linear import FRACTAL_NZ
from engine.kernels.npu.ops import NpuOps
from engine.kernels.npu.plan import gather
from engine.kernels.npu.soc import Soc
from engine.kernels.ops import AttentionMeta

DEVICE = torch.device("npu", 0)
HALF = torch.bfloat16
TOKENS = (512, 2048, 8192)
CUBE = 8192
STEPS = {
    "1 x 40 documents, 90 + 180": (90, [180] * 40),
    "32 pairs of 108 behind a template of 58": (58, [50] * 32),
    "3 documents of 2000": (16, [2000] * 3),
}


def set_up() -> None:
    torch_npu.npu.set_device(DEVICE)
    torch_npu.npu.set_compile_mode(jit_compile=False)
    torch_npu.npu.config.allow_internal_format = True


def time_op(run: Callable[[], Any], *, repeats: int, warm_up: int = 3) -> float:
    """Seconds of one ``run``: the mean over ``repeats`` launched one after the other."""
    for _ in range(warm_up):
        run()
    begin, end = torch_npu.npu.Event(enable_timing=True), torch_npu.npu.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def parts(shape: Shape) -> list[tuple[str, int, int]]:
    """(name, out, in) of a layer's four products."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        ("qkv", q + 2 * kv, shape.hidden),
        ("o", shape.hidden, q),
        ("gate_up", 2 * shape.intermediate, shape.hidden),
        ("down", shape.hidden, shape.intermediate),
    ]


def measure_ceilings(models: list[str], *, trial: bool) -> dict[str, Any]:
    """Products in bfloat16 and int8, the weight plain (ND) and tiled (NZ), and a copy. ``trial``: tiny sizes."""
    cube, tokens, repeats = (64, (32,), 1) if trial else (CUBE, TOKENS, 10)
    products = [("cube", cube, cube, cube)]
    products += [(f"{m} {part}", t, n, k) for m in models for part, n, k in parts(SHAPES[m]) for t in tokens]
    rows: list[dict[str, Any]] = []
    for label, m, n, k in products:
        seconds = _product_seconds(m, n, k, repeats)
        rows.append({"product": label, "m": m, "n": n, "k": k} | {w: 2e-12 * m * n * k / s for w, s in seconds.items()})
    source = torch.empty(2**20 if trial else 2**32, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return {
        "tflops": max(row["bf16 ND"] for row in rows),
        "int8_tflops": max(max(row["int8 ND"], row["int8 NZ"]) for row in rows),
        "copy_gb_per_s": 2 * source.nbytes / time_op(lambda: target.copy_(source), repeats=repeats) / 1e9,
        "products": rows,
    }


def _product_seconds(m: int, n: int, k: int, repeats: int) -> dict[str, float]:
    x, weight = torch.randn(m, k).to(HALF).to(DEVICE), torch.randn(n, k).to(HALF).to(DEVICE)
    tiled = torch_npu.npu_format_cast(weight, FRACTAL_NZ)
    values, scales = torch_npu.npu_dynamic_quant(x)
    narrow = torch.randint(-127, 127, (k, n), dtype=torch.int8).to(DEVICE)
    narrow_tiled = torch_npu.npu_format_cast(narrow, FRACTAL_NZ)
    ones = torch.ones(n, device=DEVICE)

    def int8_product(w: torch.Tensor) -> torch.Tensor:
        return torch_npu.npu_quant_matmul(values, w, ones, pertoken_scale=scales, output_dtype=HALF)

    runs: dict[str, Callable[[], torch.Tensor]] = {
        "bf16 ND": lambda: torch.nn.functional.linear(x, weight),
        "bf16 NZ": lambda: torch.nn.functional.linear(x, tiled),
        "int8 ND": lambda: int8_product(narrow),
        "int8 NZ": lambda: int8_product(narrow_tiled),
    }
    return {name: time_op(run, repeats=repeats) for name, run in runs.items()}


def measure_ops(model: str, *, trial: bool) -> dict[str, Any]:
    """Bytes that each row operator must move, a second; attention in microseconds a layer."""
    shape = SHAPES[model]
    tokens, repeats = (4, 1) if trial else (8192, 20)
    ops = NpuOps(DEVICE, HALF, Soc(torch_npu.npu.get_device_name()))
    int8_ops = NpuOps(DEVICE, HALF, ops.soc, int8=True)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size).to(HALF).to(DEVICE)

    x, delta, weight = random(tokens, shape.hidden), random(tokens, shape.hidden), random(shape.hidden)
    gate_up = random(tokens, 2 * shape.intermediate)
    heads = shape.heads + 2 * shape.kv_heads
    qkv, norm = random(tokens, heads * shape.head_dim), random(shape.head_dim)
    angles = torch.randn(tokens, shape.head_dim // 2).to(DEVICE)
    positions = torch.arange(tokens, device=DEVICE)
    rotated = qkv.nbytes * (shape.heads + shape.kv_heads) // heads
    rows: dict[str, tuple[float, Callable[[], Any]]] = {
        "add_rms_norm": (4 * x.nbytes, lambda: ops.add_rms_norm(delta, x, weight, 1e-6)),
        "add_rms_norm to int8": (3.5 * x.nbytes, lambda: int8_ops.add_rms_norm(delta, x, weight, 1e-6)),
        "swiglu": (1.5 * gate_up.nbytes, lambda: torch_npu.npu_swiglu(gate_up)),
        "dynamic_quant": (1.5 * x.nbytes, lambda: torch_npu.npu_dynamic_quant(x)),
        "qk_norm_rope": (
            4 * rotated,
            lambda: ops.qk_norm_rope(
                qkv, norm, norm, 1e-6, angles, angles, positions, shape.heads, shape.kv_heads, shape.head_dim
            ),
        ),
    }
    gb_per_s = {name: size / time_op(run, repeats=repeats) / 1e9 for name, (size, run) in rows.items()}
    steps = {"2 of 3": (2, [3, 3])} if trial else STEPS
    attended = {name: _attention(ops, shape, prefix, lengths, repeats) for name, (prefix, lengths) in steps.items()}
    return {"model": model, "tokens": tokens, "gb_per_s": gb_per_s, "attention": attended}


def sample_step(prefix: int, lengths: list[int], scale: float) -> AttentionMeta:
    """A prefix and documents that see it, all in one step."""
    own = np.array([prefix, *lengths])
    starts = np.cumsum(own) - own
    return AttentionMeta(
        q_starts=starts,
        q_lens=own,
        own_starts=starts,
        own_lens=own,
        context_ids=np.array([-1, *[0] * len(lengths)]),
        context_indptr=np.array([0, 1]),
        context_ranges=np.array([[1, prefix]]),  # row 0 of this step: the pool of these steps has one slot
        kv_capacity=1,
        scale=scale,
        causal=True,
        device=DEVICE,
    )


def _attention(ops: NpuOps, shape: Shape, prefix: int, lengths: list[int], repeats: int) -> dict[str, float]:
    meta = sample_step(prefix, lengths, shape.head_dim**-0.5)
    rows = int(meta.q_lens.sum())
    q, k, v = (
        torch.randn(rows, count, shape.head_dim).to(HALF).to(DEVICE)
        for count in (shape.heads, shape.kv_heads, shape.kv_heads)
    )
    pool = k[:1]
    seconds = time_op(lambda: ops.attention(q, k, v, pool, pool, meta), repeats=repeats)
    plan = meta.cache[attention.PLAN]
    gather_s = time_op(lambda: (gather(k, pool, plan), gather(v, pool, plan)), repeats=repeats)
    seen = prefix * prefix / 2 + sum(n * prefix + n * n / 2 for n in lengths)
    flops = 4 * shape.heads * shape.head_dim * seen
    return {"us": seconds * 1e6, "gather_us": gather_s * 1e6, "tflops": flops / seconds / 1e12}
