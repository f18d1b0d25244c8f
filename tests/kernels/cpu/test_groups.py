"""Weights of 4 bits in groups: expanded while they are multiplied, on every instruction set and in every arithmetic."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.cpu.ops import CpuOps
from engine.kernels.reference import ReferenceOps
from engine.kernels.weight_groups import INT4, INT8, UINT4, GroupedRows, GroupLayout, common_layout, quantize_rows
from tests.kernels.cpu.helpers import TOLERANCE, distance

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
IQ4 = tuple(map(float, (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)))
NF4 = (-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302,
       0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)  # fmt: skip
LAYOUTS = {
    "int4 of 32": GroupLayout(32, INT4, has_offsets=False),
    "int4 of 128": GroupLayout(128, INT4, has_offsets=False),
    "zero points of 64": GroupLayout(64, UINT4, has_offsets=True),
    "whole rows": GroupLayout(4096, UINT4, has_offsets=True),
    "nvfp4": GroupLayout(16, E2M1, has_offsets=False),
    "iq4": GroupLayout(32, IQ4, has_offsets=False),
    "nf4 of 1024": GroupLayout(1024, NF4, has_offsets=False),
}
EIGHT_BITS = {
    "a scale a row": GroupLayout(4096, INT8, has_offsets=False),
    "q6_k": GroupLayout(16, INT8, has_offsets=False),
    "zero points of 32": GroupLayout(32, INT8, has_offsets=True),
}
SHAPES = [(1, 8, 5), (7, 520, 70), (33, 1096, 257), (130, 2048, 64)]
"""Rows, inputs, outputs: around the sizes of groups, blocks and panels."""


def random_rows(
    layout: GroupLayout, num_rows: int, num_columns: int, dtype: torch.dtype = torch.float16
) -> GroupedRows:
    """Scales as formats have them, of either sign, and zero points at whole codes."""
    codes = torch.randint(0, len(layout.levels), (num_rows, num_columns), dtype=torch.uint8)
    reach = max(map(abs, layout.levels))
    scales = (torch.randn(num_rows, layout.num_groups(num_columns)).abs() + 0.2) / reach / num_columns**0.5
    scales = scales.to(dtype).float() * torch.randint(0, 2, scales.shape).mul(2).sub(1)
    offsets = -scales * torch.randint(4, 12, scales.shape) if layout.has_offsets else None
    return GroupedRows(codes, scales, offsets)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 516, 33)], ids=str)
@pytest.mark.parametrize("layout", EIGHT_BITS.values(), ids=EIGHT_BITS)
def test_8_bits_have_the_bits_of_the_dequantised_weight(
    ops_fp32: CpuOps, layout: GroupLayout, shape: tuple[int, int, int]
) -> None:
    """And are kept in fp32 arithmetic only."""
    num_rows, inputs, outputs = shape
    grouped, plain = ops_fp32.new_grouped_linear(outputs, inputs, layout), ops_fp32.new_linear(outputs, inputs)
    assert grouped is not None
    rows, x = random_rows(layout, outputs, inputs), torch.randn(num_rows, inputs)
    rows.codes[0, :3] = torch.tensor([0, 128, 255])
    grouped.load_groups(0, rows.part(slice(0, 2)))
    grouped.load_groups(2, rows.part(slice(2, None)))
    plain.load_rows(0, rows.dequantized(layout))
    found, expected = ops_fp32.linear(x, grouped), ops_fp32.linear(x, plain)
    assert torch.equal(found, expected) or (
        layout.has_offsets and distance(found, expected) < 1e-6
    )  # fused, rounded once
    assert grouped.num_bytes <= 1.02 * outputs * inputs * (1 + 8 / min(layout.group, 128)) + 32 * (inputs + 8) * 4
    assert CpuOps(1, "int16", isa=ops_fp32.isa).new_grouped_linear(outputs, inputs, layout) is None


def test_layouts_are_brought_to_a_common_one() -> None:
    own = [GroupLayout(32, UINT4, has_offsets=True), GroupLayout(16, INT8, has_offsets=False), LAYOUTS["iq4"]]
    common = common_layout(own, 64)
    assert common == GroupLayout(16, INT8, has_offsets=True)
    for layout in own:
        rows = random_rows(layout, 3, 64)
        assert torch.equal(rows.brought_to(common, layout).dequantized(common), rows.dequantized(layout))
    assert common_layout([LAYOUTS["nvfp4"], LAYOUTS["iq4"]], 64) is None  # halves are no integers


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_products(
    ops: CpuOps, reference: ReferenceOps, quantization: str | None, layout: GroupLayout, shape: tuple[int, int, int]
) -> None:
    num_rows, inputs, outputs = shape
    x, rows, bias = torch.randn(num_rows, inputs), random_rows(layout, outputs, inputs), torch.randn(outputs)
    products = []
    for owner in (ops, reference):
        weight = owner.new_grouped_linear(outputs, inputs, layout, bias=True)
        assert weight is not None
        weight.load_groups(0, rows)
        weight.load_bias(0, bias)
        products.append(owner.linear(x, weight))
    assert distance(*products) < 1.5 * TOLERANCE[quantization]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_fp32_has_the_bits_of_the_widened_weight(ops_fp32: CpuOps, layout: GroupLayout) -> None:
    rows, x = random_rows(layout, 100, 1024), torch.randn(17, 1024)
    grouped, plain = ops_fp32.new_grouped_linear(100, 1024, layout), ops_fp32.new_linear(100, 1024)
    assert grouped is not None
    grouped.load_groups(0, rows)
    plain.load_rows(0, rows.dequantized(layout))
    assert torch.equal(ops_fp32.linear(x, grouped), ops_fp32.linear(x, plain))


def test_instruction_sets_agree_on_the_integers(isa: str) -> None:
    """The expansion is a formula on integers: what one instruction set makes of it, all do."""
    layout = LAYOUTS["zero points of 64"]
    rows, x = random_rows(layout, 40, 512), torch.eye(512)
    found = []
    for name in (isa, "portable"):
        ops = CpuOps(1, "int16", isa=name)
        weight = ops.new_grouped_linear(40, 512, layout)
        assert weight is not None
        weight.load_groups(0, rows)
        found.append(ops.linear(x, weight))
    assert torch.equal(*found)


def test_gated_layers_and_rows_in_pieces(ops: CpuOps, reference: ReferenceOps, quantization: str | None) -> None:
    layout = LAYOUTS["int4 of 32"]
    rows, x = random_rows(layout, 2 * 300, 256), torch.randn(20, 256)
    ours, theirs = ops.new_grouped_linear(600, 256, layout), reference.new_grouped_linear(600, 256, layout)
    assert ours is not None
    assert theirs is not None
    theirs.load_groups(0, rows)
    for start, stop in ((300, 600), (0, 1), (1, 77), (77, 300)):
        ours.load_groups(start, GroupedRows(rows.codes[start:stop], rows.scales[start:stop], None))
    expected = reference.linear_swiglu(x, theirs)
    assert distance(ops.unpack(ops.linear_swiglu(x, ours)), expected) < 3 * TOLERANCE[quantization]


@pytest.mark.parametrize("rows", [2, 29])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(isa: str, quantization: str | None, rows: int) -> None:
    one, two = CpuOps(1, quantization, isa=isa), CpuOps(2, quantization, isa=isa)
    layout, x = LAYOUTS["int4 of 128"], torch.randn(rows, 640)
    weights = random_rows(layout, 330, 640)
    found = []
    for ops in (one, two):
        weight = ops.new_grouped_linear(330, 640, layout)
        assert weight is not None
        weight.load_groups(0, weights)
        found.append(ops.linear(x if ops is two else x[1:2], weight))
    assert torch.equal(found[0][0], found[1][1])


def test_memory_is_that_of_4_bits(ops: CpuOps, quantization: str | None) -> None:
    weight = ops.new_grouped_linear(1024, 2048, LAYOUTS["int4 of 128"])
    assert weight is not None
    scales = {None: 4, "int16": 2 + 8, "int8": 2 + 4}[quantization] / 128
    assert weight.num_bytes <= (0.5 + scales + 0.01) * 1024 * 2048


def test_layouts_that_do_not_fit_are_left_to_others(ops: CpuOps) -> None:
    assert ops.new_grouped_linear(8, 1001, LAYOUTS["int4 of 32"]) is None
    assert ops.new_grouped_linear(8, 1000, GroupLayout(48, INT4, has_offsets=False)) is None


def test_scales_that_are_no_numbers_stay_visible(ops: CpuOps) -> None:
    layout = LAYOUTS["int4 of 32"]
    weight = ops.new_grouped_linear(3, 64, layout)
    assert weight is not None
    rows = random_rows(layout, 3, 64)
    rows.scales[1, 0] = torch.nan
    weight.load_groups(0, rows)
    found = ops.linear(torch.ones(1, 64), weight)[0]
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("group", [32, 64])
def test_rows_brought_to_4_bits_are_near(group: int) -> None:
    rows = torch.randn(20, 200)
    rows[3] = 0
    found = quantize_rows(rows, group)
    wide = found.dequantized(GroupLayout(group, INT4, has_offsets=False))
    assert wide[3].abs().max() == 0
    assert distance(wide, rows) < 0.11


def test_int4_made_at_load(isa: str) -> None:
    rows, x = torch.randn(128, 256), torch.randn(9, 256)
    ops = CpuOps(1, "int4", isa=isa)
    weight = ops.new_linear(128, 256)
    weight.load_rows(0, rows.bfloat16())
    assert weight.num_bytes < 0.65 * rows.numel()
    assert distance(ops.linear(x, weight), x @ rows.T) < 0.12
