"""Weights of 4 bits in groups that stay so: ``npu_weight_quant_batchmatmul`` dequantises them while it multiplies.

y = x @ ((w + offset) scale) + bias, with w of int4, eight to an int32 along N, (K, N/8), and scales (K/group, N) in the
dtype of x. The operator is made for a few rows: for thousands its best case is the speed of plain weights, so what it
saves is memory. Only symmetric levels are kept; offsets would be rounded to the dtype of x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_npu

from engine.kernels.weight_groups import INT4, MADE, GroupedRows, GroupLayout, quantize_rows

FUSED, DEQUANTIZED = "npu_weight_quant_batchmatmul", "plain torch"
CODES_IN_A_WORD = 8
MIN_GROUP, MAX_FEATURES = 32, 65535
ROWS_AT_ONCE = 256
"""Inputs that are packed at once: a wide copy of a whole weight would take eight times its memory."""


def fits(out_features: int, in_features: int, layout: GroupLayout) -> bool:
    """Whether the operator takes such a weight: whole groups of a multiple of 32, more than one in a row."""
    group = layout.group
    whole = group % MIN_GROUP == 0 and group < in_features and in_features % group == 0
    symmetric = layout.levels == INT4 and not layout.has_offsets
    return (
        symmetric and whole and out_features % CODES_IN_A_WORD == 0 and max(out_features, in_features) <= MAX_FEATURES
    )


class NpuGrouped:
    """Implements ``GroupedWeight``."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        layout: GroupLayout,
        *,
        bias: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.out_features, self.in_features, self.layout = out_features, in_features, layout
        self.weight = torch.empty(out_features, in_features, dtype=torch.int8, device=device)
        """(out, in) int8, -8 to 7, while rows come in; then (in, out / 8) int32."""
        self.scales = torch.empty(layout.num_groups(in_features), out_features, dtype=dtype, device=device)
        wide = torch.float32 if dtype == torch.bfloat16 else dtype  # as the operator wants it
        self.bias = torch.zeros(out_features, dtype=wide, device=device) if bias else None
        self._missing_rows = out_features

    def load_groups(self, start: int, rows: GroupedRows) -> None:
        part = slice(start, start + len(rows.codes))
        self.weight[part].copy_(rows.codes.to(torch.int8) - 8)
        self.scales[:, part].copy_(rows.scales.t().to(self.scales.dtype))
        self._missing_rows -= len(rows.codes)
        if self._missing_rows == 0:
            self.weight = _packed(self.weight)

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        """Brings rows to 4 bits."""
        self.load_groups(start, quantize_rows(rows, self.layout.group))

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias.to(self.bias.dtype))

    @property
    def num_bytes(self) -> int:
        """The bytes that it has once it is loaded."""
        codes = self.out_features * self.in_features // 2
        return codes + self.scales.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def dequantized(self) -> torch.Tensor:
        """(in, out) in the dtype of the scales."""
        shifts = torch.arange(28, -1, -4, dtype=torch.int32, device=self.weight.device)
        signed = (self.weight.unsqueeze(2) << shifts) >> 28
        codes = signed.view(self.in_features, self.out_features).to(self.scales.dtype)
        return codes * self.scales.repeat_interleave(self.layout.group, dim=0)


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """(out, in) int8 -> (in, out / 8) int32, the first of eight outputs in the lowest bits."""
    out, num_in = codes.shape
    words = torch.zeros(num_in, out // CODES_IN_A_WORD, dtype=torch.int32, device=codes.device)
    for first in range(0, num_in, ROWS_AT_ONCE):
        part = codes[:, first : first + ROWS_AT_ONCE].t().reshape(-1, out // CODES_IN_A_WORD, CODES_IN_A_WORD).int()
        for place in range(CODES_IN_A_WORD):
            words[first : first + ROWS_AT_ONCE] |= (part[:, :, place] & 15) << (4 * place)
    return words


def _fused_product(x: torch.Tensor, weight: NpuGrouped) -> torch.Tensor:
    return torch_npu.npu_weight_quant_batchmatmul(
        x.contiguous(), weight.weight, weight.scales, bias=weight.bias, antiquant_group_size=weight.layout.group
    )


def _plain_product(x: torch.Tensor, weight: NpuGrouped) -> torch.Tensor:
    """Slow: the weight is dequantised each time."""
    out = x @ weight.dequantized()
    return out if weight.bias is None else (out.float() + weight.bias.float()).to(x.dtype)


GROUPED: dict[str, Callable[[torch.Tensor, NpuGrouped], torch.Tensor]] = {
    FUSED: _fused_product,
    DEQUANTIZED: _plain_product,
}
"""(rows, weight) -> (T, out)."""


def new_made(
    out_features: int, in_features: int, *, bias: bool, device: torch.device, dtype: torch.dtype
) -> NpuGrouped | None:
    """A weight that is brought to 4 bits while it is loaded; None where the operator does not take it."""
    if not fits(out_features, in_features, MADE):
        return None
    return NpuGrouped(out_features, in_features, MADE, bias=bias, device=device, dtype=dtype)
