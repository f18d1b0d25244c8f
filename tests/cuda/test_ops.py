"""``CudaOps`` method by method against the reference, over shapes that are not multiples of anything."""

from __future__ import annotations

import pytest
import torch

from engine.backends.cuda.linear import Fp8Activation, Fp8Linear
from engine.backends.cuda.ops import CudaOps
from engine.errors import ConfigError
from engine.kernels.reference import ReferenceOps
from engine.kernels.triton.quantize_fp8 import dequantize_fp8, quantize_fp8

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
TOKENS, HIDDEN = 5, 37


@pytest.fixture
def ops(device: torch.device) -> CudaOps:
    return CudaOps(device, torch.float32)


@pytest.fixture
def reference(device: torch.device) -> ReferenceOps:
    return ReferenceOps(device)


@pytest.fixture
def x(device: torch.device) -> torch.Tensor:
    return torch.randn(TOKENS, HIDDEN, device=device)


def load(ops: CudaOps | ReferenceOps, out_features: int, *, bias: bool = False):
    torch.manual_seed(7)
    weight = ops.new_linear(out_features, HIDDEN, bias=bias)
    rows = torch.randn(out_features, HIDDEN) * 0.3
    weight.load_rows(0, rows[:3])
    weight.load_rows(3, rows[3:])
    if bias:
        weight.load_bias(0, torch.randn(out_features))
    return weight


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_linear(ops: CudaOps, reference: ReferenceOps, x: torch.Tensor, bias: bool) -> None:
    mine, theirs = load(ops, 29, bias=bias), load(reference, 29, bias=bias)
    close(ops.linear(x, mine), reference.linear(x, theirs))
    assert mine.num_bytes == theirs.num_bytes


@pytest.mark.parametrize("bias", [False, True])
def test_linear_residual(ops: CudaOps, reference: ReferenceOps, x: torch.Tensor, bias: bool) -> None:
    residual = torch.randn(TOKENS, 29, device=x.device)
    delta, stream = reference.linear_residual(x, load(reference, 29, bias=bias), residual.clone())
    assert delta is not None
    my_delta, my_stream = ops.linear_residual(x, load(ops, 29, bias=bias), residual)
    close(my_stream if my_delta is None else my_stream + my_delta, stream + delta)
    assert (my_delta is None) == (not bias)


def test_gated_and_plain_activations(ops: CudaOps, reference: ReferenceOps, x: torch.Tensor) -> None:
    mine, theirs = load(ops, 2 * 31), load(reference, 2 * 31)
    close(ops.linear_swiglu(x, mine), reference.linear_swiglu(x, theirs))
    for tanh in (False, True):
        close(ops.linear_geglu(x, mine, tanh=tanh), reference.linear_geglu(x, theirs, tanh=tanh))
        close(ops.linear_gelu(x, mine, tanh=tanh), reference.linear_gelu(x, theirs, tanh=tanh))


def test_norms(ops: CudaOps, reference: ReferenceOps, x: torch.Tensor) -> None:
    weight, bias = torch.rand(HIDDEN, device=x.device), torch.randn(HIDDEN, device=x.device)
    before = x.clone()
    close(ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    assert torch.equal(x, before)
    close(ops.layer_norm(x, weight, bias, 1e-5), reference.layer_norm(x, weight, bias, 1e-5))
    close(ops.layer_norm(x, weight, None, 1e-5), reference.layer_norm(x, weight, None, 1e-5))
    for delta in (None, torch.randn_like(x)):
        expected = reference.add_rms_norm(delta, x.clone(), weight, 1e-5)
        for mine, theirs in zip(ops.add_rms_norm(delta, x.clone(), weight, 1e-5), expected, strict=True):
            close(mine, theirs)


def test_shapes_that_no_kernel_takes_are_refused_before_loading(ops: CudaOps) -> None:
    with pytest.raises(ConfigError, match="rows of up to 65536 features, this model has 70000"):
        ops.new_linear(16, 70_000)


def test_score(ops: CudaOps, reference: ReferenceOps, x: torch.Tensor) -> None:
    weight, head = torch.rand(HIDDEN, device=x.device), torch.randn(2, HIDDEN, device=x.device)
    close(ops.score(x, x, weight, 1e-5, head, None), reference.score(x, x, weight, 1e-5, head, None))


def test_fp8_products_take_what_norms_give(device: torch.device) -> None:
    """The product equals that of the dequantised operands, up to the rounding of bf16."""
    ops = CudaOps(device, torch.bfloat16, fp8=True)
    weight = ops.new_linear(48, 32, bias=True)
    assert isinstance(weight, Fp8Linear)
    rows, bias = torch.randn(48, 32), torch.randn(48)
    weight.load_rows(0, rows[:5])
    weight.load_rows(5, rows[5:])
    weight.load_bias(0, bias)
    assert weight.num_bytes == 48 * 32 + 48 * 4 + 48 * 2
    x = torch.randn(7, 32, device=device, dtype=torch.bfloat16)
    for activation in (x, ops.rms_norm(x, torch.ones(32, device=device, dtype=torch.bfloat16), 1e-6)):
        values, scales = activation if isinstance(activation, Fp8Activation) else quantize_fp8(activation)
        exact = dequantize_fp8(values, scales) @ dequantize_fp8(weight.weight, weight.scales.t()).t()
        torch.testing.assert_close(
            ops.linear(activation, weight).float(), exact + bias.to(device), rtol=0.05, atol=0.35
        )
    residual = torch.randn(7, 48, device=device, dtype=torch.bfloat16)
    delta, stream = ops.linear_residual(x, weight, residual)
    assert delta is not None
    assert stream is residual
    assert isinstance(ops.linear_swiglu(x, weight), Fp8Activation)
