"""Every op on the simulated device equals its reference; the tolerances are those of one rounding in the dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_npu

from engine.kernels.npu.linear import FRACTAL_NZ, NpuInt8Linear, NpuLinear, QuantizedActivation
from engine.kernels.npu.ops import NpuOps
from engine.kernels.npu.soc import Soc
from engine.kernels.reference import ReferenceOps
from tests.npu.on_device.recording import recording

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
T, D, F_SIZE, N, M = 7, 64, 96, 4, 2


def make_ops(dtype: torch.dtype, *, int8: bool = False) -> NpuOps:
    return NpuOps(torch.device("npu", 0), dtype, Soc(torch_npu.npu.get_device_name()), int8=int8)


def weight_of(ops: Any, rows: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    weight = ops.new_linear(*rows.shape, bias=bias is not None)
    half = len(rows) // 2
    weight.load_rows(0, rows[:half])
    weight.load_rows(half, rows[half:])
    if bias is not None:
        weight.load_bias(0, bias)
    return weight


def check(result: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(result.cpu(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.mark.parametrize("bias", [False, True])
def test_linear(dtype: torch.dtype, bias: bool) -> None:
    x, rows = torch.randn(T, D).to(dtype), torch.randn(F_SIZE, D) / 8
    bias_rows = torch.randn(F_SIZE) if bias else None
    ops, reference = make_ops(dtype), ReferenceOps(dtype=dtype)
    result = ops.linear(x.to("npu"), weight_of(ops, rows, bias_rows))
    check(result, reference.linear(x, weight_of(reference, rows, bias_rows)), dtype)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear_swiglu", {}),
        ("linear_geglu", {"tanh": False}),
        ("linear_geglu", {"tanh": True}),
        ("linear_gelu", {"tanh": False}),
        ("linear_gelu", {"tanh": True}),
    ],
)
def test_linear_with_activation(name: str, options: dict[str, bool], dtype: torch.dtype) -> None:
    x, rows = torch.randn(T, D).to(dtype), torch.randn(F_SIZE, D) / 4
    ops, reference = make_ops(dtype), ReferenceOps(dtype=dtype)
    result = getattr(ops, name)(x.to("npu"), weight_of(ops, rows), **options)
    check(result, getattr(reference, name)(x, weight_of(reference, rows), **options), dtype)


def test_gelu_is_exact_although_torchs_own_is_not_on_this_device() -> None:
    x = torch.linspace(-4, 4, 81)[None]
    exact = torch.nn.functional.gelu(x)
    assert (torch.nn.functional.gelu(x.to("npu")).cpu() - exact).abs().max() > 1e-4
    ops = make_ops(torch.float32)
    result = ops.linear_gelu(x.to("npu"), weight_of(ops, torch.eye(81)))
    assert (result.cpu() - exact).abs().max() < 1e-6


def test_norms(dtype: torch.dtype) -> None:
    x, delta = torch.randn(T, D).to(dtype), torch.randn(T, D).to(dtype)
    weight, bias = (torch.rand(D) + 0.5).to(dtype), torch.randn(D).to(dtype)
    ops, reference = make_ops(dtype), ReferenceOps(dtype=dtype)
    x_npu, delta_npu, weight_npu, bias_npu = (t.to("npu") for t in (x, delta, weight, bias))
    check(ops.rms_norm(x_npu, weight_npu, 1e-6), reference.rms_norm(x, weight, 1e-6), dtype)
    check(ops.layer_norm(x_npu, weight_npu, bias_npu, 1e-5), reference.layer_norm(x, weight, bias, 1e-5), dtype)
    check(ops.layer_norm(x_npu, weight_npu, None, 1e-5), reference.layer_norm(x, weight, None, 1e-5), dtype)
    for change, change_npu in ((delta, delta_npu), (None, None)):
        normed, stream = ops.add_rms_norm(change_npu, x_npu, weight_npu, 1e-6)
        normed_ref, stream_ref = reference.add_rms_norm(change, x, weight, 1e-6)
        check(normed, normed_ref, dtype)
        check(stream, stream_ref, dtype)


@pytest.mark.parametrize("head_dim", [128, 64, 48, 16])
@pytest.mark.parametrize("heads", [(N, M), (0, M), (N, 0)])
@pytest.mark.parametrize("normed", [True, False])
def test_qk_norm_rope(head_dim: int, heads: tuple[int, int], normed: bool, dtype: torch.dtype) -> None:
    num_heads, num_kv_heads = heads
    qkv = torch.randn(T, (num_heads + 2 * num_kv_heads) * head_dim).to(dtype)
    q_weight = (torch.rand(head_dim) + 0.5).to(dtype) if normed else None
    k_weight = (torch.rand(head_dim) + 0.5).to(dtype) if normed else None
    angles = torch.arange(50).float()[:, None] * torch.rand(head_dim // 2)
    positions = torch.randint(0, 50, (T,))

    def run(ops: Any, device: str) -> Any:
        tensors = [None if t is None else t.to(device) for t in (qkv, q_weight, k_weight)]
        tables = [t.to(device) for t in (angles.cos(), angles.sin(), positions)]
        return ops.qk_norm_rope(*tensors, 1e-6, *tables, num_heads, num_kv_heads, head_dim)

    for result, expected in zip(run(make_ops(dtype), "npu"), run(ReferenceOps(dtype=dtype), "cpu"), strict=True):
        assert result.shape == expected.shape
        check(result, expected, dtype)


def test_rope_factors_are_made_once_a_step(npu: torch.device) -> None:
    ops = make_ops(torch.bfloat16)
    qkv = torch.randn(T, (N + 2 * M) * 128, device=npu).to(torch.bfloat16)
    table = torch.rand(50, 64, device=npu)

    def rotate(positions: torch.Tensor) -> list[str]:
        with recording() as log:
            ops.qk_norm_rope(qkv, None, None, 1e-6, table, table, positions, N, M, 128)
        return log

    first, second = torch.arange(T, device=npu), torch.arange(T, device=npu)
    assert "aten::index_select" in rotate(first)
    assert "aten::index_select" not in rotate(first)
    assert "aten::index_select" in rotate(second)


@pytest.mark.parametrize("with_delta", [True, False])
def test_score(with_delta: bool, dtype: torch.dtype) -> None:
    residual, delta = torch.randn(3, D).to(dtype), torch.randn(3, D).to(dtype)
    weight, head, bias = (torch.rand(D) + 0.5).to(dtype), torch.randn(2, D), torch.randn(2)

    def run(ops: Any, device: str) -> torch.Tensor:
        moved = [t.to(device) for t in (residual, weight, head, bias)]
        return ops.score(delta.to(device) if with_delta else None, moved[0], moved[1], 1e-6, *moved[2:])

    result = run(make_ops(dtype), "npu").cpu()
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, run(ReferenceOps(dtype=dtype), "cpu"), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
class TestW8A8:
    """int8 weights a row, int8 activations a token: about 1 % of a product's size, never a wrong one."""

    def test_linear(self, half: torch.dtype) -> None:
        x, rows, bias = torch.randn(T, 256).to(half), torch.randn(F_SIZE, 256) / 16, torch.randn(F_SIZE)
        ops = make_ops(half, int8=True)
        weight = weight_of(ops, rows, bias)
        assert isinstance(weight, NpuInt8Linear)
        result = ops.linear(x.to("npu"), weight).cpu()
        assert result.dtype == half
        expected = torch.nn.functional.linear(x.float(), rows, bias)
        assert (result.float() - expected).norm() / expected.norm() < 0.02

    def test_weight_is_tiled_and_a_quarter_of_fp32(self, half: torch.dtype) -> None:
        weight = weight_of(make_ops(half, int8=True), torch.randn(F_SIZE, D))
        assert torch_npu.get_npu_format(weight.weight) == FRACTAL_NZ
        assert weight.num_bytes == F_SIZE * D + 4 * F_SIZE

    def test_rows_that_were_int8_come_back_the_same(self, half: torch.dtype) -> None:
        """What a W8A8 checkpoint stores, dequantized by the loader with its scales."""
        stored = torch.randint(-127, 128, (F_SIZE, D), dtype=torch.int8)
        stored[:, 0] = 127
        scales = torch.rand(F_SIZE) + 0.01
        weight = weight_of(make_ops(half, int8=True), stored.float() * scales[:, None])
        plain = torch_npu.npu_format_cast(weight.weight, 2).cpu()
        assert torch.equal(plain.t(), stored)
        torch.testing.assert_close(weight.scales.cpu(), scales)

    @pytest.mark.parametrize("features", [96, 8194])
    def test_swiglu(self, half: torch.dtype, features: int) -> None:
        """Fused with quantisation up to 8192 features, two operators beyond."""
        x, rows = torch.randn(T, D).to(half), torch.randn(features, D) / 4
        ops = make_ops(half, int8=True)
        with recording() as log:
            gated = ops.linear_swiglu(x.to("npu"), weight_of(ops, rows))
        assert ("npu::npu_swiglu_quant" in log) == isinstance(gated, QuantizedActivation) == (features <= 8192)
        result = ops._quantize(gated)
        values = result.values.cpu().float() * result.scales.cpu()[:, None]
        reference = ReferenceOps()
        expected = reference.linear_swiglu(x.float(), weight_of(reference, rows))
        assert (values - expected).norm() / expected.norm() < 0.03

    def test_add_rms_norm(self, half: torch.dtype) -> None:
        x, delta, weight = torch.randn(T, D).to(half), torch.randn(T, D).to(half), torch.ones(D).to(half)
        ops = make_ops(half, int8=True)
        normed, stream = ops.add_rms_norm(delta.to("npu"), x.to("npu"), weight.to("npu"), 1e-6)
        expected, stream_ref = ReferenceOps(dtype=half).add_rms_norm(delta, x, weight, 1e-6)
        check(stream, stream_ref, half)
        values = normed.values.cpu().float() * normed.scales.cpu()[:, None]
        assert (values - expected.float()).abs().max() < 0.02

    def test_a_row_of_zeros_stays_zero(self, half: torch.dtype) -> None:
        rows = torch.randn(F_SIZE, D)
        rows[3] = 0
        ops = make_ops(half, int8=True)
        result = ops.linear(torch.zeros(2, D).to(half).to("npu"), weight_of(ops, rows)).cpu()
        assert torch.equal(result, torch.zeros(2, F_SIZE, dtype=half))


def test_weights_too_wide_for_int8_are_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        make_ops(torch.bfloat16, int8=True).new_linear(65536, 8)


class Test310P:
    @pytest.fixture(autouse=True)
    def _soc(self, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
        monkeypatch.setattr(simulator, "soc", "Ascend310P3")

    def test_plain_weights_are_tiled(self) -> None:
        weight = weight_of(make_ops(torch.float16), torch.randn(F_SIZE, D))
        assert isinstance(weight, NpuLinear)
        assert torch_npu.get_npu_format(weight.weight) == FRACTAL_NZ

    def test_linear_swiglu(self) -> None:
        x, rows = torch.randn(T, D).half(), torch.randn(F_SIZE, D) / 4
        ops, reference = make_ops(torch.float16), ReferenceOps(dtype=torch.float16)
        result = ops.linear_swiglu(x.to("npu"), weight_of(ops, rows))
        check(result, reference.linear_swiglu(x, weight_of(reference, rows)), torch.float16)
