"""Row kernels against their plain-torch twins, over shapes that are not multiples of anything.

bf16 is compared within two units in the last place, because the interpreter truncates where a GPU rounds; fp8 through
the values that it stands for.
"""

from __future__ import annotations

import pytest
import torch

from engine.kernels.reference import ReferenceOps
from engine.kernels.triton.add_rms_norm import add_rms_norm
from engine.kernels.triton.gated_activation import Gate, gated_activation, gated_activation_torch
from engine.kernels.triton.launch import INTERPRETED
from engine.kernels.triton.qk_norm_rope import qk_norm_rope
from engine.kernels.triton.quantize_fp8 import dequantize_fp8, quantize_fp8, quantize_fp8_torch
from engine.kernels.triton.score import score

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # NumPy in the interpreter

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2**-6}
DTYPES = list(TOLERANCE)
FP8_ROUNDING = 2.0**-4
"""Half the distance of neighbouring e4m3 values, relative."""
WRONG_CASTS = 0.05 if INTERPRETED else 0.0
"""The interpreter loses the carry where rounding reaches the next power of two: such values come out halved."""

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(actual.float(), expected.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def assert_quantized(values: torch.Tensor, scales: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert values.dtype == torch.float8_e4m3fn
    assert scales is not None
    torch.testing.assert_close(scales.flatten() * 448, expected.float().abs().amax(1), rtol=2**-6, atol=1e-6)
    error = (dequantize_fp8(values, scales) - expected.float()).abs()
    wrong = error > expected.float().abs() * FP8_ROUNDING * 1.02 + scales * 2.0**-9
    assert wrong.float().mean() <= WRONG_CASTS
    assert (error <= expected.float().abs() * 0.51 + scales * 2.0**-9).all()


@dtypes
@pytest.mark.parametrize("columns", [1, 37, 192, 1000])
@pytest.mark.parametrize("with_delta", [True, False])
def test_add_rms_norm(dtype: torch.dtype, columns: int, with_delta: bool, device: torch.device) -> None:
    residual = torch.randn(5, columns + 3, dtype=dtype, device=device)[:, :columns]  # strided rows
    delta = torch.randn(5, columns, dtype=dtype, device=device) if with_delta else None
    weight = torch.rand(columns, dtype=dtype, device=device) + 0.5
    expected, expected_sum = ReferenceOps(device, dtype).add_rms_norm(delta, residual, weight, 1e-6)
    expected_sum = expected_sum.clone()
    y, scales = add_rms_norm(delta, residual, weight, 1e-6)
    assert scales is None
    assert_close(residual, expected_sum, dtype)
    assert_close(y, expected, dtype)


@pytest.mark.parametrize("columns", [16, 208, 1000])
def test_add_rms_norm_to_fp8(columns: int, device: torch.device) -> None:
    residual = torch.randn(3, columns, device=device)
    delta, weight = torch.randn_like(residual), torch.rand(columns, device=device) + 0.5
    expected, _ = ReferenceOps(device).add_rms_norm(delta, residual.clone(), weight, 1e-6)
    assert_quantized(*add_rms_norm(delta, residual, weight, 1e-6, quantize=True), expected)


@dtypes
@pytest.mark.parametrize("gate", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("columns", [1, 37, 1030])
def test_gated_activation(dtype: torch.dtype, gate: Gate, columns: int, device: torch.device) -> None:
    gate_up = torch.randn(3, 2 * columns, dtype=dtype, device=device) * 3
    y, scales = gated_activation(gate_up, gate)
    assert scales is None
    assert_close(y, gated_activation_torch(gate_up, gate), dtype)


@pytest.mark.parametrize("columns", [48, 1030])
def test_gated_activation_to_fp8(columns: int, device: torch.device) -> None:
    gate_up = torch.randn(3, 2 * columns, device=device) * 3
    assert_quantized(*gated_activation(gate_up, quantize=True), gated_activation_torch(gate_up))


@dtypes
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "head_dim"),
    [(1, 1, 1, 2), (3, 7, 1, 48), (19, 4, 2, 128), (5, 0, 3, 24), (5, 3, 0, 24)],
)
@pytest.mark.parametrize("with_norm", [True, False])
def test_qk_norm_rope(
    dtype: torch.dtype, tokens: int, heads: int, kv_heads: int, head_dim: int, with_norm: bool, device: torch.device
) -> None:
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype, device=device)
    weights = torch.rand(2, head_dim, dtype=dtype, device=device) + 0.5
    q_weight, k_weight = weights.unbind() if with_norm else (None, None)
    angles = torch.rand(40, head_dim // 2, device=device) * 6
    positions = torch.randint(0, 40, (tokens,), device=device)
    arguments = (q_weight, k_weight, 1e-6, angles.cos(), angles.sin(), positions, heads, kv_heads, head_dim)
    expected = ReferenceOps(device, dtype).qk_norm_rope(qkv.clone(), *arguments)
    for actual, wanted in zip(qk_norm_rope(qkv, *arguments), expected, strict=True):
        assert actual.shape == wanted.shape
        assert_close(actual, wanted, dtype)


@dtypes
@pytest.mark.parametrize(("columns", "outputs"), [(37, 1), (192, 3)])
@pytest.mark.parametrize("rows", [None, [4, 0, 6]])
@pytest.mark.parametrize("with_delta", [True, False])
def test_score(
    dtype: torch.dtype, columns: int, outputs: int, rows: list[int] | None, with_delta: bool, device: torch.device
) -> None:
    residual = torch.randn(7, columns, dtype=dtype, device=device)
    delta = torch.randn(7, columns, dtype=dtype, device=device) if with_delta else None
    norm_weight = torch.rand(columns, dtype=dtype, device=device) + 0.5
    head, bias = torch.randn(outputs, columns, device=device), torch.randn(outputs, device=device)
    index = None if rows is None else torch.tensor(rows, device=device)
    picked = slice(None) if rows is None else rows
    expected = ReferenceOps(device, dtype).score(
        None if delta is None else delta[picked], residual[picked], norm_weight, 1e-6, head, bias
    )
    actual = score(delta, residual, norm_weight, 1e-6, head, bias, index)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@dtypes
def test_quantize_fp8(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(4, 1000, dtype=dtype, device=device) * torch.tensor([[1e-3], [1.0], [300.0], [0.0]], device=device)
    x = x.to(dtype)
    assert_quantized(*quantize_fp8(x), x)
    assert_quantized(*quantize_fp8_torch(x), x)


def test_no_rows(device: torch.device) -> None:
    empty = torch.empty(0, 32, device=device)
    weight = torch.ones(32, device=device)
    assert add_rms_norm(None, empty, weight, 1e-6)[0].shape == (0, 32)
    assert gated_activation(empty)[0].shape == (0, 16)
    assert quantize_fp8(empty)[0].shape == (0, 32)
    assert score(None, empty, weight, 1e-6, torch.ones(1, 32, device=device)).shape == (0, 1)


def test_shapes_that_a_kernel_cannot_take_are_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="contiguous rows"):
        quantize_fp8(torch.randn(4, 8, device=device).t())
    with pytest.raises(ValueError, match="longer than the kernel's limit"):
        quantize_fp8(torch.zeros(1, 70_000, device=device))
    with pytest.raises(ValueError, match="heads of an even size"):
        qk_norm_rope(torch.zeros(2, 10, device=device), None, None, 0.0, *(torch.zeros(1, 1),) * 3, 1, 1, 3)
    with pytest.raises(ValueError, match="must be contiguous float32"):
        score(None, torch.zeros(1, 8), torch.ones(8), 1e-6, torch.ones(1, 8, dtype=torch.float16))
