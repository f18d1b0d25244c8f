"""Products with their epilogues against plain torch, and the promise that rows do not feel their neighbours."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.cpu.ops import CpuOps
from engine.kernels.reference import ReferenceOps
from tests.kernels.cpu.helpers import TOLERANCE, both, distance

SHAPES = [(1, 1, 1), (1, 7, 33), (5, 123, 123), (13, 257, 64), (37, 1030, 96), (241, 520, 40), (3, 1024, 1025)]
"""Rows, inputs, outputs: around the tile, panel and block sizes, odd on purpose."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear(ops: CpuOps, reference: ReferenceOps, quantization: str | None, shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    x = torch.randn(rows, inputs)
    ours, theirs = both(ops, torch.randn(outputs, inputs), torch.randn(outputs))
    assert distance(ops.linear(x, ours), reference.linear(x, theirs)) < TOLERANCE[quantization]


@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_residual_is_added_in_place(
    ops: CpuOps, reference: ReferenceOps, quantization: str | None, shape: tuple[int, int, int]
) -> None:
    rows, inputs, outputs = shape
    x, residual = torch.randn(rows, inputs), torch.randn(rows, outputs)
    ours, theirs = both(ops, torch.randn(outputs, inputs), torch.randn(outputs))
    expected = residual + reference.linear(x, theirs)
    delta, updated = ops.linear_residual(x, ours, residual)
    assert delta is None
    assert updated is residual
    assert distance(updated, expected) < TOLERANCE[quantization]


def test_residual_may_have_a_stride(ops: CpuOps, reference: ReferenceOps, quantization: str | None) -> None:
    x, wide = torch.randn(9, 70), torch.randn(9, 100)
    ours, theirs = both(ops, torch.randn(50, 70))
    untouched = wide[:, 50:].clone()
    expected = wide[:, :50] + reference.linear(x, theirs)
    ops.linear_residual(x, ours, wide[:, :50])
    assert distance(wide[:, :50], expected) < TOLERANCE[quantization]
    assert torch.equal(wide[:, 50:], untouched)


@pytest.mark.parametrize("features", [1, 40, 300, 512, 1000])
@pytest.mark.parametrize("gate", ["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh"])
def test_gated_layers(ops: CpuOps, reference: ReferenceOps, quantization: str | None, gate: str, features: int) -> None:
    x = torch.randn(14, 90)
    halves = 1 if gate.startswith("gelu") else 2
    ours, theirs = both(ops, torch.randn(halves * features, 90) / 9, torch.randn(halves * features))
    run = {
        "swiglu": lambda o, w: o.linear_swiglu(x, w),
        "geglu": lambda o, w: o.linear_geglu(x, w, tanh=False),
        "geglu_tanh": lambda o, w: o.linear_geglu(x, w, tanh=True),
        "gelu": lambda o, w: o.linear_gelu(x, w),
        "gelu_tanh": lambda o, w: o.linear_gelu(x, w, tanh=True),
    }[gate]
    assert distance(ops.unpack(run(ops, ours)), run(reference, theirs)) < 3 * TOLERANCE[quantization]


def test_a_gated_activation_feeds_the_next_layer(
    ops: CpuOps, reference: ReferenceOps, quantization: str | None
) -> None:
    x = torch.randn(30, 64)
    up, up_reference = both(ops, torch.randn(2 * 700, 64) / 8)
    down, down_reference = both(ops, torch.randn(64, 700) / 26)
    expected = reference.linear(reference.linear_swiglu(x, up_reference), down_reference)
    assert distance(ops.linear(ops.linear_swiglu(x, up), down), expected) < 3 * TOLERANCE[quantization]


def test_activations_far_from_zero_saturate(ops_fp32: CpuOps, reference: ReferenceOps) -> None:
    x = torch.tensor([[-1e4], [-90.0], [-20.0], [-1e-6], [0.0], [1e-6], [20.0], [90.0], [1e4]])
    ours, theirs = both(ops_fp32, torch.ones(2, 1))
    torch.testing.assert_close(
        ops_fp32.unpack(ops_fp32.linear_swiglu(x, ours)), reference.linear_swiglu(x, theirs), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        ops_fp32.unpack(ops_fp32.linear_gelu(x, ours)), reference.linear_gelu(x, theirs), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("rows", [2, 12, 29, 250])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(isa: str, quantization: str | None, rows: int) -> None:
    one, two = CpuOps(1, quantization, isa=isa), CpuOps(2, quantization, isa=isa)
    x = torch.randn(rows, 600)
    weights = torch.randn(2 * 330, 600) / 20
    alone, _ = both(one, weights)
    together, _ = both(two, weights)
    plain, gated = two.linear(x, together), two.unpack(two.linear_swiglu(x, together))
    for row in {0, 1, rows // 2, rows - 1}:
        single = x[row : row + 1]
        assert torch.equal(one.linear(single, alone)[0], plain[row])
        assert torch.equal(one.unpack(one.linear_swiglu(single, alone))[0], gated[row])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_give_the_bits_of_fp32_ones(ops: CpuOps, dtype: torch.dtype) -> None:
    narrow = (torch.randn(70, 300) / 20).to(dtype)
    narrow[0, :4] = torch.tensor([0.0, -0.0, 6e-8, -3e-5], dtype=dtype)  # zeros and subnormals of fp16
    x = torch.randn(17, 300)
    assert torch.equal(ops.linear(x, both(ops, narrow)[0]), ops.linear(x, both(ops, narrow.float())[0]))


def test_16_bit_weights_take_half_the_memory(ops_fp32: CpuOps) -> None:
    rows = torch.randn(256, 1024)
    narrow, wide = both(ops_fp32, rows.bfloat16())[0], both(ops_fp32, rows)[0]
    assert narrow.num_bytes < 0.51 * wide.num_bytes


def test_fp32_rows_over_16_bit_ones_stay_exact(ops_fp32: CpuOps, reference: ReferenceOps) -> None:
    """What merging an adapter does."""
    rows = torch.randn(90, 300)
    weight, expected = both(ops_fp32, rows.bfloat16())
    weight.load_rows(20, rows[20:50])
    expected.load_rows(20, rows[20:50])
    x = torch.randn(4, 300)
    assert distance(ops_fp32.linear(x, weight), reference.linear(x, expected)) < TOLERANCE[None]


def test_rows_may_come_in_pieces_of_any_size_and_layout(ops: CpuOps) -> None:
    rows = torch.randn(101, 77)
    whole, _ = both(ops, rows)
    pieces = ops.new_linear(101, 77)
    wide = torch.zeros(101, 154)
    wide[:, ::2] = rows
    for start, stop in ((50, 101), (0, 1), (1, 33), (33, 50)):
        pieces.load_rows(start, wide[start:stop, ::2])
    x = torch.randn(6, 77)
    assert torch.equal(ops.linear(x, pieces), ops.linear(x, whole))


def test_no_rows_are_no_work(ops: CpuOps) -> None:
    weight, _ = both(ops, torch.randn(64, 32))
    empty = torch.empty(0, 32)
    assert ops.linear(empty, weight).shape == (0, 64)
    assert ops.unpack(ops.linear_swiglu(empty, weight)).shape == (0, 32)
    assert ops.unpack(ops.rms_norm(empty, torch.ones(32), 1e-6)).shape == (0, 32)


def test_impossible_calls_are_refused(ops: CpuOps) -> None:
    weight, _ = both(ops, torch.randn(64, 32))
    with pytest.raises(ValueError, match="32 inputs got an activation of 31"):
        ops.linear(torch.randn(2, 31), weight)
    with pytest.raises(ValueError, match="fp32 matrices"):
        ops.linear(torch.randn(2, 32, dtype=torch.float64), weight)
    with pytest.raises(ValueError, match="contiguous rows"):
        ops.linear(torch.randn(32, 2).T, weight)
    with pytest.raises(ValueError, match="does not fit"):
        ops.linear_residual(torch.randn(2, 32), weight, torch.randn(2, 63))
    with pytest.raises(ValueError, match="do not fit a weight of 32 columns"):
        weight.load_rows(0, torch.randn(2, 33))
    with pytest.raises(IndexError, match="do not fit a weight of 64 rows"):
        weight.load_rows(63, torch.randn(2, 32))
    with pytest.raises(RuntimeError, match="before its rows were loaded"):
        ops.linear(torch.randn(2, 32), ops.new_linear(64, 32))
