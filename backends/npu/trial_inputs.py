"""The inputs of the self-test of an NPU, at a model's shapes and the same each time."""

from __future__ import annotations

from typing import Any

import torch

from engine.kernels.npu import forms as npu_forms
from engine.kernels.npu.forms import PLAIN
from engine.kernels.npu.linear import QuantizedActivation
from engine.kernels.npu.ops import NpuOps
from engine.kernels.ops import LayerShape

NUM_TOKENS = 96
"""Rows of each trial; not a multiple of any tile."""
LIMIT = {torch.float32: 1e-4, torch.float16: 8e-3, torch.bfloat16: 4e-2}
"""A few roundings in the dtype, relative to the largest value."""
INT8_LIMIT = 2.5e-2
"""Of a product's or a row's largest value: an eighth of a bit more than the rounding to 127 steps."""
PRODUCT_ROWS = 32


class TrialInputs:
    """Tensors on the device, in the dtype of the model, drawn with a seed of their own."""

    def __init__(self, ops: NpuOps, shape: LayerShape) -> None:
        self.ops, self.shape, self.dtype, self.device = ops, shape, ops.dtype, ops.device
        self._generator = torch.Generator().manual_seed(0)
        self.limit = LIMIT[ops.dtype]

    def random(self, *size: int, scale: float = 1.0, offset: float = 0.0) -> torch.Tensor:
        """Normal values of the given size, times ``scale`` plus ``offset``."""
        values = torch.randn(*size, generator=self._generator) * scale + offset
        return values.to(self.dtype).to(self.device)

    def weight(self, size: int) -> torch.Tensor:
        """(size,): the weight of a norm, around one."""
        return self.random(size, scale=0.1, offset=1.0)

    def heads(self, count: int, num_tokens: int = NUM_TOKENS) -> torch.Tensor:
        """(num_tokens, count, head_dim): queries, keys or values."""
        return self.random(num_tokens, count, self.shape.head_dim)

    def angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the rotation, (NUM_TOKENS, 1, head_dim) each."""
        angles = torch.rand(NUM_TOKENS, 1, self.shape.head_dim // 2, generator=self._generator) * 6.3
        both = torch.cat([angles, angles], dim=-1)
        return both.cos().to(self.dtype).to(self.device), both.sin().to(self.dtype).to(self.device)

    def with_zeros(self, width: int) -> torch.Tensor:
        """(NUM_TOKENS, width) with one row of zeros, whose scale no division may reach."""
        x = self.random(NUM_TOKENS, width)
        x[3] = 0
        return x

    def products(self) -> list[tuple[int, int]]:
        """(in, out) of each of the layer's products."""
        shape = self.shape
        width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        up = 2 * shape.intermediate if shape.gated else shape.intermediate
        pairs = [(shape.hidden, width + 2 * kv_width), (width, shape.hidden), (shape.hidden, up)]
        return [*pairs, (shape.intermediate, shape.hidden)]

    def product_case(
        self, num_in: int, num_out: int
    ) -> tuple[QuantizedActivation, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, a weight (in, out) that repeats a few columns, its scales and its bias."""
        few = torch.randint(-127, 128, (num_in, min(num_out, 64)), generator=self._generator, dtype=torch.int8)
        weight = few.to(self.device).repeat(1, -(-num_out // 64))[:, :num_out].contiguous()
        scales = (torch.rand(num_out, generator=self._generator) + 0.5) / (127 * num_in**0.5)
        bias = torch.randn(num_out, generator=self._generator)
        x = npu_forms.QUANTIZE[PLAIN](self.random(PRODUCT_ROWS, num_in))
        return x, weight, scales.to(self.device), bias.to(self.device)

    def allowed(self, table: dict[str, Any], first: str) -> list[str]:
        """The forms of an op from ``first``, which the support tables allow, to the last."""
        names = list(table)
        return names[names.index(first) :]


def dequantized(x: QuantizedActivation) -> torch.Tensor:
    """Rounded rows as fp32 values again."""
    return x.values.float() * x.scales.float().unsqueeze(-1)
