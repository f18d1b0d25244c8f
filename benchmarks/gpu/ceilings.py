"""What the chip itself gives: matrix products in the shapes of the models, a copy, and our kernels beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.settings import Settings, launch_seconds, time_op
from benchmarks.gpu.shapes import SHAPES, Shape

TOKENS = (512, 2048, 8192, 16_384)
CUBE = 8192
SUSTAINED_S = 2.5
"""A product over seconds is limited by power and heat, one over milliseconds is not."""


def measure_ceilings(settings: Settings) -> dict[str, Any]:
    """The ceiling of a dtype is the fastest product seen, of a large cube and of the models' own shapes."""
    cube = CUBE if settings.is_gpu else 64
    names = ("0.6B", "4B", "8B") if settings.is_gpu else ("tiny",)
    tokens = TOKENS if settings.is_gpu else (32,)
    products = [("cube", cube, cube, cube)]
    for name in names:
        products += [(f"{name} {part}", t, n, k) for part, n, k in _parts(SHAPES[name]) for t in tokens]
    result: dict[str, Any] = {"products": []}
    for label, m, n, k in products:
        row: dict[str, Any] = {"product": label, "m": m, "n": n, "k": k, "tflops": _tflops(settings, m, n, k)}
        if _has_fp8(settings):
            row["fp8_tflops"] = _fp8_tflops(settings, m, n, k)
        result["products"].append(row)
    result["tflops"] = max(row["tflops"] for row in result["products"])
    result["fp8_tflops"] = max((row["fp8_tflops"] for row in result["products"] if row.get("fp8_tflops")), default=None)
    result["sustained_tflops"] = _sustained(settings, cube)
    result["copy_gb_per_s"] = _copy_gb_per_s(settings)
    return result


def _parts(shape: Shape) -> list[tuple[str, int, int]]:
    """(name, out, in) of a layer's four products."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        ("qkv", q + 2 * kv, shape.hidden),
        ("o", shape.hidden, q),
        ("gate_up", 2 * shape.intermediate, shape.hidden),
        ("down", shape.hidden, shape.intermediate),
    ]


def _has_fp8(settings: Settings) -> bool:
    return not settings.is_gpu or torch.cuda.get_device_capability() >= (8, 9)


def _tflops(settings: Settings, m: int, n: int, k: int) -> float:
    a = torch.randn(m, k, device=settings.device, dtype=settings.dtype)
    b = torch.randn(n, k, device=settings.device, dtype=settings.dtype)
    return 2 * m * n * k / time_op(settings, lambda: a @ b.t()) / 1e12


def _sustained(settings: Settings, cube: int) -> float:
    """TFLOP/s of a large cube over ``SUSTAINED_S`` seconds without a pause."""
    a = torch.randn(cube, cube, device=settings.device, dtype=settings.dtype)
    limit = SUSTAINED_S if settings.is_gpu else 0.05
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < limit:
        for _ in range(20):
            a @ a.t()
        count += 20
        settings.synchronize()
    return 2 * cube**3 * count / (time.perf_counter() - started) / 1e12


def _fp8_tflops(settings: Settings, m: int, n: int, k: int) -> float | None:
    """None where this torch has no product with a scale a row on this device (2.11 on a CPU)."""
    from engine.kernels.triton.quantize_fp8 import quantize_fp8_torch

    a, a_scale = quantize_fp8_torch(torch.randn(m, k, device=settings.device))
    b, b_scale = quantize_fp8_torch(torch.randn(n, k, device=settings.device))

    def product() -> torch.Tensor:
        return torch._scaled_mm(
            a, b.t(), scale_a=a_scale, scale_b=b_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )

    try:
        return 2 * m * n * k / time_op(settings, product) / 1e12
    except RuntimeError:
        if settings.is_gpu:
            raise
        return None


def _copy_gb_per_s(settings: Settings) -> float:
    """Bytes read and written."""
    source = torch.empty(2**32 if settings.is_gpu else 2**20, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / time_op(settings, lambda: target.copy_(source)) / 1e9


def measure_kernels(settings: Settings) -> dict[str, Any]:
    """Bytes that each row kernel must move, a second; attention forms in microseconds a layer; and for how long one
    launch of a row kernel holds the host."""
    from engine.backends.cuda.attention import AttentionForm, GatherForm, RangeForm, measure_forms, sample_step
    from engine.kernels.triton.add_rms_norm import add_rms_norm
    from engine.kernels.triton.attention import AttentionConfig, candidate_configs
    from engine.kernels.triton.gated_activation import gated_activation
    from engine.kernels.triton.qk_norm_rope import qk_norm_rope
    from engine.kernels.triton.quantize_fp8 import quantize_fp8

    shape = SHAPES[settings.model]
    tokens = 8192 if settings.is_gpu else 3
    repeats = 20 if settings.is_gpu else 1

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=settings.device, dtype=settings.dtype)

    x, delta, weight = random(tokens, shape.hidden), random(tokens, shape.hidden) * 1e-3, random(shape.hidden)
    gate_up = random(tokens, 2 * shape.intermediate)
    heads = shape.heads + 2 * shape.kv_heads
    qkv, norm = random(tokens, heads * shape.head_dim), random(shape.head_dim)
    angles = torch.randn(tokens, shape.head_dim // 2, device=settings.device)
    positions = torch.arange(tokens, device=settings.device)
    rotated = qkv.nbytes * (shape.heads + shape.kv_heads) // heads
    rows = {
        "add_rms_norm": (4 * x.nbytes, lambda: add_rms_norm(delta, x, weight, 1e-6)),
        "add_rms_norm to fp8": (3.5 * x.nbytes, lambda: add_rms_norm(delta, x, weight, 1e-6, quantize=True)),
        "swiglu": (1.5 * gate_up.nbytes, lambda: gated_activation(gate_up)),
        "swiglu to fp8": (1.25 * gate_up.nbytes, lambda: gated_activation(gate_up, quantize=True)),
        "quantize_fp8": (1.5 * x.nbytes, lambda: quantize_fp8(x)),
        "qk_norm_rope": (
            2 * rotated,
            lambda: qk_norm_rope(
                qkv, norm, norm, 1e-6, angles, angles, positions, shape.heads, shape.kv_heads, shape.head_dim
            ),
        ),
    }
    result: dict[str, Any] = {"model": shape.name, "tokens": tokens, "gb_per_s": {}, "launch_us": {}}
    for name, (num_bytes, run) in rows.items():
        result["gb_per_s"][name] = num_bytes / time_op(settings, run, warm_up=1, repeats=repeats) / 1e9
        result["launch_us"][name] = launch_seconds(settings, run, 10 * repeats) * 1e6
    configs = candidate_configs(settings.dtype, shape.head_dim) if settings.is_gpu else [AttentionConfig(16, 16, 1, 1)]
    forms: list[AttentionForm] = [*([GatherForm()] if settings.is_gpu else []), *map(RangeForm, configs)]
    steps = {
        "1 x 40, 90 + 180": (90, [180] * 40),
        "32 of 108 with a prefix of 58": (58, [50] * 32),
        "3 of 2000": (16, [2000] * 3),
    }
    if not settings.is_gpu:
        steps = {"3 of 5": (4, [5] * 2)}
    result["attention_us"] = {}

    def seconds_of(run: Callable[[], object]) -> float:
        return time_op(settings, run, warm_up=1, repeats=repeats)

    for name, (prefix, lengths) in steps.items():
        meta = sample_step(prefix, lengths, torch.device(settings.device), shape.head_dim**-0.5)
        measured = measure_forms(
            forms, [meta], (shape.heads, shape.kv_heads, shape.head_dim), dtype=settings.dtype,
            seconds_of=seconds_of,
        )  # fmt: skip
        result["attention_us"][name] = {
            row.form.name: {"us": row.seconds * 1e6, "difference": row.difference} for row in measured
        }
        result["attention_us"][name]["flops"] = int(_attention_flops(shape, prefix, np.array(lengths)))
    return result


def _attention_flops(shape: Shape, prefix: int, lengths: np.ndarray) -> float:
    seen = prefix * prefix / 2 + (lengths * prefix + lengths * lengths / 2).sum()
    return 4 * shape.heads * shape.head_dim * float(seen)
