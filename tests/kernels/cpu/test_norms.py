"""RMSNorm, LayerNorm, head norm and rotation against plain torch."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.cpu.ops import CpuOps
from engine.kernels.reference import ReferenceOps
from tests.kernels.cpu.helpers import distance

ACTIVATION_TOLERANCE = {None: 3e-7, "int16": 3e-4, "int8": 3e-2}
SHAPES = [(1, 1), (3, 5), (7, 123), (70, 1024), (5, 1030), (2, 4096)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm(ops: CpuOps, reference: ReferenceOps, quantization: str | None, shape: tuple[int, int]) -> None:
    x, weight = torch.randn(shape) * 3, torch.randn(shape[1])
    expected = reference.rms_norm(x, weight, 1e-6)
    assert distance(ops.unpack(ops.rms_norm(x, weight, 1e-6)), expected) < ACTIVATION_TOLERANCE[quantization]


def test_rms_norm_of_a_slice(ops_fp32: CpuOps, reference: ReferenceOps) -> None:
    wide, weight = torch.randn(6, 200), torch.randn(90)
    x = wide[1::2, 10:100]
    torch.testing.assert_close(ops_fp32.unpack(ops_fp32.rms_norm(x, weight, 1e-5)), reference.rms_norm(x, weight, 1e-5))


def test_add_rms_norm(ops_fp32: CpuOps, reference: ReferenceOps) -> None:
    residual, delta, weight = torch.randn(5, 64), torch.randn(5, 64), torch.randn(64)
    for part in (None, delta):
        normed, summed = ops_fp32.add_rms_norm(part, residual, weight, 1e-6)
        expected_normed, expected_summed = reference.add_rms_norm(part, residual, weight, 1e-6)
        torch.testing.assert_close(ops_fp32.unpack(normed), expected_normed)
        assert torch.equal(summed, expected_summed)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm(ops_fp32: CpuOps, reference: ReferenceOps, shape: tuple[int, int], with_bias: bool) -> None:
    x, weight = torch.randn(shape) + 2, torch.randn(shape[1])
    bias = torch.randn(shape[1]) if with_bias else None
    result = ops_fp32.layer_norm(x, weight, bias, 1e-5)
    torch.testing.assert_close(result, reference.layer_norm(x, weight, bias, 1e-5), rtol=2e-5, atol=2e-5)


def test_a_plain_norm_feeds_a_linear_layer(ops: CpuOps, reference: ReferenceOps, quantization: str | None) -> None:
    x, rows = torch.randn(11, 96), torch.randn(40, 96)
    weight, expected_weight = ops.new_linear(40, 96), reference.new_linear(40, 96)
    weight.load_rows(0, rows)
    expected_weight.load_rows(0, rows)
    normed = ops.layer_norm(x, torch.ones(96), None, 1e-5)
    expected = reference.linear(reference.layer_norm(x, torch.ones(96), None, 1e-5), expected_weight)
    assert distance(ops.linear(normed, weight), expected) < 3 * ACTIVATION_TOLERANCE[quantization] + 1e-6


@pytest.mark.parametrize(("heads", "kv_heads"), [(16, 8), (4, 1), (3, 3), (0, 2), (2, 0)])
@pytest.mark.parametrize("head_dim", [2, 16, 80, 128, 192])
@pytest.mark.parametrize("with_norm", [True, False])
def test_qk_norm_rope(
    ops_fp32: CpuOps, reference: ReferenceOps, heads: int, kv_heads: int, head_dim: int, with_norm: bool
) -> None:
    num_tokens = 9
    qkv = torch.randn(num_tokens, (heads + 2 * kv_heads) * head_dim)
    q_weight, k_weight = (torch.randn(head_dim), torch.randn(head_dim)) if with_norm else (None, None)
    angles = torch.rand(50, head_dim // 2) * 6
    positions = torch.randint(0, 50, (num_tokens,))
    arguments = (q_weight, k_weight, 1e-6, angles.cos(), angles.sin(), positions, heads, kv_heads, head_dim)
    for actual, expected in zip(
        ops_fp32.qk_norm_rope(qkv, *arguments), reference.qk_norm_rope(qkv, *arguments), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
